"""Families of N-way K-shot tasks: the classes of one alphabet or superclass, or images that are all changed alike."""

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Self

import torch
from torch import Tensor

from innerloop.batches import map_tensors
from innerloop.errors import InputError
from innerloop.learner import Task
from innerloop.tasks.changes import Changes
from innerloop.tasks.families import check_family, related_and_goals
from innerloop.tasks.images import BLOCK, ImageTasks, chosen, shown_and_asked
from innerloop.tasks.source import from_blocks, generator_of, kept


@dataclass(frozen=True, eq=False)
class ImageFamilies:
    """Each family has tasks of one group of classes, such as an alphabet, and changes of its own, or both.

    Of the changes, each is drawn once for the family with probability ``common``, and for every image anew otherwise:
    what is common tells the family, and a learner of its tasks had better not mind the rest.

    Args:
        tasks: N-way K-shot tasks of the whole set; a family's are drawn likewise among fewer classes.
        related: tasks L of a family that are shown.
        goals: tasks of a family that are asked.
        grouped: whether the classes of a family are of one group; of all the split otherwise.
        labelled: where False, neither labels nor groups are used: every image is a class of its own, and its support and
            query are changed copies.
        changes: what is done to images; nothing where None.
        common: probability that a change is the same for a whole family.

    >>> import numpy
    >>> from innerloop.images import Class, images
    >>> pixels = [numpy.full((4, 28, 28, 1), k, numpy.uint8) for k in range(12)]
    >>> noise = images("noise", [Class(str(k), pixels[k], group="abc"[k % 3]) for k in range(12)])
    >>> families = ImageFamilies(ImageTasks(noise, {"train": range(12)}, ways=3, shots=1, queries=2))
    >>> families.draw("train", first=0, count=2).query.support[0].shape  # [families, goals, N · K, channels, height, width]
    torch.Size([2, 2, 3, 1, 28, 28])

    Raises:
        InputError: there are no tasks of a kind, no group of a split has N classes, or nothing makes a family.

    Source: Devos & Dandi 2020, "Model-Agnostic Learning to Meta-Learn", §4.2.
    """

    tasks: ImageTasks
    related: int = 5
    goals: int = 2
    grouped: bool = True
    labelled: bool = True
    changes: Changes | None = None
    common: float = 1.0

    def __post_init__(self) -> None:
        check_family(self.related, self.goals)
        if not 0 <= self.common <= 1:
            raise InputError(f"common is {self.common}; give a probability from 0 to 1")
        if self.grouped:
            self._check_groups()
        elif self.changes is None or not self.common:
            raise InputError("nothing makes a family: classes are of all groups and no change is common; group them or give changes")
        if not self.labelled and self.grouped:
            raise InputError("groups are of labels, which are not to be used; give grouped=False and changes")

    def _check_groups(self) -> None:
        for split, groups in self.groups.items():
            if not groups:
                raise InputError(
                    f"no group in {split!r} of {self.tasks.images.name} has {self.tasks.ways} classes; ask for fewer ways, or take a set "
                    "with groups, such as alphabets"
                )

    @property
    def seed(self) -> int:
        return self.tasks.seed

    @cached_property
    def groups(self) -> dict[str, list[Tensor]]:
        """The groups of N classes or more, by split: which of the split's classes are of each."""
        found = {}
        for split, classes in self.tasks.classes.items():
            named = [self.tasks.images.groups[k] for k in classes]
            masks = [torch.tensor([own == group for own in named]) for group in dict.fromkeys(named) if group]
            found[split] = [mask for mask in masks if int(mask.sum()) >= self.tasks.ways]
        return found

    def on(self, device: str) -> Self:
        """The same families, gathered on a device."""
        return replace(self, tasks=self.tasks.on(device))

    def draw(self, split: str, first: int, count: int) -> Task:
        """Families ``first`` … ``first + count − 1`` of a split, stacked."""
        self.tasks.check_split(split)
        n = self.related + self.goals
        which, turn = from_blocks(lambda b: _of_families(self, split, b), BLOCK, first * n, count * n)
        x = self.tasks.gathered(which, turn)
        if self.changes is not None:
            x = self._changed(x.unflatten(0, (count, n)), self.changes, split, first).flatten(0, 1)
        drawn = map_tensors(lambda t: t.unflatten(0, (count, n)), shown_and_asked(x, self.tasks.shots))
        return related_and_goals(drawn, self.related)

    def _changed(self, x: Tensor, changes: Changes, split: str, first: int) -> Tensor:
        """Images ``[families, tasks, N, K + Q, channels, height, width]``, each family's changed as that family does."""
        found = []
        for i, own in enumerate(x):
            generator = generator_of(self.seed, split, first + i, "changes")
            of_all, anew = changes.drawn(generator), changes.drawn(generator, *own.shape[:-3])
            shared = torch.rand(len(of_all), generator=generator) < self.common
            found.append(changes.applied(own, torch.where(shared, of_all, anew), generator))
        return torch.stack(found)

    def __repr__(self) -> str:
        made = {"groups": self.grouped, "no labels": not self.labelled, repr(self.changes): self.changes}
        of = ", ".join(name for name, there in made.items() if there)
        return f"ImageFamilies({self.tasks!r}, {self.related} related and {self.goals} goals, {of})"


@kept
def _of_families(families: ImageFamilies, split: str, block: int) -> tuple[Tensor, Tensor]:
    """Numbers of images and turns of a block of tasks: of each family's group, or of any image at all."""
    tasks = families.tasks
    if not families.labelled:
        own, counts, starts = tasks.numbers[split], tasks.numbers["counts"], tasks.numbers["starts"]
        images = torch.cat([starts[k] + torch.arange(int(counts[k])) for k in own])
        keys = torch.rand(BLOCK, len(images), generator=generator_of(families.seed, split, block, "unlabelled"))
        which = images[keys.topk(tasks.ways).indices]
        return which[..., None].expand(-1, -1, tasks.shots + tasks.queries), torch.zeros_like(which)
    if not families.grouped:
        return chosen(tasks, split, block)
    groups = families.groups[split]
    family = [task // (families.related + families.goals) for task in range(block * BLOCK, (block + 1) * BLOCK)]
    group = {f: int(len(groups) * torch.rand((), generator=generator_of(families.seed, split, f, "group"))) for f in dict.fromkeys(family)}
    return chosen(tasks, split, block, torch.stack([groups[group[f]] for f in family]))
