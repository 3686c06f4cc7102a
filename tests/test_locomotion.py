"""Gymnasium's environments as worlds: vectors, single ones, MuJoCo's batch simulator."""

import subprocess
import sys
from collections.abc import Callable
from functools import partial
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from torch import Tensor

from innerloop import InputError
from innerloop.cli import main
from innerloop.methods import maltml, maml, pretrained
from innerloop.models import mlp
from innerloop.rl import (
    CategoricalPolicy,
    Drifting,
    Experience,
    FamilyExperience,
    Navigation,
    Returns,
    Told,
    gaussian_mlp,
    judged,
    score,
    total,
)

gymnasium = pytest.importorskip("gymnasium", reason="gymnasium is missing")
pytest.importorskip("mujoco", reason="MuJoCo is missing")
from gymnasium.vector import AutoresetMode, SyncVectorEnv  # noqa: E402

from innerloop.rl.gym import NavigationEnv, Single, Vector  # noqa: E402
from innerloop.rl.locomotion import Locomotion, locomotion  # noqa: E402

V5: dict[str, tuple[str, dict[str, Any]]] = {
    "cheetah": ("HalfCheetah-v5", {}),
    "ant": ("Ant-v5", {"include_cfrc_ext_in_observation": False, "contact_cost_weight": 0.0}),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("robot", V5)
def test_robots_of_today_are_gymnasiums_bit_for_bit(robot: Any) -> None:
    name, how = V5[robot]
    env, reference = Locomotion(3, robot, "direction", "v5"), gymnasium.make(name, **how).unwrapped
    env.set_tasks(np.ones((3, 1)))
    env.reset(seed=0)
    reference.reset(seed=0)
    reference.set_state(env.positions[1].copy(), env.velocities[1].copy())  # type: ignore[attr-defined]
    rng = np.random.default_rng(0)
    for _ in range(60):
        actions = rng.uniform(-1, 1, (3, env.model.nu))
        seen, reward, ended, _, _ = env.step(actions)
        wanted, its, over, _, _ = reference.step(actions[1])
        np.testing.assert_array_equal(seen[1], wanted)
        assert reward[1] == pytest.approx(float(its), abs=1e-12)
        assert bool(ended[1]) == over
        if over:
            break
    else:
        assert robot == "cheetah"


@pytest.mark.parametrize(("robot", "seen", "step"), [("cheetah", 20, 0.01), ("ant", 125, 0.02)])
def test_robots_of_the_papers_have_rllabs_step_observations_and_velocity(robot: Any, seen: int, step: float) -> None:
    env = Locomotion(4, robot, "velocity")
    env.set_tasks(np.full((4, 1), 1.5))
    first, _ = env.reset(seed=3)
    assert first.shape == (4, seen)
    centre, action = first[:, -3:], np.random.default_rng(0).uniform(-1, 1, (4, env.model.nu))
    assert env.body.seconds == step
    last, reward, ended, _, info = env.step(action)
    np.testing.assert_allclose((last[:, -3] - centre[:, 0]) / step, info["x_velocity"], atol=0.2)  # the whole body's centre
    cost = {"cheetah": 0.05, "ant": 0.005}[robot] * (action**2).sum(1)
    run = -np.abs(info["x_velocity"] - 1.5) - cost
    if robot == "ant":
        forces = last[:, 29 : 29 + 84]
        run += 1.0 + 0.05 - 0.0005 * (forces**2).sum(1)
        assert np.abs(last[:, 29 : 29 + 84]).max() <= 1
        rotations = last[:, 113:122].reshape(4, 3, 3)
        np.testing.assert_allclose(rotations @ rotations.transpose(0, 2, 1), np.broadcast_to(np.eye(3), (4, 3, 3)), atol=1e-9)
    np.testing.assert_allclose(reward, run, atol=1e-12)
    assert not ended.any()
    assert np.abs(first[:, :8]).max() < 2


def test_the_ant_falls_out_of_its_episode_and_is_left_alone_then() -> None:
    env = Locomotion(40, "ant", "direction")
    env.set_tasks(np.ones((40, 1)))
    env.reset(seed=0)
    over, rng = np.zeros(40, dtype=bool), np.random.default_rng(0)
    still: dict[int, np.ndarray] = {}
    seen = np.empty(0)
    for _ in range(150):
        seen, _, ended, _, _ = env.step(rng.uniform(-1, 1, (40, 8)))
        assert not (ended & over).any()
        over |= ended
        still |= {int(k): seen[k] for k in np.flatnonzero(ended)}
    assert 0 < over.sum() < 40
    for k, there in still.items():
        np.testing.assert_array_equal(seen[k], there)
        assert not 0.2 <= there[2] <= 1.0


def test_contact_forces_are_felt_on_the_ground_and_not_in_the_air() -> None:
    env = Locomotion(2, "ant", "direction")
    env.set_tasks(np.ones((2, 1)))
    env.reset(seed=0)
    env.positions[1, 2] = 5.0
    seen, *_ = env.step(np.zeros((2, 8)))
    forces = np.abs(seen[:, 29:113])
    assert forces[0].max() == 1
    assert forces[1].max() == 0


def learner_of(world: Any) -> Any:
    policy = gaussian_mlp(world.observations, 8, world.actions, generator=torch.Generator().manual_seed(0))
    return judged(maml(policy, score(policy), 1, 0.1), policy)


@pytest.mark.parametrize("robot", ["cheetah", "ant"])
def test_rollouts_of_robots_are_the_same_with_any_number_of_threads_and_beside_any_others(robot: Any) -> None:
    found = []
    for threads, first, count in ((1, 0, 3), (2, 0, 3), (2, 2, 1)):
        world = locomotion(robot, "velocity", horizon=30, threads=threads)
        learner = learner_of(world)
        found.append(Experience(world, 3).gather(learner, learner.prior, "train", first, count))
    one, two, alone = found
    assert torch.equal(one.query.rewards, two.query.rewards)
    torch.testing.assert_close(alone.query.rewards[0], one.query.rewards[2], rtol=1e-3, atol=1e-3)
    assert not torch.equal(one.query.rewards[0], one.query.rewards[1])


def test_a_robots_goal_is_what_an_oracle_sees_and_what_is_rewarded() -> None:
    world = Told(locomotion("cheetah", "velocity", horizon=5))
    goals = world.tasks("train", 0, 50)
    assert 0 <= goals.min() < 0.3 < 1.7 < goals.max() <= 2
    assert set(locomotion("ant", "direction").tasks("train", 0, 20).flatten().tolist()) == {-1.0, 1.0}
    policy = gaussian_mlp(21, 4, 6)
    learner = pretrained(policy, score(policy))
    met = Experience(world, 2).gather(learner, learner.prior, "train", 0, 3)
    torch.testing.assert_close(met.query.observations[:, :, 0, 20:], goals[:3, None].expand(-1, 2, -1))


def test_gravity_drifts_from_step_to_step_and_a_family_shares_its_course() -> None:
    world = Drifting(locomotion("cheetah", "velocity", horizon=10), stages=3)
    courses = world.families("train", 0, 4, 2)
    assert courses.shape == (4, 2, 3, 2)
    assert torch.equal(courses[:, 0, :, 1], courses[:, 1, :, 1])
    assert not torch.equal(courses[:, 0, :, 0], courses[:, 1, :, 0])
    assert ((courses[..., 1] <= -7) & (courses[..., 1] >= -17)).all()
    first = world.world.tasks("train/3", 0, 1)  # of the key "train/3/0", which is also that of task 3's first rollouts
    assert not torch.equal(world.families("train", 3, 1, 1)[0, 0, :1, :1], first)
    env = Locomotion(2, "cheetah", "velocity")
    env.set_tasks(np.array([[1.0, -7.0], [1.0, -17.0]]))
    seen, _ = env.reset(seed=[0, 0])
    for _ in range(10):
        seen, *_ = env.step(np.zeros((2, 6)))
    assert seen[0, 0] > seen[1, 0] + 1e-3  # what is heavier is lower
    env.set_tasks(np.ones((2, 1)))
    there, _ = env.reset(seed=[0, 0])
    for _ in range(10):
        there, *_ = env.step(np.zeros((2, 6)))
    assert there[0, 0] == there[1, 0], "tasks without gravity have the robot's own"
    fresh = Locomotion(2, "cheetah", "velocity")
    assert fresh.simulations.expanded("opt.gravity") is None
    fresh.set_tasks(np.ones((2, 1)))
    same, _ = fresh.reset(seed=[0, 0])
    for _ in range(10):
        same, *_ = fresh.step(np.zeros((2, 6)))
    np.testing.assert_array_equal(there, same)
    base = learner_of(world)
    over = maltml(base, meta_rate=0.1)
    met = FamilyExperience(Experience(world, 2), base, 2, 1).gather(over, over.prior, "train", 0, 2)
    assert met.query.query.rewards.shape == (2, 1, 2, 10)


def test_robots_that_fell_are_put_back_alone() -> None:
    env = Locomotion(3, "ant", "direction")
    env.set_tasks(np.ones((3, 1)))
    start, _ = env.reset(seed=[0, 1, 2])
    moved, *_ = [env.step(np.ones((3, 8))) for _ in range(5)][-1]
    again, _ = env.reset(seed=[5, 1, 5], options={"reset_mask": np.array([False, True, False])})
    np.testing.assert_array_equal(again[[0, 2]], moved[[0, 2]])
    np.testing.assert_array_equal(again[1], start[1])


# Any environment


class Corridor(gymnasium.Env):
    """Walk left or right to a number; the observation is where one stands."""

    observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (1,))

    def __init__(self, choosing: bool = False, ends: bool = True):
        self.action_space = gymnasium.spaces.Discrete(2) if choosing else gymnasium.spaces.Box(-2.0, 4.0, (1,))
        self.choosing, self.ends, self.goal = choosing, ends, 0.0

    def sample_tasks(self, n: int, rng: np.random.Generator) -> np.ndarray:
        return rng.uniform(-3, 3, (n, 1))

    def set_task(self, task: np.ndarray) -> None:
        self.goal = float(task[0])

    def reset(self, *, seed: Any = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        self.at = float(self.np_random.normal())
        return np.array([self.at]), {}

    def step(self, action: Any) -> Any:
        self.at += (2 * int(action) - 1) if self.choosing else float(action[0])
        apart = abs(self.at - self.goal)
        return np.array([self.at]), -apart, self.ends and apart < 1, False, {}


def test_any_environment_with_tasks_is_a_world() -> None:
    for choosing in (False, True):
        world = Single(lambda c=choosing: Corridor(c), horizon=12)
        assert (world.observations, world.actions, world.discrete) == (1, 2 if choosing else 1, choosing)
        policy = CategoricalPolicy(mlp(1, 8, 2)) if choosing else gaussian_mlp(1, 8, 1)
        learner = judged(maml(policy, score(policy), 1, 0.1), policy)
        met = Experience(world, 5).gather(learner, learner.prior, "train", 0, 4)
        goals = world.tasks("train", 0, 4)
        apart = (met.query.observations[:, :, 1:, 0] - goals[:, None, :]).abs()
        stays = met.query.alive[:, :, 1:]
        torch.testing.assert_close(-met.query.rewards[:, :, :-1][stays], apart[stays])
        assert (apart[stays] >= 1).all()  # an episode goes on until it is near
        ended = met.query.alive.sum(-1)
        assert ended.min() < 12
        again = Experience(world, 5).gather(learner, learner.prior, "train", 0, 4)
        assert torch.equal(again.query.rewards, met.query.rewards)


class Steady(Corridor):
    """Reward 1 for ever."""

    def step(self, action: Any) -> Any:
        seen, _, *over = super().step(action)
        return seen, 1.0, *over


@pytest.mark.parametrize("around", [lambda world: world, Told])
def test_an_episode_that_gymnasium_cuts_goes_on_as_expected_where_that_is_asked(around: Callable[[Any], Any]) -> None:
    world = around(Single(lambda: gymnasium.wrappers.TimeLimit(Steady(ends=False), 30), horizon=40))
    policy = gaussian_mlp(world.observations, 8, 1, generator=torch.Generator().manual_seed(0))
    learner = judged(pretrained(policy, score(policy)), policy)
    surprise = {}
    for bootstrap in (True, False):
        returns = Returns(discount=0.5, normalised=False, bootstrap=bootstrap)
        query = Experience(world, 5, returns=returns).gather(learner, learner.prior, "train", 0, 2).query
        assert query.alive.sum(-1).unique().tolist() == [30]
        surprise[bootstrap] = float(query.advantages.abs().max())
    assert surprise[True] < 0.1 < 0.3 < surprise[False]


class Exact(Corridor):
    observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (1,), np.float64)


