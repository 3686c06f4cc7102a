"""Worlds: distributions of Markov decision processes, many of which run side by side in tensors."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import inf
from typing import Any, Literal, Protocol

import torch
from torch import Tensor

from innerloop.errors import InputError, nearest
from innerloop.tasks.source import generator_of


class Episodes(Protocol):
    """Trajectories that run side by side, ``[tasks, trajectories]`` of them."""

    @property
    def observation(self) -> Tensor:
        """What is seen now, ``[tasks, trajectories, observations]``."""
        ...

    def step(self, action: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Act ``[tasks, trajectories, actions]``: what is seen then, reward and whether the episode ended, ``[tasks, trajectories]``.

        An episode that has ended may go on or stand still: nobody looks at it. Where a time limit of the world's own can end
        one, ``cut`` tells of which episodes it did so in this step, ``[tasks, trajectories]``; it may be left out.
        """
        ...


class World(Protocol):
    """Where tasks of reinforcement learning come from: task *i* of a split is a function of (seed, split, i).

    A task is a row of numbers; ``begin`` starts episodes of several tasks at once.
    """

    @property
    def seed(self) -> int: ...

    @property
    def observations(self) -> int:
        """Numbers of an observation."""
        ...

    @property
    def actions(self) -> int:
        """Numbers of an action; with ``discrete``, how many there are to choose from."""
        ...

    @property
    def discrete(self) -> bool: ...

    @property
    def horizon(self) -> int:
        """Steps after which an episode is cut."""
        ...

    def tasks(self, split: str, first: int, count: int) -> Tensor:
        """Tasks ``first`` … ``first + count − 1`` of a split, ``[count, numbers of a task]``."""
        ...

    def identity(self, tasks: Tensor) -> Tensor:
        """What an oracle is told of each task, ``[count, numbers]``."""
        ...

    def begin(self, tasks: Tensor, trajectories: int, generators: Sequence[torch.Generator]) -> Episodes:
        """So many episodes of each task, with whatever is random in a task drawn from its generator."""
        ...


Reward = Literal["distance", "squared"]
Stop = Literal["box", "radius", "never"]


@dataclass(frozen=True)
class Navigation:
    """A point in the plane walks to a goal that it does not see: x ← x + clip(scale · a, ±bound), reward −|x − goal| or its square.

    It sees where it is. All points of all tasks move at once, on whatever device actions are.

    Args:
        goals: tasks' goals are from U[−goals, goals]².
        starts: a task's episodes begin at a point of U[−starts, starts]², the same for all of them; 0 for the origin.
        centres: of Gaussians that goals come from, each as often, in the place of the square.
        spread: deviation of these Gaussians.
        reward: ``distance``, which MAML's printed returns are of, or ``squared`` as its text has it.
        bound: largest step along each axis.
        scaled: actions of ±1 are steps of ±bound, as in rllab's code; without, actions are steps.
        stop: an episode ends within 0.01 of the goal along both axes (``box``, MAML's code), at a
            distance below 0.01 (``radius``, its text), or at the horizon alone (``never``).
        horizon: steps of an episode.
        seed: any whole number.

    >>> world = Navigation()
    >>> world.tasks("train", first=0, count=20).shape  # goal, start, and which Gaussian
    torch.Size([20, 5])
    >>> episodes = world.begin(torch.tensor([[0.3, 0.4, 0.0, 0.0, 0.0]]), 1, [torch.Generator()])
    >>> seen, reward, ended = episodes.step(torch.zeros(1, 1, 2))
    >>> reward
    tensor([[-0.5000]])

    Raises:
        InputError: a setting cannot be used.

    Source: Finn et al. 2017, arXiv:1703.03400, §5.3; cbfinn/maml_rl, ``point_env_randgoal.py``.
    """

    goals: float = 0.5
    starts: float = 0.0
    centres: tuple[tuple[float, float], ...] = ()
    spread: float = 0.5
    reward: Reward = "distance"
    bound: float = 0.1
    scaled: bool = True
    stop: Stop = "box"
    horizon: int = 100
    seed: int = 0

    observations, actions, discrete = 2, 2, False

    def __post_init__(self) -> None:
        for name, value, known in (("reward", self.reward, ("distance", "squared")), ("stop", self.stop, ("box", "radius", "never"))):
            if value not in known:
                raise InputError(f"{name} is {value!r}; {nearest(value, known)}")
        if min(self.goals, self.starts, self.spread) < 0 or not 0 < self.bound < inf or self.horizon < 1:
            raise InputError(
                f"goals is {self.goals}, starts {self.starts}, spread {self.spread}, bound {self.bound} and horizon {self.horizon}; "
                "give ranges of 0 or more, a bound above 0, and 1 step or more"
            )

    def tasks(self, split: str, first: int, count: int) -> Tensor:
        return torch.stack([self._task(generator_of(self.seed, split, i)) for i in range(first, first + count)])

    def _task(self, generator: torch.Generator) -> Tensor:
        mode = torch.zeros(1)
        if self.centres:
            mode = torch.randint(len(self.centres), (1,), generator=generator)
            goal = torch.tensor(self.centres)[mode[0]] + self.spread * torch.randn(2, generator=generator)
        else:
            goal = self.goals * (2 * torch.rand(2, generator=generator) - 1)
        start = self.starts * (2 * torch.rand(2, generator=generator) - 1)
        return torch.cat([goal, start, mode])

    def identity(self, tasks: Tensor) -> Tensor:
        """The goal."""
        return tasks[..., :2]

    def begin(self, tasks: Tensor, trajectories: int, generators: Sequence[torch.Generator]) -> Episodes:
        return _Walk(self, tasks, trajectories)


