"""Families of tasks: a distribution over distributions of tasks, for learning to meta-learn."""

from dataclasses import dataclass, replace
from typing import Any, NamedTuple, Protocol, Self

import torch
from torch import Tensor

from innerloop.batches import map_tensors, some
from innerloop.errors import InputError, nearest
from innerloop.learner import Batch, Task
from innerloop.tasks.curves import Curves, Range
from innerloop.tasks.source import Source, named_source, on


class Related(NamedTuple):
    """A goal task's batch, and the tasks of its family that come with it, stacked."""

    batch: Batch
    tasks: Task


class OfFamilies(Source, Protocol):
    """A source of families: the support of each is related tasks, and the query so many goals."""

    @property
    def goals(self) -> int: ...


def related_and_goals(drawn: Task, related: int) -> Task:
    """Families ``[families, tasks, …]`` cut into the first so many tasks of each and the rest."""
    return Task(map_tensors(lambda t: t[:, :related], drawn), map_tensors(lambda t: t[:, related:], drawn))


def check_family(related: int, goals: int) -> None:
    """See that a family has tasks of both kinds."""
    if min(related, goals) < 1:
        raise InputError(f"a family has {related} related tasks and {goals} goals; it needs at least one of each")


@dataclass(frozen=True)
class Kin:
    """Curves in groups that share some of their coefficients; noise and points are each curve's own.

    Args:
        curves: where they come from.
        shared: names of the coefficients that a group has in common; they must be ranges of ``curves``.
        size: curves of a group.

    Raises:
        InputError: there is no such coefficient.
    """

    curves: Curves
    shared: tuple[str, ...]
    size: int

    def __post_init__(self) -> None:
        for name in self.shared:
            if name not in self.curves.COEFFICIENTS:
                raise InputError(f"{type(self.curves).__name__} has no {name!r} to share; {nearest(name, self.curves.COEFFICIENTS)}")

    def draw(self, split: str, first: int, count: int) -> Any:
        """Groups ``first`` … ``first + count − 1`` of a split, ``[groups, size, …]``."""
        n = self.size
        own = self.curves.coefficients(split, first * n, count * n)
        drawn = self._in_groups(self.curves.draw(split, first * n, count * n), own)
        return map_tensors(lambda t: t.unflatten(0, (count, n)), drawn)

    def coefficients(self, split: str, first: int, count: int) -> Tensor:
        """Those of the same groups' curves, ``[groups, size, c]``."""
        n = self.size
        return self._shared(self.curves.coefficients(split, first * n, count * n)).unflatten(0, (count, n))

    def _shared(self, own: Tensor) -> Tensor:
        """Coefficients ``[curves, c]`` with the first curve's of each group where they are shared."""
        firsts = own[:: self.size].repeat_interleave(self.size, 0)
        shared = torch.tensor([name in self.shared for name in self.curves.COEFFICIENTS])
        return torch.where(shared, firsts, own)

    def _in_groups(self, drawn: Task, before: Tensor) -> Task:
        """Curves with y of their group's coefficients in the place of their own."""
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
        check_family(self.related, self.goals)
        self._kin(self.curves)

    @property
    def seed(self) -> int:
        return self.curves.seed

    def draw(self, split: str, first: int, count: int) -> Task:
        """Families ``first`` … ``first + count − 1`` of a split, stacked."""
        drawn = related_and_goals(self._kin(self.curves).draw(split, first, count), self.related)
        if self.goal_queries is None:
            return drawn
        asked = self._kin(replace(self.curves, queries=self.goal_queries)).draw(split, first, count)
        return drawn._replace(query=related_and_goals(asked, self.related).query)

    def coefficients(self, split: str, first: int, count: int) -> Tensor:
        """Those of the same families' tasks, ``[families, L + goals, c]``."""
        return self._kin(self.curves).coefficients(split, first, count)

    def _kin(self, curves: Curves) -> Kin:
        return Kin(curves, self.shared, self.related + self.goals)


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

    families: OfFamilies

    @property
    def seed(self) -> int:
        return self.families.seed

    def draw(self, split: str, first: int, count: int) -> Task:
        """Goals ``first`` … ``first + count − 1`` of a split, stacked."""
        n = self.families.goals
        family, offset = divmod(first, n)
        drawn = self.families.draw(split, family, (offset + count - 1) // n + 1)
        related = map_tensors(lambda t: t.repeat_interleave(n, 0), drawn.support)
        goals: Any = map_tensors(lambda t: t.flatten(0, 1), drawn.query)
        return some(Task(Related(goals.support, related), goals.query), offset, offset + count)

    def on(self, device: str) -> Self:
        """The same goals, made on a device."""
        return replace(self, families=on(self.families, device))

    def coefficients(self, split: str, first: int, count: int) -> Tensor:
        """Those of the same goals where they are of curves, ``[goals, c]``."""
        n, own = self.families.goals, self.of_curves
        family, offset = divmod(first, n)
        every = own.coefficients(split, family, (offset + count - 1) // n + 1)[:, own.related :]
        return every.flatten(0, 1)[offset : offset + count]

    @property
    def of_curves(self) -> Families:
        """The families, where they are of curves.

        Raises:
            InputError: they are of something else.
        """
        if not isinstance(self.families, Families):
            raise InputError(f"{named_source(self.families)} is not of curves, which alone have coefficients; take Families(…)")
        return self.families

    @property
    def x(self) -> Range:
        return self.of_curves.curves.x

    def curve(self, drawn: Tensor, x: Tensor) -> Tensor:
        """y without noise at x ``[…, points]`` of coefficients ``[…, c]``."""
        return self.of_curves.curves.curve(drawn, x)


@dataclass(frozen=True)
class Unrelated:
    """The first goal of each family alone: tasks of all families, for methods that ignore these.

    Args:
        families: best with a single related task and goal, as the others are drawn in vain.

    >>> from innerloop.tasks import Sinusoids
    >>> Unrelated(Families(Sinusoids(5), related=1, goals=1)).draw("train", first=0, count=25).support[0].shape
    torch.Size([25, 5, 1])
    """

    families: OfFamilies

    @property
    def seed(self) -> int:
        return self.families.seed

    def draw(self, split: str, first: int, count: int) -> Task:
        """Tasks ``first`` … ``first + count − 1`` of a split, stacked."""
        return map_tensors(lambda t: t[:, 0], self.families.draw(split, first, count).query)

    def on(self, device: str) -> Self:
        """The same tasks, made on a device."""
        return replace(self, families=on(self.families, device))