class Reusing(SyncVectorEnv):
    """Gives the same array after each step."""

    def __init__(self, one: type[Corridor], n: int):
        super().__init__([one] * n, copy=False, autoreset_mode=AutoresetMode.DISABLED)

    def sample_tasks(self, n: int, rng: np.random.Generator) -> np.ndarray:
        return rng.uniform(-3, 3, (n, 1))

    def set_tasks(self, tasks: np.ndarray) -> None:
        for env, task in zip(self.envs, tasks, strict=True):
            env.unwrapped.set_task(task)  # type: ignore[attr-defined]


@pytest.mark.parametrize(("one", "kind"), [(Corridor, torch.float32), (Exact, torch.float64)])
def test_what_was_seen_stays_as_it_was_and_as_exact_as_the_policy(one: type[Corridor], kind: torch.dtype) -> None:
    policy = gaussian_mlp(1, 8, 1, generator=torch.Generator().manual_seed(0)).to(kind)
    learner = judged(maml(policy, score(policy), 1, 0.1), policy)
    worlds = (Vector(partial(Reusing, one), horizon=6), Single(one, horizon=6))
    reused, own = (Experience(world, 3).gather(learner, learner.prior, "train", 0, 2).query for world in worlds)
    for a, b in zip(reused, own, strict=True):
        assert torch.equal(a, b)
    seen = own.observations[own.alive]
    assert seen.dtype == kind
    assert torch.equal(seen, seen.float().to(kind)) == (kind == torch.float32)


