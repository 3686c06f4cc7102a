"""Worlds made of gymnasium's environments: vectors of them, or single ones that know how to change their task."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from innerloop.errors import InputError
from innerloop.rl.worlds import NEAR, Episodes, Navigation
from innerloop.tasks.source import generator_of

MISSING = "needs gymnasium; install it with MuJoCo by: pip install 'innerloop[rl]'"

try:
    import gymnasium
    from gymnasium.vector import AutoresetMode, SyncVectorEnv, VectorEnv
except ImportError as problem:  # pragma: no cover, a machine without the extra
    raise InputError(f"this world {MISSING}") from problem


@dataclass(frozen=True, eq=False)
class Vector:
    """A world of ``gymnasium.vector.VectorEnv``s, one sub-environment for each episode that runs side by side.

    The environment says what a task is: ``sample_tasks(n, rng) → [n, numbers]`` of a NumPy
    generator, and ``set_tasks(tasks [episodes, numbers])`` before each reset.

    Args:
        make: ``episodes → VectorEnv`` that does not start a sub-environment again by itself:
            ``autoreset_mode=AutoresetMode.DISABLED``.
        horizon: steps after which an episode is cut.
        scaled: actions from −1 to 1 are stretched to the bounds of the action space; what is
            beyond them is cut either way.
        masked: the environment leaves finished sub-environments alone; without, they are reset and what they do is not looked at.
        name: of the world, in results; give worlds that differ names that do, as scores of one name, horizon and seed are compared.
        seed: any whole number.
        reel: where frames of the first episode go: see ``filmed``.

    Raises:
        InputError: gymnasium is missing, the environment lacks ``sample_tasks`` or ``set_tasks``, starts again by itself,
            or its spaces are neither ``Box`` nor, for actions, ``Discrete``; actions without bounds need ``scaled=False``.
    """

    make: Callable[[int], VectorEnv]
    horizon: int = 200
    scaled: bool = True
    masked: bool = False
    name: str = "environment"
    seed: int = 0
    reel: "_Reel | None" = field(default=None, repr=False)
    _made: dict[int, VectorEnv] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        env = self._of(1)
        for method in ("sample_tasks", "set_tasks"):
            if not callable(getattr(env, method, None)):
                raise InputError(
                    f"{type(env).__name__} has no {method}: it must give tasks by sample_tasks(n, rng) and take them by set_tasks(tasks), "
                    "or, for single environments, sample_tasks(n, rng) and set_task(task) in Single(make)"
                )
        mode = env.metadata.get("autoreset_mode")
        if mode is not AutoresetMode.DISABLED:
            raise InputError(
                f"{type(env).__name__} starts episodes again by itself ({mode}), which puts steps of nobody's policy among the rollouts; "
                "make it with autoreset_mode=AutoresetMode.DISABLED"
            )
        seen, acts = env.single_observation_space, env.single_action_space
        if not np.array_equal(self.tasks("train", 0, 1), self.tasks("train", 0, 1)):
            raise InputError(f"sample_tasks of {self.name} gives other tasks at each call; let it draw from the rng that it is given alone")
        if not isinstance(seen, gymnasium.spaces.Box) or len(seen.shape) != 1:
            raise InputError(f"observations are {seen}; give a Box of one axis, as by gymnasium.wrappers.FlattenObservation")
        if isinstance(acts, gymnasium.spaces.Box) and np.issubdtype(acts.dtype, np.floating):
            if self.scaled and not acts.is_bounded():
                raise InputError(
                    f"actions are {acts}, without bounds that ±1 could be stretched to; say scaled=False to take actions as they are"
                )
        elif not isinstance(acts, gymnasium.spaces.Discrete):
            raise InputError(f"actions are {acts}; give a Box of real numbers or a Discrete space")

    def __repr__(self) -> str:
        return f"{self.name}(horizon={self.horizon}, seed={self.seed}{'' if self.scaled else ', scaled=False'})"

    def _of(self, episodes: int) -> Any:
        if episodes not in self._made:
            self._made[episodes] = self.make(episodes)
        return self._made[episodes]

    @property
    def observations(self) -> int:
        return self._of(1).single_observation_space.shape[0]

    @property
    def discrete(self) -> bool:
        return isinstance(self._of(1).single_action_space, gymnasium.spaces.Discrete)

    @property
    def actions(self) -> int:
        space = self._of(1).single_action_space
        return int(space.n) if self.discrete else int(np.prod(space.shape))

    def tasks(self, split: str, first: int, count: int) -> Tensor:
        return torch.as_tensor(np.concatenate([self._task(generator_of(self.seed, split, i)) for i in range(first, first + count)])).float()

    def _task(self, generator: torch.Generator) -> np.ndarray:
        env = self._of(1)
        row = np.asarray(env.sample_tasks(1, np.random.default_rng(int(torch.randint(2**62, (), generator=generator)))))
        if row.ndim != 2 or len(row) != 1 or not np.issubdtype(row.dtype, np.number) or not np.isfinite(row).all():
            raise InputError(f"sample_tasks(1, rng) of {self.name} gives {row.tolist()!r:.80}; give 1 row of numbers, and n of them for n")
        return row

    def identity(self, tasks: Tensor) -> Tensor:
        """All numbers of the task."""
        return tasks

    def filmed(self, reel: list[list[Any]], size: tuple[int, int], every: int) -> "Vector":
        """The same world, which leaves frames of the first episode on the reel, a list for each time that episodes begin.

        Raises:
            InputError: its environments cannot be drawn.
        """
        if not hasattr(self._of(1), "camera"):
            raise InputError(f"{self.name} cannot be drawn: its environment has no camera")
        return replace(self, reel=_Reel(reel, size, every))

    def begin(self, tasks: Tensor, trajectories: int, generators: Sequence[torch.Generator]) -> Episodes:
        env = self._of(len(tasks) * trajectories)
        env.set_tasks(tasks.repeat_interleave(trajectories, 0).double().cpu().numpy())
        seeds = torch.cat([torch.randint(2**31, (trajectories,), generator=g) for g in generators])
        seen, _ = env.reset(seed=seeds.tolist())
        shape = (len(tasks), trajectories)
        how = (self, env, shape, seen, tasks.dtype)
        return _Running(*how) if self.reel is None else _Filmed(*how, self.reel)


@dataclass(frozen=True)
class _Reel:
    """Frames of first episodes, every so many steps."""

    frames: list[list[Any]]
    size: tuple[int, int]
    every: int


class _Running:
    """Sub-environments between two steps."""

    def __init__(self, world: Vector, env: Any, shape: tuple[int, int], seen: np.ndarray, kind: torch.dtype):
        self.world, self.env, self.shape, self.kind = world, env, shape, kind
        self.ended = np.zeros(shape[0] * shape[1], dtype=bool)
        self.observation = self._shaped(seen)

    def _shaped(self, values: np.ndarray) -> Tensor:
        # A copy, as environments may write what they see next into the same array.
        return torch.as_tensor(np.array(values, dtype=np.float64)).to(self.kind).view(*self.shape, *values.shape[1:])

    def step(self, action: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        chosen = action.flatten(0, 1).cpu().numpy()
        space = self.env.single_action_space
        if self.world.discrete:
            chosen = chosen + space.start
        else:
            chosen = chosen.reshape(-1, *space.shape)
            if self.world.scaled:
                chosen = space.low + (np.clip(chosen, -1, 1) + 1) / 2 * (space.high - space.low)
            chosen = np.clip(chosen, space.low, space.high)
        if self.ended.any() and not self.world.masked:
            self.env.reset(options={"reset_mask": self.ended.copy()})
        seen, reward, terminated, truncated, _ = self.env.step(chosen)
        self.ended = terminated | truncated
        self.cut = torch.as_tensor(truncated & ~terminated).view(self.shape)
        self.observation = self._shaped(seen)
        return self.observation, self._shaped(reward), torch.as_tensor(self.ended).view(self.shape)


class _Filmed(_Running):
    """The same, whose first episode is drawn until it ends."""

    def __init__(self, world: Vector, env: Any, shape: tuple[int, int], seen: np.ndarray, kind: torch.dtype, reel: _Reel):
        super().__init__(world, env, shape, seen, kind)
        width, height = reel.size
        self.camera, self.every, self.taken, self.over = env.camera(height, width), reel.every, 0, False
        self.frames: list[Any] = []
        reel.frames.append(self.frames)

    def step(self, action: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        found = super().step(action)
        if self.taken % self.every == 0 and not self.over:
            self.frames.append(self.camera())
        self.taken += 1
        self.over |= bool(self.ended[0])
        return found


class _Once(gymnasium.Wrapper):
    """An environment that stays as it is from an episode's end on, until it is reset with a seed."""

    over = False

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        if seed is None and self.over:
            return self.seen, {}
        self.over = False
        self.seen, about = self.env.reset(seed=seed, options=options)
        return self.seen, about

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        if self.over:
            return self.seen, 0.0, False, False, {}
        self.seen, reward, terminated, truncated, about = self.env.step(action)
        self.over = bool(terminated or truncated)
        return self.seen, reward, terminated, truncated, about


