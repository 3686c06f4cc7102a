"""Families of tasks for MALTML: related tasks to learn the family from, and goal tasks to be good at."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.func import vmap

from innerloop.batches import map_tensors
from innerloop.errors import InputError
from innerloop.learner import Learner, Task
from innerloop.params import Params
from innerloop.rl.rollouts import Experience, Rollouts
from innerloop.rl.worlds import Around, Navigation, Told
from innerloop.tasks.source import generator_of


class FamilyWorld(Protocol):
    """A world whose tasks come in families; as a plain world, each of its tasks is of another family."""

    @property
    def seed(self) -> int: ...

    def families(self, split: str, first: int, count: int, tasks: int) -> Tensor:
        """So many tasks of each of the families ``first`` … ``first + count − 1``, ``[count, tasks, numbers of a task]``."""
        ...


@dataclass(frozen=True)
class Rectangles(Around):
    """Navigation whose families are rectangles in the unit square: all goals of a family are from its own.

    Sides are from U[least, most], and the rectangle lies anywhere in the square that it fits into.

    Args:
        world: the plane that is walked in, or ``Told`` of one; its own goals are not used.
        least, most: length of a side, of the unit square's; the paper's 25 % to 75 %.

    >>> goals = Rectangles().families("train", first=0, count=3, tasks=7)[..., :2]
    >>> goals.shape, bool((goals.abs() <= 0.5).all())
    (torch.Size([3, 7, 2]), True)

    Raises:
        InputError: sides do not fit into the square.

    Source: Devos & Dandi 2020, "Model-Agnostic Learning to Meta-Learn", §4.2.
    """

    world: Navigation | Told = field(default_factory=Navigation)
    least: float = 0.25
    most: float = 0.75

    def __post_init__(self) -> None:
        if not 0 < self.least <= self.most <= 1:
            raise InputError(f"sides are from {self.least} to {self.most}; give 0 < least ≤ most ≤ 1")

    def families(self, split: str, first: int, count: int, tasks: int) -> Tensor:
        return torch.stack([self._family(generator_of(self.seed, split, "family", i), tasks) for i in range(first, first + count)])

    def _family(self, generator: torch.Generator, tasks: int) -> Tensor:
        sides = self.least + (self.most - self.least) * torch.rand(2, generator=generator)
        corner = (1 - sides) * torch.rand(2, generator=generator) - 0.5
        goals = corner + sides * torch.rand(tasks, 2, generator=generator)
        return torch.cat([goals, torch.zeros(tasks, 3)], -1)

    def tasks(self, split: str, first: int, count: int) -> Tensor:
        return self.families(split, first, count, 1).squeeze(1)


@dataclass(frozen=True)
class FamilyExperience:
    """How MALTML meets a family: rollouts of related tasks by the prior and by what it adapts to, then of goal tasks by the family's prior.

    Four phases: pre- and post-update rollouts of the related tasks, the meta-step, and the same of the goal tasks.

    Args:
        experience: of single tasks; its world is a ``FamilyWorld``.
        base: what adapts to a task.
        related: tasks that tell of the family.
        goals: tasks that are asked.
        goal: what adapts to these, where it is not ``base``, such as one with more steps.

    >>> from innerloop.methods import maltml, maml
    >>> from innerloop.rl import gaussian_mlp, judged, score
    >>> policy = gaussian_mlp(2, 8, 2)
    >>> base = judged(maml(policy, score(policy), steps=1, rate=0.1), policy)
    >>> met = FamilyExperience(Experience(Rectangles(Navigation(horizon=5)), 4), base, related=3, goals=2)
    >>> families = met.gather(maltml(base), base.prior, "train", first=0, count=2)
    >>> families.query.query.rewards.shape  # families, goals, trajectories, time
    torch.Size([2, 2, 4, 5])
    """

    experience: Experience
    base: Learner
    related: int = 5
    goals: int = 2
    goal: Learner | None = None

    def __post_init__(self) -> None:
        if self.related < 1 or self.goals < 1:
            raise InputError(f"related is {self.related} and goals {self.goals}; give 1 or more")
        if not hasattr(self.world, "families"):
            raise InputError(f"{type(self.world).__name__} has no families of tasks; use a world like Rectangles")

    def __str__(self) -> str:
        return f"{self.experience} in families of {self.related} and {self.goals}"

    @property
    def world(self) -> Any:
        """Where families come from."""
        return self.experience.world

    def gather(self, learner: Learner, prior: Params, split: str, first: int, count: int) -> Task:
        """Families of a split as the learner meets them: its steps are meta-steps, each on fresh rollouts of the related tasks."""
        like = next(iter(prior.values()))
        every = self.world.families(split, first, count, self.related + self.goals).to(like.device, like.dtype)
        related, goals = every[:, : self.related], every[:, self.related :]
        params = {name: p.expand(count, *p.shape) for name, p in prior.items()}
        support = []
        for k, step in enumerate(learner.steps):
            keys = [(self.world.seed, split, i, "related", k, j) for i in range(first, first + count) for j in range(self.related)]
            support.append(self._met(self.base, params, related, keys))
            with torch.no_grad():
                params = vmap(step)(params, support[-1])
        keys = [(self.world.seed, split, i, "goal", j) for i in range(first, first + count) for j in range(self.goals)]
        return Task(support, self._met(self.goal or self.base, params, goals, keys))

    def _met(self, learner: Learner, params: Params, tasks: Tensor, keys: Sequence[tuple[object, ...]]) -> Task:
        """Tasks of each family by the family's parameters, ``[families, tasks, …]``."""
        families, n = tasks.shape[:2]
        own = {name: p.repeat_interleave(n, 0) for name, p in params.items()}
        met = self.experience.follow(learner, own, tasks.flatten(0, 1), keys)
        return map_tensors(lambda t: t.unflatten(0, (families, n)), met)

    def points(self, learner: Learner, families: Task) -> list[Rollouts]:
        """The goal tasks' rollouts before the first step that counts and after each of them, ``[families · goals, …]``."""
        return map_tensors(lambda t: t.flatten(0, 1), self.experience.points(self.goal or self.base, families.query))

    def asked(self, split: str, first: int, count: int) -> Tensor:
        """The families that are asked: tasks that tell of each, and its goals."""
        return self.world.families(split, first, count, self.related + self.goals)

    def going(self, learner: Learner, steps: int) -> tuple[Learner, "FamilyExperience"]:
        """The learner, whose meta-steps stay as many, and the same with so many steps on each goal task."""
        return learner, replace(self, goal=(self.goal or self.base).taking(steps))