def test_actions_are_stretched_to_their_bounds_or_cut_to_them() -> None:
    for scaled, acts, wanted in ((True, 0.5, 2.5), (True, -3.0, -2.0), (False, 9.0, 4.0), (False, 1.0, 1.0)):
        world = Single(lambda: Corridor(ends=False), horizon=3, scaled=scaled)
        episodes = world.begin(torch.zeros(1, 1), 1, [torch.Generator().manual_seed(0)])
        there, *_ = episodes.observation.clone(), None
        moved, _, _ = episodes.step(torch.full((1, 1, 1), acts))
        assert float(moved - there) == pytest.approx(wanted, abs=1e-6)


class Acted(Corridor):
    """Keeps what it was asked to do."""

    taken: ClassVar[list[Any]] = []

    def step(self, action: Any) -> Any:
        self.taken.append(action)
        return np.zeros(1), 0.0, False, False, {}


@pytest.mark.parametrize(
    ("space", "acts", "wanted"),
    [
        (gymnasium.spaces.Discrete(3, start=-1), torch.tensor([[0], [2]]), [-1, 1]),
        (gymnasium.spaces.Box(-1, 1, (2, 3)), torch.zeros(2, 1, 6), np.zeros((2, 2, 3))),
        (gymnasium.spaces.Box(-np.inf, np.inf, (1,)), torch.full((2, 1, 1), 7.0), [[7], [7]]),
    ],
    ids=["from -1", "two axes", "without bounds"],
)
def test_actions_arrive_as_the_environment_names_and_shapes_them(space: Any, acts: Tensor, wanted: Any) -> None:
    bounded = not isinstance(space, gymnasium.spaces.Box) or space.is_bounded()
    world = Single(lambda: acting(space, Acted), horizon=3, scaled=bounded)
    Acted.taken.clear()
    world.begin(torch.zeros(2, 1), 1, [torch.Generator().manual_seed(0)] * 2).step(acts)
    np.testing.assert_array_equal(np.array(Acted.taken), wanted)