class _Several(SyncVectorEnv):
    """Single environments in turn, whose tasks are set one by one."""

    def sample_tasks(self, n: int, rng: np.random.Generator) -> np.ndarray:
        return np.asarray(self.envs[0].get_wrapper_attr("sample_tasks")(n, rng))

    def set_tasks(self, tasks: np.ndarray) -> None:
        for env, task in zip(self.envs, tasks, strict=True):
            env.get_wrapper_attr("set_task")(task)


def Single(make: Callable[[], gymnasium.Env], horizon: int = 200, **how: Any) -> Vector:
    """A world of any gymnasium environment that has ``sample_tasks(n, rng) → [n, numbers]`` and ``set_task(task)``.

    Args:
        make: makes one, such as ``lambda: MyEnv()``; wrappers may be around it, and may have the two methods.
        horizon: steps after which an episode is cut.
        how: further arguments of ``Vector``.

    Raises:
        InputError: the environment lacks one of the two methods, does not do what its spaces say, or as for ``Vector``.
    """
    if not callable(make):
        raise InputError(f"make is a {type(make).__name__}; give a function that makes an environment, such as lambda: MyEnv()")
    pool = [make()]
    one = pool[0]
    if missing := [method for method in ("sample_tasks", "set_task") if not one.has_wrapper_attr(method)]:
        raise InputError(
            f"{type(one.unwrapped).__name__} has no {missing[0]}; give it sample_tasks(n, rng), which returns an array of n rows of "
            "numbers, and set_task(task), which takes one of them"
        )
    name = type(one.unwrapped).__name__
    for space in ("observation_space", "action_space"):
        if not hasattr(one, space):
            raise InputError(f"{name} does not say its {space}; set it")

    def several(n: int) -> _Several:
        pool.extend(make() for _ in range(n - len(pool)))
        if len({id(env.unwrapped) for env in pool}) < len(pool):
            raise InputError(
                f"make gives the same {name} each time, which all trajectories would share; make a new one, as in lambda: MyEnv()"
            )
        return _Several([lambda env=env: _Once(env) for env in pool[:n]], autoreset_mode=AutoresetMode.DISABLED)

    world = Vector(several, horizon, **{"name": name, **how})
    _try_one(one, world)
    return world


