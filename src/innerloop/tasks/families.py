"""Families of tasks: a distribution over distributions of tasks, for learning to meta-learn."""

from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from innerloop.batches import map_tensors, some
from innerloop.errors import InputError, nearest
from innerloop.learner import Batch, Task
from innerloop.tasks.curves import Curves, Range


class Related(NamedTuple):
    """A goal task's batch, and the tasks of its family that come with it, stacked."""

    batch: Batch
    tasks: Task


@dataclass(frozen=True)
class Families:
    """Each family is a few tasks of a kind of curve that share some of their coefficients: related ones, and goals.

    A family is a task whose support is ``related`` tasks and whose query is ``goals`` tasks: what
    ``maltml`` learns from. ``Goals`` are its goals one by one.

    Args:
        curves: where tasks come from, such as ``Sinusoids(shots=5, queries=5)``.
        shared: names of the coefficients that a family has in common; they must be ranges of ``curves``.
        related: tasks L of a family that are shown.
        goals: tasks of a family that are asked.
        goal_queries: query points of goals where they are not as many as related tasks'.

    >>> from innerloop.tasks import Sinusoids
    >>> family = Families(Sinusoids(shots=5, queries=5)).draw("train", first=0, count=10)
    >>> family.support.support[0].shape, family.query.query[1].shape  # [families, tasks, points, 1]
    (torch.Size([10, 5, 5, 1]), torch.Size([10, 2, 5, 1]))

    Raises:
        InputError: there is no such coefficient, or no task of a kind.

    Source: Devos & Dandi 2020, "Model-Agnostic Learning to Meta-Learn", §3.1 and §4.1.
    """

    curves: Curves
    shared: tuple[str, ...] = ("phase",)
    related: int = 5
    goals: int = 2
    goal_queries: int | None = None

    def __post_init__(self) -> None:
        if min(self.related, self.goals) < 1:
            raise InputError(f"a family has {self.related} related tasks and {self.goals} goals; it needs at least one of each")
        for name in self.shared:
            if name not in self.curves.COEFFICIENTS:
                raise InputError(f"{type(self.curves).__name__} has no {name!r} to share; {nearest(name, self.curves.COEFFICIENTS)}")

    @property
    def seed(self) -> int:
        return self.curves.seed

    def draw(self, split: str, first: int, count: int) -> Task:
        """Families ``first`` … ``first + count − 1`` of a split, stacked."""
        n = self.related + self.goals
        own = self.curves.coefficients(split, first * n, count * n)

        def families(curves: Curves) -> Any:
            drawn = self._in_families(curves.draw(split, first * n, count * n), own)
            return map_tensors(lambda t: t.unflatten(0, (count, n)), drawn)

        shown = families(self.curves)
        asked = shown if self.goal_queries is None else families(replace(self.curves, queries=self.goal_queries))
        return Task(map_tensors(lambda t: t[:, : self.related], shown), map_tensors(lambda t: t[:, self.related :], asked))

    def coefficients(self, split: str, first: int, count: int) -> Tensor:
        """Those of the same families' tasks, ``[families, L + goals, c]``."""
        n = self.related + self.goals
        return self._shared(self.curves.coefficients(split, first * n, count * n)).unflatten(0, (count, n))

    def _shared(self, own: Tensor) -> Tensor:
        """Coefficients ``[tasks, c]`` with the first task's of each family where they are shared."""
        n = self.related + self.goals
        firsts = own[::n].repeat_interleave(n, 0)
        shared = torch.tensor([name in self.shared for name in self.curves.COEFFICIENTS])
        return torch.where(shared, firsts, own)

    def _in_families(self, drawn: Task, before: Tensor) -> Task:
        """Tasks with y of their family's coefficients in the place of their own; noise and points stay."""
        after = self._shared(before)
        told = self.curves.known(after)

        def part(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
            points = x[..., 0]
            y = y + (self.curves.curve(after, points) - self.curves.curve(before, points)).unsqueeze(-1)
            if told is not None:
                x = torch.cat([x[..., :1], told.unsqueeze(1).expand(-1, x.shape[1], -1)], dim=-1)
            return x, y

        return Task(part(*drawn.support), part(*drawn.query))


@dataclass(frozen=True)
class Goals:
    """The goals of families one by one, each with its family's related tasks as ``Related``: what ``meta_finetuned`` adapts to.

    Args:
        families: goal *i* is of family *i* ÷ ``families.goals``.

    >>> from innerloop.tasks import Sinusoids
    >>> goals = Goals(Families(Sinusoids(shots=5, queries=5))).draw("test", first=0, count=4)
    >>> goals.support.batch[0].shape, goals.support.tasks.support[0].shape
    (torch.Size([4, 5, 1]), torch.Size([4, 5, 5, 1]))
    """

    families: Families

    @property
    def seed(self) -> int:
        return self.families.seed

    @property
    def x(self) -> Range:
        return self.families.curves.x

    def draw(self, split: str, first: int, count: int) -> Task:
        """Goals ``first`` … ``first + count − 1`` of a split, stacked."""
        n = self.families.goals
        family, offset = divmod(first, n)
        drawn = self.families.draw(split, family, (offset + count - 1) // n + 1)
        related = map_tensors(lambda t: t.repeat_interleave(n, 0), drawn.support)
        goals: Any = map_tensors(lambda t: t.flatten(0, 1), drawn.query)
        return some(Task(Related(goals.support, related), goals.query), offset, offset + count)

    def coefficients(self, split: str, first: int, count: int) -> Tensor:
        """Those of the same goals, ``[goals, c]``."""
        n, own = self.families.goals, self.families
        family, offset = divmod(first, n)
        every = own.coefficients(split, family, (offset + count - 1) // n + 1)[:, own.related :]
        return every.flatten(0, 1)[offset : offset + count]

    def curve(self, drawn: Tensor, x: Tensor) -> Tensor:
        """y without noise at x ``[…, points]`` of coefficients ``[…, c]``."""
        return self.families.curves.curve(drawn, x)