class Goals(gymnasium.Wrapper):
    """Gives a plain environment tasks."""

    def sample_tasks(self, n: int, rng: np.random.Generator) -> np.ndarray:
        return rng.uniform(-1, 1, (n, 1))

    def set_task(self, task: np.ndarray) -> None:
        self.goal = float(task[0])

    def reset(self, **how: Any) -> Any:
        return np.zeros(1), {}

    def step(self, action: Any) -> Any:
        return np.zeros(1), -abs(float(action[0]) - self.goal), False, False, {}


def test_tasks_may_come_from_a_wrapper() -> None:
    world = Single(lambda: Goals(Plain()), horizon=3)
    learner = learner_of(world)
    query = Experience(world, 2).gather(learner, learner.prior, "train", 0, 2).query
    goals = world.tasks("train", 0, 2)
    torch.testing.assert_close(query.rewards, -(query.actions[..., 0].clamp(-1, 1) - goals[:, None]).abs())


@pytest.mark.parametrize("reward", ["distance", "squared"])
@pytest.mark.parametrize("stop", ["box", "radius"])
def test_navigation_in_tensors_is_the_single_environment_step_by_step(reward: Any, stop: Any) -> None:
    plane = Navigation(horizon=40, reward=reward, stop=stop, starts=0.2, goals=0.2)
    tasks, generators = plane.tasks("train", 0, 3).double(), [torch.Generator()] * 3
    walks, env = plane.begin(tasks, 2, generators), NavigationEnv(plane)
    actions = torch.randn(40, 3, 2, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    actions[20:, 0, 0] = 10 * (tasks[0, :2] - 0)  # replaced below by a walk to the goal
    taken = []
    for t in range(40):
        action = actions[t].clone()
        if t >= 20:
            action[:, 0] = 10 * (tasks[:, :2] - walks.observation[:, 0])
        taken.append((action, *walks.step(action)))
    finished = 0
    for i in range(3):
        for k in range(2):
            env.set_task(tasks[i].numpy())
            env.reset()
            for action, seen, value, ended in taken:
                there, its, over, _, _ = env.step(0.1 * action[i, k].numpy())
                np.testing.assert_allclose(seen[i, k].numpy(), there, atol=1e-12)
                assert float(value[i, k]) == pytest.approx(its, abs=1e-12)
                assert bool(ended[i, k]) == over
                finished += over
                if over:
                    break
    assert finished >= 3


def test_navigation_as_an_environment_is_the_same_world() -> None:
    world = Single(lambda: NavigationEnv(Navigation()), horizon=6)
    learner = learner_of(world)
    met = Experience(world, 4).gather(learner, learner.prior, "train", 0, 3)
    tasks = world.tasks("train", 0, 3)
    walks = Navigation().begin(tasks, 4, [torch.Generator()] * 3)
    for t in range(6):
        _, reward, _ = walks.step(met.query.actions[:, :, t])
        torch.testing.assert_close(reward * met.query.alive[:, :, t], met.query.rewards[:, :, t], rtol=1e-4, atol=1e-5)
    assert total(met.query).shape == (3,)


class Plain(gymnasium.Env):
    observation_space, action_space = gymnasium.spaces.Box(-1, 1, (1,)), gymnasium.spaces.Box(-1, 1, (1,))


class Pictures(Corridor):
    observation_space = gymnasium.spaces.Box(0, 1, (2, 2))


class Restarting(SyncVectorEnv):
    def sample_tasks(self, n: int, rng: object) -> np.ndarray:
        return np.zeros((n, 1))

    def set_tasks(self, tasks: object) -> None: ...


def acting(space: Any, kind: type[Corridor] = Corridor) -> Corridor:
    """An environment that takes such actions."""
    env = kind()
    env.action_space = space
    return env


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Single(Plain), "Plain has no sample_tasks; give it"),
        (lambda: Vector(lambda n: SyncVectorEnv([Plain] * n, autoreset_mode=AutoresetMode.DISABLED)), "has no sample_tasks"),
        (lambda: Vector(lambda n: Restarting([Corridor] * n)), "starts episodes again by itself"),
        (lambda: Single(Pictures), "give a Box of one axis"),
        (lambda: Single(lambda: acting(gymnasium.spaces.Box(-np.inf, np.inf, (1,)))), "say scaled=False"),
        (lambda: Single(lambda: acting(gymnasium.spaces.Box(0, 3, (1,), np.int64))), "give a Box of real numbers or a Discrete space"),
        (lambda: Locomotion(1, "horse", "velocity"), "give cheetah or ant"),  # type: ignore[arg-type]
        (lambda: Drifting(locomotion("cheetah", "velocity"), stages=1), "2 stages or more"),
    ],
)
def test_bad_input_is_named(make: Callable[[], object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        make()


@pytest.mark.parametrize(("hidden", "message"), [("gymnasium", "this world needs gymnasium"), ("mujoco", "4 or newer")])
def test_what_is_missing_is_named_with_what_installs_it(hidden: str, message: str) -> None:
    code = f"import sys; sys.modules[{hidden!r}] = None\nfrom innerloop.cli import main\nmain(['run', 'maml/cheetah-direction', '--quick'])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert message in done.stderr
    assert "innerloop[rl]" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_robots_run_is_filmed_before_and_after_adaptation_and_others_are_not(tmp_path: Any) -> None:
    from innerloop import tracks

    world = locomotion("cheetah", "direction", horizon=12)
    learner = learner_of(world)
    try:
        gif = tracks.film(learner, Experience(world, 2), size=(96, 64), every=3)
    except InputError as problem:
        pytest.skip(f"nothing can be drawn here: {problem}")
    from io import BytesIO

    from PIL import Image

    film = Image.open(BytesIO(gif))
    assert film.size == (96, 64)
    assert getattr(film, "n_frames", 1) == 2 * 4  # before and after one step
    told = Told(world)
    assert tracks.film(learner_of(told), Experience(told, 2), size=(96, 64), every=3)[:4] == b"GIF8"
    for other in (Navigation(), Told(Navigation())):
        with pytest.raises(InputError, match="only robots"):
            tracks.film(learner_of(other), Experience(other, 2))


@pytest.mark.parametrize("name", ["maltml/continual-rl@rllab", "maml/navigation"])
def test_what_cannot_be_filmed_is_refused_before_it_is_trained(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", name, "--quick", "--video"]) == 2
    assert "has no robot that can be filmed; leave --video out" in capsys.readouterr().err
