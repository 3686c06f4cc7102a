"""Half-cheetah and ant that run to a velocity or in a direction, many at once in MuJoCo's own batch simulator."""

import os
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any, Literal

import numpy as np

from innerloop.errors import InputError
from innerloop.rl.gym import MISSING, Vector

if sys.platform == "linux" and not os.environ.get("DISPLAY"):
    os.environ.setdefault("MUJOCO_GL", "egl")  # films are drawn off screen; MuJoCo looks at this when it is imported

try:
    import gymnasium
    import mujoco as simulator
    from gymnasium.vector import AutoresetMode, VectorEnv
    from gymnasium.vector.utils import batch_space
    from mujoco.batch import Batch
except ImportError as problem:  # pragma: no cover, a machine without the extra
    raise InputError(f"locomotion {MISSING} (4 or newer, for its batch simulator)") from problem

mujoco: Any = simulator  # its types are not known to checkers

Robot = Literal["cheetah", "ant"]
Goal = Literal["velocity", "direction"]
Dynamics = Literal["rllab", "v5"]


@dataclass(frozen=True)
class Body:
    """A robot as one of its two kinds of dynamics has it.

    Args:
        file: of gymnasium's models.
        timestep: seconds of a step of the simulator.
        skip: of those, for each action.
        control_cost: times Σ a².
        contact_cost: times Σ of contact forces², each cut to ±1.
        alive: reward of each step that does not end the episode.
        fastest: goals of ``velocity`` are from U[0, fastest].
        bonus: more reward of each step towards a velocity.
        falls: the episode ends when the torso's height leaves 0.2 … 1.
        noise: of the state that episodes begin in, of positions and of velocities.
        start: positions that episodes begin near, where those are not the model's own.
        hidden: how many of the first positions are not seen.
        contact: ``solref`` and ``solimp`` of all shapes, where those are not the model's own.
    """

    file: str
    timestep: float
    skip: int
    control_cost: float
    contact_cost: float
    alive: float
    fastest: float
    bonus: float
    falls: bool
    noise: tuple[float, float]
    hidden: int
    start: tuple[float, ...] = ()
    contact: tuple[tuple[float, ...], tuple[float, ...]] | None = None

    @property
    def seconds(self) -> float:
        """Of one action."""
        return self.timestep * self.skip


CHEETAH = Body(
    "half_cheetah.xml",
    timestep=0.01,
    skip=1,
    control_cost=0.05,
    contact_cost=0.0,
    alive=0.0,
    fastest=2.0,
    bonus=0.0,
    falls=False,
    noise=(0.01, 0.1),
    hidden=1,
)
ANT = Body(
    "ant.xml",
    timestep=0.02,
    skip=1,
    control_cost=0.005,
    contact_cost=0.0005,
    alive=0.05,
    fastest=3.0,
    bonus=1.0,
    falls=True,
    noise=(0.01, 0.1),
    hidden=0,
    start=(0, 0, 0.55, 1, 0, 0, 0, 0, 1, 0, -1, 0, -1, 0, 1),
    contact=((0.02, 1.0), (0.8, 0.8, 0.01)),
)
BODIES: dict[tuple[Robot, Dynamics], Body] = {
    ("cheetah", "rllab"): CHEETAH,
    ("cheetah", "v5"): replace(CHEETAH, skip=5, control_cost=0.1, noise=(0.1, 0.1)),
    ("ant", "rllab"): ANT,
    ("ant", "v5"): replace(
        ANT,
        timestep=0.01,
        skip=5,
        control_cost=0.5,
        contact_cost=0.0,
        alive=1.0,
        bonus=0.0,
        noise=(0.1, 0.1),
        hidden=2,
        start=(),
        contact=None,
    ),
}


@cache
def model_of(robot: Robot, dynamics: Dynamics) -> Any:
    """The robot's model, with sensors for what observation and reward are made of."""
    body = BODIES[robot, dynamics]
    spec = mujoco.MjSpec.from_file(str(Path(gymnasium.__file__).parent / "envs" / "mujoco" / "assets" / body.file))
    spec.option.timestep = body.timestep
    if body.contact:
        for shape in spec.geoms:
            shape.solref[:], shape.solimp[:3] = body.contact
    if dynamics == "rllab":
        torso = {"objtype": mujoco.mjtObj.mjOBJ_BODY, "objname": "torso"}
        spec.add_sensor(name="velocity", type=mujoco.mjtSensor.mjSENS_SUBTREELINVEL, **torso)
        if body.contact_cost:  # contact forces are only worked out where a sensor wants accelerations
            spec.add_sensor(name="acceleration", type=mujoco.mjtSensor.mjSENS_FRAMELINACC, **torso)
    mass = spec.compiler.settotalmass
    spec.compiler.settotalmass = -1  # the compiler's own way warns at each model
    made = spec.compile()
    if mass > 0:
        mujoco.mj_setTotalmass(made, mass)
        mujoco.mj_setConst(made, mujoco.MjData(made))
    return made


