"""N-way K-shot classification: tell N classes apart after K images of each."""

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal, Protocol, Self

import torch
from torch import Tensor

from innerloop.batches import onto
from innerloop.errors import InputError, nearest
from innerloop.images import Images
from innerloop.learner import Task
from innerloop.tasks.source import from_blocks, generator_of, kept

BLOCK = 128  # tasks whose images are chosen at once

Turns = Literal["none", "tasks", "classes"]


class Drawn(Protocol):
    """What the choice of a task's classes and examples depends on."""

    @property
    def ways(self) -> int: ...
    @property
    def shots(self) -> int: ...
    @property
    def queries(self) -> int: ...
    @property
    def turns(self) -> Turns: ...
    @property
    def seed(self) -> int: ...
    @property
    def numbers(self) -> dict[str, Tensor]: ...


@dataclass(frozen=True, eq=False)
class ImageTasks:
    """Tasks of N classes with K support and Q query images each, no image in both; y is 0 … N − 1.

    Which class has which number is drawn anew for each task, so nothing is known before adaptation.

    Args:
        images: the set.
        classes: numbers of the set's classes by split, such as ``{"train": range(1100), "test": range(1200, 1623)}``.
        ways: classes N of a task.
        shots: support images K of each class.
        queries: query images Q of each class.
        turns: ``tasks`` turns each class of a task by 0°, 90°, 180° or 270°, drawn for each
            task; ``classes`` takes every class in four turns for four classes.
        mean, sd: of each channel, in units of the full range, taken off and divided by.
        channels: 3 gives grey images three equal channels, as where sets are mixed; those of the set where None.
        device: where images are kept and gathered; the whole set goes there, unless ``cpu``.
        seed: any whole number.

    >>> import numpy
    >>> from innerloop.images import Class, images
    >>> noise = images("noise", [Class(str(k), numpy.full((20, 28, 28, 1), k, numpy.uint8)) for k in range(8)])
    >>> task = ImageTasks(noise, {"train": range(8)}, ways=5, shots=1, queries=2).draw("train", first=0, count=32)
    >>> task.support[0].shape, task.query[1].shape  # images [tasks, N · K, channels, height, width], labels [tasks, N · Q]
    (torch.Size([32, 5, 1, 28, 28]), torch.Size([32, 10]))

    The classes and support of task *i* do not depend on how many query images are asked for.

    Raises:
        InputError: a split has fewer than N classes, one twice, one that there is not, or one of fewer than K + Q images.
    """

    images: Images
    classes: Mapping[str, Sequence[int]]
    ways: int = 5
    shots: int = 1
    queries: int = 15
    turns: Turns = "none"
    mean: Sequence[float] = (0.0,)
    sd: Sequence[float] = (1.0,)
    channels: int | None = None
    device: str = "cpu"
    seed: int = 0

    def __post_init__(self) -> None:
        if min(self.ways, self.shots, self.queries) < 1:
            raise InputError(f"a task has {self.ways} ways, {self.shots} shots and {self.queries} queries; it needs at least one of each")
        if self.turns not in ("none", "tasks", "classes"):
            raise InputError(f"turns is {self.turns!r}; {nearest(self.turns, ('none', 'tasks', 'classes'))}")
        own, height, width = self.images.shape
        channels = self.channels or own
        if own not in (1, channels):
            raise InputError(f"{self.images.name} has images of {own} channels, which cannot be shown in {channels}; leave channels out")
        if self.turns != "none" and height != width:
            raise InputError(f"images of {height} × {width} cannot be turned; make them square or leave turns out")
        for name, values in (("mean", self.mean), ("sd", self.sd)):
            if len(values) not in (1, channels):
                raise InputError(f"{name} has {len(values)} numbers for images of {channels} channels; give one for each")
        for split, classes in self.classes.items():
            if len({*classes}) < len(classes) or not {*classes} <= {*range(len(self.images.classes))}:
                raise InputError(
                    f"{split!r} is of the classes {_some(classes)}; give each once, by numbers from 0 to {len(self.images.classes) - 1}"
                )
            there = len(classes) * (4 if self.turns == "classes" else 1)
            if there < self.ways:
                raise InputError(
                    f"{self.ways} ways need as many classes, and {split!r} of {self.images.name} has {there}; ask for fewer ways"
                )
            few = min(classes, key=lambda k: self.images.counts[k])
            if self.images.counts[few] < self.shots + self.queries:
                raise InputError(
                    f"class {self.images.classes[few]!r} in {split!r} of {self.images.name} has {self.images.counts[few]} images, and "
                    f"{self.shots} shots and {self.queries} queries need {self.shots + self.queries}; ask for fewer or leave the class out"
                )

    def draw(self, split: str, first: int, count: int) -> Task:
        """Tasks ``first`` … ``first + count − 1`` of a split, stacked."""
        self.check_split(split)
        which, turn = from_blocks(lambda b: chosen(self, split, b), BLOCK, first, count)
        return shown_and_asked(self.gathered(which, turn), self.shots)

    def check_split(self, split: str) -> None:
        """See that there is such a split."""
        if split not in self.classes:
            raise InputError(f"{self.images.name} has no split {split!r}; {nearest(split, self.classes)}")

    def on(self, device: str) -> Self:
        """The same tasks, gathered on a device."""
        return self if device == self.device else replace(self, device=device)

    def gathered(self, which: Tensor, turn: Tensor) -> Tensor:
        """Images by number, turned by quarters ``[tasks, N]``, as floats ``[tasks, N, K + Q, channels, height, width]``."""
        if torch.device(self.device).type == "cpu":
            x = torch.from_numpy(self.images.pixels[which.numpy()])
        else:
            x = self._there[onto(which, self.device)]
        return self._scaled(_turned(x, turn) if self.turns != "none" else x)

    def _scaled(self, x: Tensor) -> Tensor:
        """Bytes with channels last as floats with channels first."""
        x = x.movedim(-1, -3).to(torch.float32, memory_format=torch.contiguous_format).div_(255)
        if self.channels:
            x = x.expand(*x.shape[:-3], self.channels, *x.shape[-2:]).contiguous()
        mean, sd = self._levels
        return x.sub_(mean).div_(sd)

    @cached_property
    def _levels(self) -> list[Tensor]:
        """Mean and deviation, ``[channels, 1, 1]`` each, on the device."""
        return onto([torch.tensor(values).view(-1, 1, 1) for values in (self.mean, self.sd)], self.device)

    @cached_property
    def numbers(self) -> dict[str, Tensor]:
        """Classes of each split, and of all classes the ``counts`` of images and their ``starts``."""
        lists = {**self.classes, "counts": self.images.counts, "starts": self.images.starts}
        return {name: torch.tensor(list(numbers)) for name, numbers in lists.items()}

    @cached_property
    def _there(self) -> Tensor:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "The given NumPy array is not writable")  # and is not written to
            return torch.from_numpy(self.images.pixels[:]).to(self.device)

    def __repr__(self) -> str:
        turns = f", turns {self.turns}" if self.turns != "none" else ""
        return f"ImageTasks({self.images.name}, {self.ways}-way {self.shots}-shot, {self.queries} queries{turns}, seed={self.seed})"