class _Walk:
    """Points on their way."""

    def __init__(self, world: Navigation, tasks: Tensor, trajectories: int):
        self.world, self.goal = world, tasks[:, None, :2]
        self.observation = tasks[:, None, 2:4].expand(-1, trajectories, -1)

    def step(self, action: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        world = self.world
        moved = (world.bound * action if world.scaled else action).clamp(-world.bound, world.bound)
        self.observation = self.observation + moved
        apart = self.observation - self.goal
        squared = apart.square().sum(-1)
        ended = {"box": (apart.abs() < NEAR).all(-1), "radius": squared < NEAR**2, "never": squared < 0}[world.stop]
        return self.observation, -(squared if world.reward == "squared" else squared.sqrt()), ended


NEAR = 0.01
"""Of a goal: there an episode ends."""


@dataclass(frozen=True)
class Around:
    """A world that is another one but for what its class changes."""

    world: Any

    @property
    def seed(self) -> int:
        return self.world.seed

    @property
    def observations(self) -> int:
        return self.world.observations

    @property
    def actions(self) -> int:
        return self.world.actions

    @property
    def discrete(self) -> bool:
        return self.world.discrete

    @property
    def horizon(self) -> int:
        return self.world.horizon

    def tasks(self, split: str, first: int, count: int) -> Tensor:
        return self.world.tasks(split, first, count)

    def identity(self, tasks: Tensor) -> Tensor:
        return self.world.identity(tasks)

    @property
    def filmed(self) -> Any:
        """How the world around which this one is makes itself filmed, where it does."""
        inner = getattr(self.world, "filmed", None)
        return inner and (lambda *how: replace(self, world=inner(*how)))  # type: ignore[type-var]

    def begin(self, tasks: Tensor, trajectories: int, generators: Sequence[torch.Generator]) -> Episodes:
        return self.world.begin(tasks, trajectories, generators)


@dataclass(frozen=True)
class Told(Around):
    """A world that shows the task beside what is seen: for the oracle.

    >>> Told(Navigation()).observations
    4

    Source: Finn et al. 2017, arXiv:1703.03400, §5.3 (baseline c).
    """

    @property
    def observations(self) -> int:
        return self.world.observations + self.world.identity(self.world.tasks("train", 0, 1)).shape[-1]

    def begin(self, tasks: Tensor, trajectories: int, generators: Sequence[torch.Generator]) -> Episodes:
        return _ToldEpisodes(self.world.begin(tasks, trajectories, generators), self.identity(tasks))


def without_telling(world: Any) -> Any:
    """The same world with nothing told: what an oracle is told is no part of the task.

    >>> without_telling(Told(Navigation())) == Navigation()
    True
    """
    if isinstance(world, Told):
        return without_telling(world.world)
    return replace(world, world=without_telling(world.world)) if isinstance(world, Around) else world


class _ToldEpisodes:
    def __init__(self, plain: Episodes, identity: Tensor):
        self.plain, self.identity = plain, identity[:, None]

    @property
    def cut(self) -> Tensor | None:
        return getattr(self.plain, "cut", None)

    def _with(self, seen: Tensor) -> Tensor:
        return torch.cat([seen, self.identity.to(seen).expand(*seen.shape[:-1], -1)], -1)

    @property
    def observation(self) -> Tensor:
        return self._with(self.plain.observation)

    def step(self, action: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        seen, reward, ended = self.plain.step(action)
        return self._with(seen), reward, ended