class Locomotion(VectorEnv):
    """Robots side by side, each with a goal of its own: reward is goal-directed velocity, less costs.

    ``velocity``: r = −|v − g| + bonus, g from U[0, fastest]. ``direction``: r = ± v. Less the cost of
    control and contact, and more while alive. Actions beyond ±1 are cut.

    Two kinds of dynamics, whose returns cannot be compared. ``rllab`` has the papers' time step (0.01 s for the
    cheetah, 0.02 s for the ant, one for each action), v the velocity of the centre of mass,
    torso and contacts among the observations. ``v5`` is gymnasium's: 0.05 s for each action, v the
    velocity of the torso; its ant sees no contact forces and pays no cost of them (gymnasium's with
    ``include_cfrc_ext_in_observation=False, contact_cost_weight=0``).

    Args:
        num_envs: robots.
        robot: ``cheetah`` or ``ant``.
        goal: ``velocity`` or ``direction``.
        dynamics: ``rllab`` or ``v5``.
        threads: of the simulator, 0 for all cores; results are the same.

    Source: Finn et al. 2017, arXiv:1703.03400, §5.3; cbfinn/maml_rl, ``half_cheetah_env_rand.py``, ``ant_env_rand.py``
    and their models; gymnasium's ``HalfCheetah-v5`` and ``Ant-v5``.
    """

    def __init__(self, num_envs: int, robot: Robot, goal: Goal, dynamics: Dynamics = "rllab", threads: int = 0):
        if (robot, dynamics) not in BODIES or goal not in ("velocity", "direction"):
            raise InputError(
                f"robot is {robot!r}, goal {goal!r} and dynamics {dynamics!r}; give cheetah or ant, velocity or direction, rllab or v5"
            )
        self.num_envs, self.goal, self.dynamics, self.body = num_envs, goal, dynamics, BODIES[robot, dynamics]
        self.metadata = {"autoreset_mode": AutoresetMode.DISABLED, "render_fps": round(1 / self.body.seconds)}
        self.model = model_of(robot, dynamics)
        self.simulations = Batch(self.model, num_envs, threads)
        self._bind()
        self.tasks = np.zeros((num_envs, 1))
        self.going = np.ones(num_envs, dtype=bool)
        self.single_observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (self._seen().shape[1],), np.float64)
        self.single_action_space = gymnasium.spaces.Box(-1.0, 1.0, (self.model.nu,), np.float32)
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)

    def _bind(self) -> None:
        own = self.simulations
        self.positions, self.velocities, self.controls = own.bind("qpos"), own.bind("qvel"), own.bind("ctrl")
        self.bodies, self.torso = own.bind("xpos"), mujoco.mj_name2id(self.model, mujoco.mjtObj.mjOBJ_BODY, "torso")
        if self.dynamics == "rllab":
            self.centre, self.measured = own.bind("subtree_com"), own.bind("sensordata")
            self.rotations, self.contacts = own.bind("xmat"), own.bind("cfrc_ext") if self.body.contact_cost else None

    @property
    def _stage(self) -> int:
        """How much is worked out of the state that a step ends in."""
        if self.dynamics == "v5":
            return mujoco.mjtStage.mjSTAGE_NONE.value
        return (mujoco.mjtStage.mjSTAGE_VEL if self.contacts is None else mujoco.mjtStage.mjSTAGE_ACC).value

    def sample_tasks(self, n: int, rng: np.random.Generator) -> np.ndarray:
        """Goals: a velocity, or −1 and 1 as often for a direction."""
        if self.goal == "velocity":
            return rng.uniform(0, self.body.fastest, (n, 1))
        return rng.choice([-1.0, 1.0], (n, 1))

    def set_tasks(self, tasks: np.ndarray) -> None:
        """The robots' goals, ``[num_envs, 1]``; a second number is the acceleration of gravity along z, in metres per second²."""
        self.tasks = np.asarray(tasks, dtype=float)
        changed = self.tasks.shape[1] > 1
        if changed or self.simulations.expanded("opt.gravity") is not None:
            self.simulations.expand("opt.gravity")[:, 2] = self.tasks[:, 1] if changed else self.model.opt.gravity[2]

    def reset(self, *, seed: Any = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict[str, Any]]:
        """Robots at their start, all of them or those of ``options["reset_mask"]``."""
        seeds = seed if isinstance(seed, list) else [seed] * self.num_envs if seed is None else range(seed, seed + self.num_envs)
        which = np.flatnonzero((options or {}).get("reset_mask", np.ones(self.num_envs, dtype=bool)))
        self.simulations.reset(which, stage=mujoco.mjtStage.mjSTAGE_NONE.value)
        if self.body.start:
            self.positions[which] = self.body.start
        wide, fast = self.body.noise
        for k in which:
            rng = np.random.default_rng(seeds[k])
            q = rng.uniform(-wide, wide, self.model.nq) if self.dynamics == "v5" else wide * rng.standard_normal(self.model.nq)
            self.positions[k] += q
            self.velocities[k] += fast * rng.standard_normal(self.model.nv)
        self.simulations.forward(which)
        self.going[which] = True
        return self._seen(), {}

    def step(self, actions: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
        body, chosen = self.body, np.clip(np.asarray(actions, dtype=float), -1, 1)
        self.controls[:] = chosen
        before = self._along()
        self.simulations.step(None if self.going.all() else np.flatnonzero(self.going), nstep=body.skip, stage=self._stage)
        v = self.measured[:, 0] if self.dynamics == "rllab" else (self._along() - before) / body.seconds
        goal = self.tasks[:, 0]
        reward = body.bonus - np.abs(v - goal) if self.goal == "velocity" else goal * v
        reward = reward - body.control_cost * np.square(chosen).sum(1)
        if body.contact_cost:
            reward = reward - body.contact_cost * np.square(self._forces()).sum((1, 2))
        fallen = np.zeros(self.num_envs, dtype=bool)
        if body.falls:
            height = self.positions[:, 2]
            finite = np.isfinite(self.positions).all(1) & np.isfinite(self.velocities).all(1)
            fallen = ~(finite & (height >= 0.2) & (height <= 1.0))
        reward = reward + (body.alive * ~fallen if self.dynamics == "v5" else body.alive)
        ended = fallen & self.going
        self.going &= ~fallen
        return self._seen(), reward, ended, np.zeros_like(ended), {"x_velocity": v}

    def camera(self, height: int, width: int) -> Callable[[], np.ndarray]:
        """A function that draws the first robot as it is now, ``[height, width, 3]``, off screen.

        Raises:
            InputError: this machine cannot draw off screen.
        """
        try:
            drawn, data = mujoco.Renderer(self.model, height, width), mujoco.MjData(self.model)
        except Exception as problem:  # each of its backends fails in its own way
            raise InputError(f"MuJoCo cannot draw here ({problem}); set MUJOCO_GL to egl or osmesa, and install that") from problem

        def frame() -> np.ndarray:
            data.qpos[:], data.qvel[:] = self.positions[0], self.velocities[0]
            mujoco.mj_forward(self.model, data)
            drawn.update_scene(data, "track")
            return drawn.render()

        return frame

    def _forces(self) -> np.ndarray:
        """Contact forces on each part, cut to ±1."""
        return np.clip(np.asarray(self.contacts), -1, 1)

    def _along(self) -> np.ndarray:
        """Where the robots are, as gymnasium has it: the cheetah's first position, the ant's torso."""
        return (self.positions[:, 0] if self.positions.shape[1] < 15 else self.bodies[:, self.torso, 0]).copy()

    def _seen(self) -> np.ndarray:
        parts = [self.positions[:, self.body.hidden :], self.velocities]
        if self.dynamics == "rllab":
            if self.contacts is not None:
                parts += [
                    self._forces().reshape(self.num_envs, -1),
                    self.rotations[:, self.torso].reshape(self.num_envs, -1),
                ]
            parts.append(self.centre[:, self.torso])
        return np.concatenate(parts, 1)


def locomotion(robot: Robot, goal: Goal, dynamics: Dynamics = "rllab", horizon: int = 200, seed: int = 0, threads: int = 0) -> Vector:
    """The world of a robot: see ``Locomotion``.

    >>> world = locomotion("cheetah", "direction", horizon=5)
    >>> world.observations, world.actions, world.tasks("train", first=0, count=3).shape
    (20, 6, torch.Size([3, 1]))

    Raises:
        InputError: gymnasium or MuJoCo is missing, or a name is not known.
    """
    make: Callable[[int], VectorEnv] = lambda n: Locomotion(n, robot, goal, dynamics, threads)  # noqa: E731
    return Vector(make, horizon, masked=True, name=f"{robot}-{goal}@{dynamics}", seed=seed)
