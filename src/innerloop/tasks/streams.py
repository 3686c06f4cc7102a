"""Continual regression: curves that come one after the other, and are asked for all together at the end."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from innerloop.batches import map_tensors
from innerloop.errors import InputError
from innerloop.learner import Task
from innerloop.tasks.curves import Curves
from innerloop.tasks.families import Kin, check_family, related_and_goals
from innerloop.tasks.source import generator_of


@dataclass(frozen=True)
class Streams:
    """Tasks of F curves in a row: the support is a list of F · U batches, one for each step, and the query has points of all curves.

    Every x is ``(x, one-hot number of its curve)``. Which curve has which number is drawn for each task,
    so that the number tells nothing of the order.

    Args:
        curves: where they come from; each shows its ``shots`` points in ``updates`` batches.
        functions: curves F of a task.
        updates: batches U of each curve.
        shared: names of the coefficients that the curves of a task have in common.

    >>> from innerloop.tasks import Sinusoids
    >>> task = Streams(Sinusoids(shots=50, queries=32), functions=10, updates=5).draw("train", first=0, count=4)
    >>> len(task.support), task.support[0][0].shape, task.query[0].shape  # batches; [tasks, points, 1 + F]
    (50, torch.Size([4, 10, 11]), torch.Size([4, 320, 11]))

    Raises:
        InputError: points cannot be shared out among batches, or there is no such coefficient.

    Source: Javed & White 2019, arXiv:1905.12588 (OML), §4.1: incremental sine waves.
    """

    curves: Curves
    functions: int = 10
    updates: int = 5
    shared: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if min(self.functions, self.updates) < 1 or self.curves.shots % self.updates:
            raise InputError(
                f"{self.functions} functions of {self.curves.shots} points in {self.updates} updates each; give one function or more, and "
                "points that updates share out evenly"
            )
        Kin(self.curves, self.shared, self.functions)

    @property
    def seed(self) -> int:
        return self.curves.seed

    def draw(self, split: str, first: int, count: int) -> Task:
        """Tasks ``first`` … ``first + count − 1`` of a split, stacked."""
        return self.in_a_row(Kin(self.curves, self.shared, self.functions).draw(split, first, count), split, first)

    def in_a_row(self, drawn: Any, split: str, first: int) -> Task:
        """Curves ``[tasks, F, points, 1]`` as streams, the first of which is task ``first``."""
        n, f = len(drawn.query[0]), self.functions
        numbers = torch.stack([torch.randperm(f, generator=generator_of(self.seed, split, first + i, "numbers")) for i in range(n)])

        def told(x: Tensor) -> Tensor:
            which = torch.nn.functional.one_hot(numbers, f).to(x)
            return torch.cat([x, which[:, :, None].expand(-1, -1, x.shape[2], -1)], dim=-1)

        (x, y), (asked, answer) = drawn
        shown = zip(*(part.unflatten(2, (self.updates, -1)).flatten(1, 2).unbind(1) for part in (told(x), y)), strict=True)
        return Task([*shown], (told(asked).flatten(1, 2), answer.flatten(1, 2)))


@dataclass(frozen=True)
class StreamFamilies:
    """Families of streams: all curves of a family's tasks share some coefficients, such as their frequency.

    Args:
        streams: what tasks are; its ``shared`` are what a family has in common.
        related: tasks L of a family that are shown.
        goals: tasks of a family that are asked.

    >>> from innerloop.tasks import Sinusoids
    >>> waves = Sinusoids(shots=50, queries=32, frequency=(0.5, 1.5))
    >>> family = StreamFamilies(Streams(waves, shared=("frequency",))).draw("train", first=0, count=3)
    >>> family.support.support[0][0].shape  # [families, tasks, points, 1 + F]
    torch.Size([3, 5, 10, 11])

    Source: Devos & Dandi 2020, "Model-Agnostic Learning to Meta-Learn", §4.2.
    """

    streams: Streams
    related: int = 5
    goals: int = 2

    def __post_init__(self) -> None:
        check_family(self.related, self.goals)

    @property
    def seed(self) -> int:
        return self.streams.seed

    def draw(self, split: str, first: int, count: int) -> Task:
        """Families ``first`` … ``first + count − 1`` of a split, stacked."""
        n, f = self.related + self.goals, self.streams.functions
        curves = Kin(self.streams.curves, self.streams.shared, n * f).draw(split, first, count)
        tasks = map_tensors(lambda t: t.unflatten(1, (n, f)).flatten(0, 1), curves)
        drawn = self.streams.in_a_row(tasks, split, first * n)
        return related_and_goals(map_tensors(lambda t: t.unflatten(0, (count, n)), drawn), self.related)
