"""Classification tasks that differ in everything: the set, the ways, the shots of each class."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from math import ceil, log
from typing import Self

import torch
from torch import Tensor

from innerloop.batches import onto
from innerloop.errors import InputError, nearest
from innerloop.learner import Task
from innerloop.tasks.images import ImageTasks
from innerloop.tasks.source import generator_of


@dataclass(frozen=True, eq=False)
class VariedTasks:
    """Tasks of one of several sets, with N ways and classes of unequal size, as Meta-Dataset draws them.

    The set and N ~ U{fewest … most} are drawn first. Each class then has Q query images, with Q half of
    the smallest class's and at most ``queries``; of those left, the support takes a part β ~ U(0, 1], shared among
    the classes by their sizes times exp(a), a ~ U(log ½, log 2): at least 1 image each.

    Tasks have different shapes, so they are drawn, trained and scored one at a time: ``meta_batch=1``.
    A network needs as many outputs as there can be ways.

    Args:
        sets: where tasks come from, by name; their classes, turns and scaling count, their ways and shots do not.
        fewest, most: ways, as far as a set has classes.
        queries: most query images of each class.
        support: most support images of a task.
        each: most images of a class that count for the size of the support.
        seed: any whole number.

    Raises:
        InputError: there is no set, or a set has no split with ``fewest`` classes of 2 images.

    Source: Triantafillou et al. 2020, arXiv:1903.03096, §3.2 and App. A; classes are drawn without their hierarchy.
    """

    sets: Mapping[str, ImageTasks]
    fewest: int = 5
    most: int = 50
    queries: int = 10
    support: int = 500
    each: int = 100
    seed: int = 0

    together = 1
    """How many tasks can be stacked."""

    def __post_init__(self) -> None:
        if not self.sets or not 1 <= self.fewest <= self.most:
            raise InputError(
                f"there are {len(self.sets)} sets and {self.fewest} to {self.most} ways; give one or more, the fewer ways first"
            )

    def draw(self, split: str, first: int, count: int) -> Task:
        """Task ``first`` of a split, as a stack of one."""
        if count != 1:
            raise InputError(f"{count} tasks of different shapes cannot be stacked; draw one at a time, with meta_batch=1 and chunk=1")
        g = generator_of(self.seed, split, first, "varied")
        there = [name for name in sorted(self.sets) if split in self.sets[name].classes]
        if not there:
            raise InputError(f"no set has a split {split!r}; {nearest(split, {s for tasks in self.sets.values() for s in tasks.classes})}")
        tasks = self.sets[there[_below(len(there), g)]]
        own, counts, starts = (tasks.numbers[what] for what in (split, "counts", "starts"))
        own = own[counts[own] > 1]
        if len(own) < self.fewest:
            raise InputError(f"{tasks.images.name} has {len(own)} classes of 2 images or more in {split!r}, fewer than {self.fewest} ways")
        ways = self.fewest + _below(min(self.most, len(own)) - self.fewest + 1, g)
        chosen = own[torch.randperm(len(own), generator=g)[:ways]]
        sizes = counts[chosen]
        queries = min(self.queries, int(sizes.min()) // 2)
        shots = self._shots(sizes, queries, g)
        images = [start + torch.randperm(int(n), generator=g) for start, n in zip(starts[chosen].tolist(), sizes.tolist(), strict=True)]
        turns = (4 * torch.rand(ways, generator=g)).long()
        shown = [(k, turns[k], picks[: shots[k]]) for k, picks in enumerate(images)]
        asked = [(k, turns[k], picks[shots[k] : shots[k] + queries]) for k, picks in enumerate(images)]
        return Task(_stacked(tasks, shown), _stacked(tasks, asked))

    def _shots(self, sizes: Tensor, queries: int, g: torch.Generator) -> list[int]:
        """Support images of each class."""
        part = 1 - torch.rand((), generator=g).item()
        left = (sizes - queries).tolist()
        total = min(self.support, sum(ceil(part * min(self.each, n)) for n in left))
        share = sizes * (log(0.5) + (log(2) - log(0.5)) * torch.rand(len(sizes), generator=g)).exp()
        more = (share / share.sum() * max(total - len(left), 0)).long().tolist()
        return [min(1 + m, n) for m, n in zip(more, left, strict=True)]

    def on(self, device: str) -> Self:
        """The same tasks, gathered on a device."""
        return replace(self, sets={name: tasks.on(device) for name, tasks in self.sets.items()})

    def __repr__(self) -> str:
        return f"VariedTasks({', '.join(sorted(self.sets))}; {self.fewest} to {self.most} ways, seed={self.seed})"


def _below(n: int, g: torch.Generator) -> int:
    return int(torch.randint(n, (), generator=g))


def _stacked(tasks: ImageTasks, parts: list[tuple[int, Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    """Images and labels of one task, with an axis in front."""
    which = torch.cat([images for _, _, images in parts])
    turn = torch.cat([turn.expand(len(images)) for _, turn, images in parts])
    y = torch.cat([torch.full((len(images),), k) for k, _, images in parts])
    return tasks.gathered(which[None, :, None], turn[None])[:, :, 0], onto(y[None], tasks.device)
