"""Episodes that end early or are cut: exact losses, advantages and trust regions; worlds, policies and settings that are refused."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import innerloop as il
from innerloop import Diverged, InputError, rl
from innerloop.batches import one
from innerloop.engine import meta_gradient
from innerloop.experiments import find
from innerloop.experiments.experiment import Options
from innerloop.rl.returns import after_cut, discounted, features, fitted

QUIET: dict[str, Any] = {"progress": False, "meta_batch": 2}


def learner_of(policy: nn.Module, rate: float = 0.1, steps: int = 1) -> Any:
    return rl.judged(il.maml(policy, rl.score(policy), steps, rate), policy)


def walker(seed: int = 0) -> nn.Module:
    return rl.gaussian_mlp(2, 8, 2, generator=torch.Generator().manual_seed(seed))


# Exact numbers


def test_losses_and_divergence_are_means_over_steps_that_were_taken() -> None:
    policy = walker().double()
    learner = learner_of(policy)
    met = rl.Experience(rl.Navigation(horizon=40, goals=0.03), 6).gather(learner, learner.prior, "train", 0, 3)
    lengths = met.query.alive.sum(-1)
    assert lengths.min() < 20 < lengths.max() == 40
    region = rl.trpo(learner, part=1.0)
    generator = torch.Generator().manual_seed(1)
    there = {name: p + 0.1 * torch.randn(p.shape, generator=generator, dtype=p.dtype) for name, p in learner.prior.items()}
    losses, apart = [], []
    for k in range(3):
        task = one(met, k)
        before, after = (learner.model(learner.adapt(p, task.support)[-1], task.query.observations) for p in (learner.prior, there))
        own = [torch.distributions.Normal(d.mean, d.log_sd.exp()) for d in (before, after)]
        each = []
        for n, episode in zip(task.query.alive.sum(-1).tolist(), range(6), strict=True):
            log_prob = own[1].log_prob(task.query.actions)[episode, :n].sum(-1)
            each.append(-(log_prob - task.query.log_prob[episode, :n]).exp() * task.query.advantages[episode, :n])
            apart.append(torch.distributions.kl_divergence(*own)[episode, :n].sum(-1))
        losses.append(torch.cat(each).mean())
    surrogate, policies = region.judge(there, met)
    torch.testing.assert_close(surrogate, torch.stack(losses).mean())
    old = region.judge(learner.prior, met)[1]
    torch.testing.assert_close(region.divergence(old, policies, met), torch.cat(apart).mean())
    assert not torch.isclose(region.divergence(policies, old, met), torch.cat(apart).mean(), rtol=1e-3)


def test_every_step_has_actions_of_its_own_from_one_policy() -> None:
    learner = learner_of(walker(), rate=0.0, steps=2)
    met = rl.Experience(rl.Navigation(horizon=6), 3).gather(learner, learner.prior, "train", 0, 2)
    first, second, query = (rollouts.actions for rollouts in (*met.support, met.query))
    assert not torch.isclose(first, second).any()
    assert not torch.isclose(second, query).any()


def test_advantages_of_episodes_that_end_early_are_theirs_alone() -> None:
    generator, lengths = torch.Generator().manual_seed(0), [7, 3, 5, 1]
    alive = (torch.arange(7) < torch.tensor(lengths)[:, None])[None]
    seen = torch.randn(1, 4, 7, 2, generator=generator, dtype=torch.float64)  # what lies behind an end is not looked at
    rewards = torch.randn(1, 4, 7, generator=generator, dtype=torch.float64) * alive
    found = rl.Returns(discount=0.9, trace=0.8)(seen, rewards, alive)[0]
    of = [features(seen[0, k, :n]) for k, n in enumerate(lengths)]
    f, y = torch.cat(of), torch.cat([discounted(rewards[0, k, :n], 0.9) for k, n in enumerate(lengths)])
    w = torch.linalg.solve(f.T @ f + 1e-5 * torch.eye(f.shape[1], dtype=f.dtype), f.T @ y)
    each = []
    for k, n in enumerate(lengths):
        b = torch.cat([of[k] @ w, torch.zeros(1, dtype=f.dtype)])
        each.append(discounted(rewards[0, k, :n] + 0.9 * b[1:] - b[:-1], 0.9 * 0.8))
    wanted = torch.cat(each)
    wanted = (wanted - wanted.mean()) / wanted.std(correction=0)
    torch.testing.assert_close(found[alive[0]], wanted, rtol=1e-6, atol=1e-6)
    assert not found[~alive[0]].any()


@pytest.mark.parametrize("seed", [0, 1])
def test_what_a_cut_episode_would_have_earned_is_told_from_what_it_saw(seed: int) -> None:
    """Walks that go on for 1,200 steps more, so that every step's true advantage is known."""
    policy = rl.gaussian_mlp(2, 32, 2, generator=torch.Generator().manual_seed(seed))
    learner, horizon = il.pretrained(policy, rl.ratio(policy)), 100
    world = rl.Navigation(horizon=horizon + 1200, stop="never")
    walks = rl.Experience(world, 20, returns=rl.Returns(baseline="none")).gather(learner, learner.prior, "train", 0, 5).query
    worth = discounted(walks.rewards.double(), 0.99)
    seen, rewards, last = walks.observations[..., :horizon, :], walks.rewards[..., :horizon], walks.observations[..., horizon, :]
    alive, going = torch.ones_like(rewards, dtype=torch.bool), torch.ones(rewards.shape[:2], dtype=torch.bool)
    f = features(seen)
    wanted = worth[..., :horizon] - (f @ fitted(f, worth[..., :horizon], alive)[:, None]).squeeze(-1)
    alike = lambda a, b: sum(float(torch.corrcoef(torch.stack([x.flatten(), y.flatten()]))[0, 1]) for x, y in zip(a, b, strict=True)) / 5
    cut, ended = (rl.Returns(bootstrap=b)(seen, rewards, alive, last, going).double() for b in (True, False))
    assert alike(cut, wanted) > alike(ended, wanted) + 0.1
    told = after_cut(seen, rewards, alive, last, going, 0.99).squeeze(-1)
    assert alike(told, worth[..., horizon]) > 0.4
    assert told.abs().max() <= 100 * rewards.abs().max()