def _try_one(env: Any, world: Vector) -> None:
    """Refuse an environment that shows in its first step what its spaces do not hold."""
    env.get_wrapper_attr("set_task")(world.tasks("train", 0, 1)[0].double().numpy())
    seen, _ = env.reset(seed=0)
    following, reward, *_ = env.step(env.action_space.sample())
    for given in (seen, following):
        if np.shape(given) != (world.observations,):
            raise InputError(
                f"{world.name} shows an observation of shape {list(np.shape(given))}, and its space is of {[world.observations]}"
            )
    if np.ndim(reward):
        raise InputError(f"{world.name} gives a reward of shape {list(np.shape(reward))}; give a number")


class NavigationEnv(gymnasium.Env):
    """``Navigation`` as a single gymnasium environment, one point at a time."""

    def __init__(self, world: Navigation = Navigation()):
        self.world = world
        self.observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (2,), np.float64)
        self.action_space = gymnasium.spaces.Box(-world.bound, world.bound, (2,), np.float64)
        self.task = np.zeros(5)

    def sample_tasks(self, n: int, rng: np.random.Generator) -> np.ndarray:
        """Rows of goal, start and mode."""
        return self.world.tasks("train", int(rng.integers(2**31)), n).double().numpy()

    def set_task(self, task: np.ndarray) -> None:
        """Walk to another goal from the next reset on."""
        self.task = np.asarray(task, dtype=float)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict[str, Any]]:
        super().reset(seed=seed)
        self.at = self.task[2:4].copy()
        return self.at.copy(), {}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        self.at = self.at + np.clip(action, -self.world.bound, self.world.bound)
        apart = self.at - self.task[:2]
        distance = float(np.hypot(*apart))
        reward = -(distance**2 if self.world.reward == "squared" else distance)
        near = {"box": bool((np.abs(apart) < NEAR).all()), "radius": distance < NEAR, "never": False}[self.world.stop]
        return self.at.copy(), reward, near, False, {}