@dataclass(frozen=True)
class Drifting(Around):
    """A robot's world whose gravity changes while it learns: each step of adaptation, and then the query, is under another one.

    A family is a course of gravity, linear from one value to another; its tasks differ in the
    robot's goal. What is learned first must help with what comes later.

    Args:
        world: of a robot, such as ``locomotion("cheetah", "velocity")``.
        stages: of the course; beyond the last one, gravity stays.
        gravity: least and most, in metres per second², downwards.

    Source: Devos & Dandi 2020, "Model-Agnostic Learning to Meta-Learn", §4.2; the range of gravity: Kaplanis et al. 2019, arXiv:1902.00255.
    """

    stages: int = 4
    gravity: tuple[float, float] = (7.0, 17.0)

    def __post_init__(self) -> None:
        if self.stages < 2 or not 0 < self.gravity[0] <= self.gravity[1]:
            raise InputError(f"stages is {self.stages} and gravity {self.gravity}; give 2 stages or more, and 0 < least ≤ most")
        if isinstance(self.world, Navigation):
            raise InputError(
                "the world is a plane, where gravity changes nothing; give a robot's, such as locomotion('cheetah', 'velocity')"
            )

    def families(self, split: str, first: int, count: int, tasks: int) -> Tensor:
        """``[count, tasks, stages, goal and gravity]``."""
        least, most = self.gravity
        courses = []
        for i in range(first, first + count):
            ends = least + (most - least) * torch.rand(2, generator=generator_of(self.world.seed, split, "gravity", i))
            course = -(ends[0] + (ends[1] - ends[0]) * torch.linspace(0, 1, self.stages))
            goals = self.world.tasks(f"{split}/goals of {i}", 0, tasks)
            courses.append(torch.cat([goals[:, None].expand(-1, self.stages, -1), course.expand(tasks, -1).unsqueeze(-1)], -1))
        return torch.stack(courses)

    def tasks(self, split: str, first: int, count: int) -> Tensor:
        return self.families(split, first, count, 1).squeeze(1)