def _turned(x: Tensor, turn: Tensor) -> Tensor:
    """Images ``[tasks, N, …, height, width, channels]`` turned by so many quarters ``[tasks, N]``."""
    found = x.flatten(0, 1).clone()
    for quarters in (1, 2, 3):
        rows = onto((turn.flatten() == quarters).nonzero()[:, 0], x.device)  # found where turn is, so that no device is waited for
        found.index_copy_(0, rows, torch.rot90(found.index_select(0, rows), quarters, (-3, -2)))
    return found.unflatten(0, x.shape[:2])


def shown_and_asked(x: Tensor, shots: int) -> Task:
    """Examples ``[tasks, N, K + Q, …]`` as support and query, with the number of the class as y."""
    y = torch.arange(x.shape[1], device=x.device).expand(len(x), -1)
    parts = x[:, :, :shots], x[:, :, shots:]
    return Task(*((part.flatten(1, 2), y.repeat_interleave(part.shape[2], 1)) for part in parts))


@kept
def chosen(tasks: Drawn, split: str, block: int, allowed: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Numbers of images ``[tasks, N, K + Q]`` and quarters that each class is turned by ``[tasks, N]``, of a block of tasks.

    Args:
        allowed: which of the split's classes each task may have, ``[tasks, classes]``; all where None.
    """

    def keys(what: str, *shape: int) -> Tensor:
        return torch.rand(BLOCK, *shape, generator=generator_of(tasks.seed, split, block, what))

    own, counts, starts = tasks.numbers[split], tasks.numbers["counts"], tasks.numbers["starts"]
    kinds = len(own) * (4 if tasks.turns == "classes" else 1)
    found = keys("classes", kinds)
    if allowed is not None:
        found = found.where(allowed.repeat(1, kinds // len(own)), -1.0)
    picks = found.topk(tasks.ways).indices
    turn = picks // len(own) if tasks.turns == "classes" else (4 * keys("turns", tasks.ways)).long()
    picks = own[picks % len(own)]
    among = keys("images", tasks.ways, int(counts[own].max()))
    there = torch.arange(among.shape[-1]) < counts[picks][..., None]
    images = among.where(there, -1.0).topk(tasks.shots + tasks.queries).indices
    return starts[picks][..., None] + images, turn


@dataclass(frozen=True, eq=False)
class ImageBatches:
    """Batches of images of all classes of the ``train`` split, y being the number of the class there.

    What a classifier is pretrained on; support and query are the same ``size`` images.
    """

    tasks: ImageTasks
    size: int = 64

    @property
    def seed(self) -> int:
        return self.tasks.seed

    def on(self, device: str) -> Self:
        """The same batches, gathered on a device."""
        return replace(self, tasks=self.tasks.on(device))

    def draw(self, split: str, first: int, count: int) -> Task:
        """Batches ``first`` … ``first + count − 1``, stacked; those of ``val`` are other draws of the same classes."""
        own, counts, starts = (self.tasks.numbers[what] for what in ("train", "counts", "starts"))
        keys = torch.stack(
            [torch.rand(2, self.size, generator=generator_of(self.seed, split, i, "batch")) for i in range(first, first + count)]
        )
        y = (keys[:, 0] * len(own)).long()
        which = starts[own[y]] + (keys[:, 1] * counts[own[y]]).long()
        pair = self.tasks.gathered(which[:, :, None], torch.zeros_like(y))[:, :, 0], onto(y, self.tasks.device)
        return Task(pair, pair)

    def __repr__(self) -> str:
        return f"ImageBatches({self.tasks.images.name}, {self.size} images, seed={self.seed})"


def _some(numbers: Sequence[int]) -> str:
    return ", ".join(map(str, numbers[:8])) + (", …" if len(numbers) > 8 else "")