def test_episodes_that_ended_have_nothing_after_them() -> None:
    seen, rewards = torch.randn(1, 3, 4, 1, generator=torch.Generator().manual_seed(0)), torch.ones(1, 3, 4)
    going = torch.tensor([[True, False, True]])
    beyond = after_cut(seen, rewards, torch.ones(1, 3, 4, dtype=torch.bool), seen[:, :, 0], going, 0.9)
    assert beyond[0, 1] == 0
    assert (beyond[0, ::2] > 1).all()


# Policies that may not do everything


class Compass:
    """A walk by four directions, of which the first is not allowed; what is allowed is seen."""

    def __init__(self, walk: Any):
        self.walk = walk

    @property
    def observation(self) -> Tensor:
        allowed = torch.ones(*self.walk.observation.shape[:-1], 4)
        allowed[..., 0] = 0
        return torch.cat([self.walk.observation, allowed], -1)

    def step(self, action: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        _, reward, _ = self.walk.step(torch.tensor([[1.0, 0.0], [-1.0, 0.0], [0.0, 1.0], [0.0, -1.0]])[action])
        return self.observation, reward, reward > -0.1


class Directions(rl.Navigation):
    discrete, observations, actions = True, 6, 4

    def begin(self, tasks: Tensor, trajectories: int, generators: Any) -> Any:
        return Compass(super().begin(tasks, trajectories, generators))


class Masked(nn.Module):
    """Where an observation shows what is allowed, and where the first action never is."""

    def __init__(self, shown: bool) -> None:
        super().__init__()
        self.net, self.shown = il.mlp(2, 8, 4, generator=torch.Generator().manual_seed(0)), shown

    def forward(self, seen: Tensor) -> rl.Categorical:
        allowed = seen[..., 2:] if self.shown else torch.tensor([0.0, 1.0, 1.0, 1.0])
        return rl.Categorical(self.net(seen[..., :2]).masked_fill(allowed == 0, -torch.inf))


@pytest.mark.parametrize("shown", [True, False])
def test_policies_that_mask_actions_learn_from_episodes_that_end_early(shown: bool) -> None:
    policy = Masked(shown)
    learner = learner_of(policy)
    experience = rl.Experience(Directions(horizon=8, goals=0.15), 6)
    met = experience.gather(learner, learner.prior, "train", 0, 2)
    assert 0 < met.query.alive.float().mean() < 1
    gradient, loss = meta_gradient(learner)(learner.prior, met)
    assert loss.isfinite()
    assert all(g.isfinite().all() for g in gradient.values())
    rows: list[dict[str, Any]] = []
    trained = rl.train_policy(learner, experience, 4, log=rows.append, **QUIET)
    assert any(row.get("taken") for row in rows)
    assert any(not torch.equal(p, learner.prior[name]) for name, p in trained.prior.items())


# What is refused, and what is not silent


class Huge(rl.Navigation):
    """Rewards of 1e30, which are numbers, and whose squares are not."""

    def begin(self, tasks: Tensor, trajectories: int, generators: Any) -> Any:
        walk: Any = super().begin(tasks, trajectories, generators)
        step = walk.step
        walk.step = lambda action: (lambda seen, reward, ended: (seen, 1e30 * reward, ended))(*step(action))
        return walk


def test_a_surrogate_that_is_no_number_is_not_taken_for_a_step_that_failed() -> None:
    policy = walker()
    learner = il.pretrained(policy, rl.ratio(policy))
    experience = rl.Experience(Huge(horizon=5), 3, returns=rl.Returns(normalised=False))
    with pytest.raises(Diverged, match=r"iteration 0: the squared length of the surrogate's gradient is inf; scale rewards down"):
        rl.train_policy(learner, experience, 3, **QUIET)


def failing(*how: Any, **more: Any) -> Any:
    raise RuntimeError("InvalidCxxCompiler: no compiler\nand how to get one")


def test_training_goes_on_without_a_compiler(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    learner, experience = learner_of(walker()), rl.Experience(rl.Navigation(horizon=3), 2)
    plain = rl.train_policy(learner, experience, 30, engine="vmap", **QUIET)
    monkeypatch.setattr("innerloop.outer.trpo.compiled", lambda f: failing)
    rows: list[dict[str, Any]] = []
    trained = rl.train_policy(learner, experience, 30, log=rows.append, **QUIET)
    assert "compiling failed, going on without: RuntimeError: InvalidCxxCompiler: no compiler" in capsys.readouterr().err
    assert all(torch.equal(p, trained.prior[name]) for name, p in plain.prior.items())
    assert [row["engine"] for row in rows if "engine" in row] == ["vmap+compile", "vmap"]
    with pytest.raises(InputError, match=r"engine vmap\+compile does not work here: RuntimeError: .*no compiler; vmap would do"):
        rl.train_policy(learner, experience, 2, engine="vmap+compile", **QUIET)


def test_the_part_that_curvature_was_taken_on_is_told() -> None:
    learner, rows = learner_of(walker()), list[dict[str, Any]]()
    rl.train_policy(learner, rl.Experience(rl.Navigation(horizon=3), 4), 1, outer=partial(rl.trpo, part=0.5), log=rows.append, **QUIET)
    rl.train_policy(learner, rl.Experience(rl.Navigation(horizon=3), 4), 1, log=rows.append, **QUIET)
    assert [row["part"] for row in rows if "part" in row] == [0.5, 1.0]


def test_a_run_goes_on_with_its_own_trust_region_alone(tmp_path: Path) -> None:
    learner, experience = learner_of(walker()), rl.Experience(rl.Navigation(horizon=3), 2)
    rl.train_policy(learner, experience, 1, out=tmp_path, **QUIET)
    with pytest.raises(InputError, match=r"made with the trust region's damping 1e-05, not 0.1"):
        rl.train_policy(learner, experience, 2, outer=partial(rl.trpo, damping=0.1), out=tmp_path, resume=True, **QUIET)
    rl.train_policy(learner, experience, 2, out=tmp_path, resume=True, **QUIET)


def test_e_mamls_credit_is_not_put_beside_normalised_advantages(tmp_path: Path) -> None:
    (experiment,) = find("maml/navigation")[:1]
    quick = experiment.settings.quick()
    trial = experiment.build(replace(quick, credit=True))
    with pytest.raises(InputError, match=r"credit is in units of rewards, .*; take it with --no-normalised"):
        trial.trained(replace(quick, credit=True), Options(), tmp_path, print)


class Answers(nn.Module):
    """A policy whose forward pass gives what it should not."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.net, self.kind = il.mlp(2, 8, 2), kind

    def forward(self, seen: Tensor) -> Any:
        mean = self.net(seen)
        return {"tensor": mean, "pair": (mean, mean), "torch": torch.distributions.Normal(mean, 1.0, validate_args=False)}[self.kind]


def unlike(anything: Any) -> Any:
    """As of any type."""
    return anything


NORMAL = rl.Experience(rl.Navigation(horizon=3), 2)


@pytest.mark.parametrize("kind", ["tensor", "pair", "torch"])
def test_a_policy_that_gives_no_distribution_is_refused(kind: str) -> None:
    learner = learner_of(Answers(kind))
    with pytest.raises(InputError, match=r"no distribution.*; its forward must return rl\.Gaussian\(mean, log_sd\) or rl\.Categorical"):
        rl.train_policy(learner, NORMAL, 1, **QUIET)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: rl.Experience(unlike(walker())),
            r"GaussianPolicy is no world, as it has no observations; innerloop\.rl\.gym\.Single\(make\)",
        ),
        (lambda: rl.train_policy(learner_of(walker()), rl.Navigation(), 1), r"experience is a Navigation; .* such as rl\.Experience"),  # type: ignore[arg-type]
        (lambda: rl.evaluate_policy(learner_of(walker()), rl.Navigation()), "experience is a Navigation"),  # type: ignore[arg-type]
        (lambda: rl.Experience(rl.Navigation(horizon=2.5)), "horizon is 2.5; it must be a whole number"),  # type: ignore[arg-type]
        (
            lambda: rl.train_policy(learner_of(walker()), NORMAL, 1, outer=rl.trpo, optimizer=il.adam(1e-3)),
            "outer and optimizer are both given",
        ),
    ],
)
def test_what_is_no_training_of_a_policy_is_refused(make: Callable[[], object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        make()


# Environments of gymnasium

gymnasium = pytest.importorskip("gymnasium", reason="gymnasium is missing")


class Pole(gymnasium.Env):
    """Falls over after as many steps as the task says; counts what it is asked for."""

    observation_space = gymnasium.spaces.Box(-1, 1, (1,))
    action_space = gymnasium.spaces.Discrete(2)
    asked: ClassVar[dict[str, int]] = {"make": 0, "step": 0, "reset": 0}

    def __init__(self) -> None:
        self.asked["make"] += 1

    def sample_tasks(self, n: int, rng: np.random.Generator) -> np.ndarray:
        return rng.integers(2, 6, (n, 1))

    def set_task(self, task: np.ndarray) -> None:
        self.length = int(task[0])

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        self.asked["reset"] += 1
        self.left = self.length
        return np.zeros(1), {}

    def step(self, action: Any) -> Any:
        self.asked["step"] += 1
        self.left -= 1
        return np.full(1, self.left / 10), 1.0, self.left == 0, False, {}


def test_an_environment_that_trajectories_would_share_is_refused() -> None:
    pole = Pole()
    world = rl.gym.Single(lambda: pole, horizon=5)
    with pytest.raises(InputError, match="make gives the same Pole each time, which all trajectories would share"):
        world.begin(world.tasks("train", 0, 1), 2, [torch.Generator()])


def test_single_environments_are_left_alone_when_their_episode_is_over_and_used_again() -> None:
    world = rl.gym.Single(Pole, horizon=30)
    policy = rl.CategoricalPolicy(il.mlp(1, 4, 2))
    learner = learner_of(policy)
    Pole.asked.update(make=1, step=0, reset=0)
    met = rl.Experience(world, 5).gather(learner, learner.prior, "train", 0, 4)
    lengths = world.tasks("train", 0, 4).long().expand(-1, 5)
    for rollouts in (met.support[0], met.query):
        assert torch.equal(rollouts.alive.sum(-1), lengths)
        assert torch.equal(rl.total(rollouts), lengths.float().mean(1))
    assert Pole.asked["step"] == 2 * int(lengths.sum())
    assert Pole.asked["reset"] == 2 * 4 * 5
    rl.Experience(world, 3).gather(learner, learner.prior, "train", 0, 4)
    assert Pole.asked["make"] == 4 * 5


def other(**changed: Any) -> type[Pole]:
    return type("Other", (Pole,), changed)


def wide(self: Pole, **how: Any) -> Any:
    Pole.reset(self, **how)
    return np.zeros(3), {}


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: rl.gym.Single(Pole()), r"make is a Pole; give a function that makes an environment"),
        (lambda: rl.gym.Single(other(sample_tasks=lambda self, n, rng: np.ones(n))), r"sample_tasks\(1, rng\) of Other gives \[1\.0\]"),
        (lambda: rl.gym.Single(other(sample_tasks=lambda self, n, rng: np.ones((2 * n, 1)))), "give 1 row of numbers"),
        (lambda: rl.gym.Single(other(sample_tasks=lambda self, n, rng: np.full((n, 1), np.nan))), "give 1 row of numbers"),
        (lambda: rl.gym.Single(other(sample_tasks=lambda self, n, rng: [{"goal": 1}])), "give 1 row of numbers"),
        (lambda: rl.gym.Single(other(sample_tasks=lambda self, n, rng: 2 + np.random.rand(n, 1))), "gives other tasks at each call"),
        (
            lambda: rl.gym.Single(other(reset=wide)),
            r"an observation of shape \[3\], and its space is of \[1\]",
        ),
        (lambda: rl.gym.Single(other(step=lambda self, action: (np.zeros(1), np.ones(1), False, False, {}))), r"a reward of shape \[1\]"),
        (lambda: rl.gym.Single(other(action_space=property(lambda self: self.none))), "Other does not say its action_space"),
    ],
)
def test_environments_that_do_not_do_what_they_say_are_refused(make: Callable[[], object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        make()
