"""Policies: estimators against exact derivatives, rollouts that replay, returns, trust regions, training."""

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.func import grad, hessian

import innerloop as il
from innerloop import Diverged, InputError, Task, adam, checkpoint
from innerloop.batches import map_tensors, one
from innerloop.engine import Plan, meta_gradient
from innerloop.evaluate import tune
from innerloop.learner import Learner, Loss, meta_loss
from innerloop.methods import attenuated, maltml, maml, mumomaml, per_step_rates, pretrained
from innerloop.models import OfTrajectory, mlp, with_film
from innerloop.outer import Stopped
from innerloop.outer.trpo import TrustRegion, conjugate_gradients, dot
from innerloop.params import Params, named
from innerloop.rl import (
    Categorical,
    CategoricalPolicy,
    Drifting,
    Experience,
    FamilyExperience,
    Gaussian,
    GaussianPolicy,
    Navigation,
    Rectangles,
    Returns,
    Rollouts,
    Told,
    clipped,
    collect,
    e_maml,
    evaluate_policy,
    gaussian_mlp,
    judged,
    loaded_dice,
    promp,
    ratio,
    score,
    total,
    train_policy,
    trpo,
)
from innerloop.rl.returns import RIDGE, discounted, features, fitted
from innerloop.rl.worlds import Around, Episodes

F64 = torch.float64


class Table(nn.Module):
    """Logits of two actions in each of three states, shown one-hot."""

    def __init__(self) -> None:
        super().__init__()
        self.logits = nn.Parameter(torch.tensor([[0.3, -0.2], [-0.5, 0.1], [0.2, 0.4]], dtype=F64))

    def forward(self, seen: Tensor) -> Categorical:
        return Categorical(seen @ self.logits)


NEXT = torch.tensor([[1, 2], [2, 0], [0, 1]])
REWARD = torch.tensor([[1.0, -0.5], [2.0, 0.3], [-1.0, 0.7]], dtype=F64)


def enumerated(length: int) -> Rollouts:
    """All trajectories of the little world from state 0: advantages are the rewards to come."""
    seen, acts, rewards = [], [], []
    for actions in product((0, 1), repeat=length):
        state, states = 0, []
        for a in actions:
            states.append(state)
            state = int(NEXT[state, a])
        seen.append(torch.eye(3, dtype=F64)[states])
        acts.append(torch.tensor(actions))
        rewards.append(REWARD[torch.tensor(states), torch.tensor(actions)])
    r = torch.stack(rewards)
    blank = torch.zeros_like(r)
    return Rollouts(torch.stack(seen), torch.stack(acts), r, torch.ones_like(r, dtype=torch.bool), blank, discounted(r, 1.0))


def chances(params: Params, rollouts: Rollouts) -> Tensor:
    """log of the probability of each trajectory."""
    return Categorical(rollouts.observations @ params["net.logits"]).log_prob(rollouts.actions).sum(-1)


def value(params: Params, rollouts: Rollouts) -> Tensor:
    """The exact expected return."""
    return (chances(params, rollouts).exp() * rollouts.rewards.sum(-1)).sum()


def acted(params: Params, rollouts: Rollouts) -> Rollouts:
    """As the policy of ``params`` would have gathered them."""
    log_prob = Categorical(rollouts.observations @ params["net.logits"]).log_prob(rollouts.actions)
    return rollouts._replace(log_prob=log_prob.detach())


def expected(loss: Loss, params: Params, rollouts: Rollouts) -> Callable[[Params], Tensor]:
    """The loss's mean over trajectories drawn by ``params``, times their length: what an estimate converges to."""
    weight, length = chances(params, rollouts).exp(), rollouts.rewards.shape[-1]
    single = [map_tensors(lambda t, k=k: t[k : k + 1], acted(params, rollouts)) for k in range(len(weight))]
    return lambda p: sum((w * length * loss(p, s) for w, s in zip(weight, single, strict=True)), torch.zeros((), dtype=F64))


def flat(params: Params) -> Tensor:
    return params["net.logits"].flatten()


@pytest.fixture
def little() -> tuple[Table, Params, Rollouts]:
    table = Table()
    return table, {"net.logits": table.logits.detach().clone()}, enumerated(3)


def scores_of(params: Params, rollouts: Rollouts) -> Tensor:
    """∇ log π of every step, ``[trajectories, time, parameters]``."""
    log_prob = lambda p: Categorical(rollouts.observations @ p["net.logits"]).log_prob(rollouts.actions)
    return torch.func.jacrev(log_prob)(params)["net.logits"].flatten(2)


ESTIMATES = {"score": score, "ratio": ratio, "dice": loaded_dice, "half": partial(loaded_dice, weight=0.5), "clipped": clipped}


@pytest.mark.parametrize("name", ESTIMATES)
def test_the_policy_gradient_is_exact_in_expectation(little: tuple[Table, Params, Rollouts], name: str) -> None:
    table, params, every = little
    wanted = grad(lambda p: -value(p, every))(params)
    found = grad(expected(ESTIMATES[name](table), params, every))(params)
    torch.testing.assert_close(found, wanted, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(("name", "same", "apart"), [("dice", 1.0, 1.0), ("half", 1.0, 0.5), ("ratio", 1.0, 0.0), ("score", 0.0, 0.0)])
def test_the_hessian_is_exact_but_for_the_bias_that_is_documented(
    little: tuple[Table, Params, Rollouts], name: str, same: float, apart: float
) -> None:
    """What is left out: products of scores at the same time, and of times k apart but for λᵏ of them."""
    table, params, every = little
    wanted = hessian(lambda p: -value(p, every))(params)["net.logits"]["net.logits"].reshape(6, 6)
    found = hessian(expected(ESTIMATES[name](table), params, every))(params)["net.logits"]["net.logits"].reshape(6, 6)
    g, weight = scores_of(params, every), chances(params, every).exp()
    bias = torch.zeros(6, 6, dtype=F64)
    for t in range(3):
        for s in range(t + 1):
            pairs = torch.einsum("k,ki,kj->ij", weight * every.advantages[:, t], g[:, s], g[:, t])
            bias += (1 - same) * pairs if s == t else (1 - apart ** (t - s)) * (pairs + pairs.T)
    torch.testing.assert_close(found - bias, wanted, rtol=1e-10, atol=1e-10)
    assert bool(bias.abs().max() > 0.01) == (name != "dice")


def test_loaded_dice_without_memory_is_the_ratio_in_all_derivatives(little: tuple[Table, Params, Rollouts]) -> None:
    table, params, every = little
    rollouts = acted(params, every)
    for of in (grad, hessian):
        left, right = (of(lambda p, loss=loss: loss(p, rollouts))(params) for loss in (loaded_dice(table, 0.0), ratio(table)))
        torch.testing.assert_close(left, right, rtol=1e-12, atol=1e-12)


def whole(params: Params, rollouts: Rollouts) -> Rollouts:
    """All trajectories as one batch whose mean is the expectation: probabilities are in the advantages."""
    weight = chances(params, rollouts).exp().detach() * len(rollouts.rewards)
    own = acted(params, rollouts)
    return own._replace(advantages=own.advantages * weight[:, None], rewards=own.rewards * weight[:, None])


@pytest.mark.parametrize("name", ["dice", "ratio", "score"])
def test_the_meta_gradient_of_infinitely_many_rollouts_is_exact_with_dice_alone(little: tuple[Table, Params, Rollouts], name: str) -> None:
    """θ′ = θ + α ∇J(θ) / T, and the gradient of J(θ′) by θ."""
    table, params, every = little
    rate = 0.7
    learner = judged(maml(table, ESTIMATES[name](table), steps=1, rate=rate), table)

    def adapted(p: Params) -> Params:
        slope = grad(lambda q: value(q, every))(p)
        return {n: w + rate * slope[n] / 3 for n, w in p.items()}

    wanted = grad(lambda p: -value(adapted(p), every) / 3)(params)
    there = adapted(params)
    task = Task([whole(params, every)], whole(there, every))
    found, _ = meta_gradient(learner)(params, map_tensors(lambda t: t[None], task))
    near = torch.allclose(found["net.logits"], wanted["net.logits"], rtol=1e-10, atol=1e-10)
    assert near == (name == "dice")
    torch.testing.assert_close(learner.adapt(params, task.support)[-1], there, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("credited", [True, False])
def test_e_maml_is_exact_for_steps_that_are_functions_of_the_rollouts_drawn(credited: bool) -> None:
    table = Table()
    params, every = {"net.logits": table.logits.detach().clone()}, enumerated(2)
    learner = judged(maml(table, score(table), steps=1, rate=0.7), table)
    estimate = e_maml(learner, table, expected=0.4) if credited else learner
    single = lambda rollouts, k: map_tensors(lambda t: t[k : k + 1], rollouts)

    def exact(p: Params) -> Tensor:
        shown = acted(params, every)
        terms = []
        for k in range(4):
            moved = learner.steps[0](p, single(shown, k))
            terms.append(chances(p, every).exp()[k] * value(moved, every))
        return -torch.stack(terms).sum() / 2

    wanted = grad(exact)(params)["net.logits"]
    found = torch.zeros_like(wanted)
    shown = acted(params, every)
    for k in range(4):
        moved = learner.steps[0](params, single(shown, k))
        for j in range(4):
            task = Task([single(shown, k)], single(acted(moved, every), j))
            gradient, _ = meta_gradient(estimate)(params, map_tensors(lambda t: t[None], task))
            found += chances(params, every).exp()[k] * chances(moved, every).exp()[j] * gradient["net.logits"]
    assert torch.allclose(found, wanted, rtol=1e-10, atol=1e-10) == credited


def test_promp_is_the_clipped_surrogate_and_a_price_on_moving_away(little: tuple[Table, Params, Rollouts]) -> None:
    table, params, every = little
    plain = maml(table, ratio(table), steps=1, rate=0.1)
    task = map_tensors(lambda t: t[None], Task([acted(params, every)], acted(params, every)))
    there = {name: p + 0.5 for name, p in params.items()}
    there["net.logits"][0, 0] += 1
    free, priced = (meta_loss(promp(plain, table, weight=w)) for w in (0.0, 2.0))
    assert priced(params, task) == free(params, task)  # at what acted nothing has moved
    log_r = Categorical(every.observations @ there["net.logits"]).log_prob(every.actions) - acted(params, every).log_prob
    torch.testing.assert_close(priced(there, task) - free(there, task), 2 * (log_r.exp() - 1 - log_r).mean())
    assert clipped(table, 0.1)(there, acted(params, every)) >= ratio(table)(there, acted(params, every))


def test_distributions_agree_with_torchs() -> None:
    torch.manual_seed(0)
    mean, log_sd, other, action = torch.randn(4, 5, 3, dtype=F64)
    mine, theirs = Gaussian(mean, log_sd), torch.distributions.Normal(mean, log_sd.exp())
    torch.testing.assert_close(mine.log_prob(action), theirs.log_prob(action).sum(-1))
    new = torch.distributions.Normal(other, (2 * log_sd).exp())
    torch.testing.assert_close(mine.kl(Gaussian(other, 2 * log_sd)), torch.distributions.kl_divergence(theirs, new).sum(-1))
    some, others = Categorical(mean), torch.distributions.Categorical(logits=mean)
    chosen = torch.tensor([0, 1, 2, 0, 1])
    torch.testing.assert_close(some.log_prob(chosen), others.log_prob(chosen))
    torch.testing.assert_close(
        some.kl(Categorical(other)), torch.distributions.kl_divergence(others, torch.distributions.Categorical(logits=other))
    )


def test_an_action_that_is_never_taken_adds_nothing_to_the_divergence() -> None:
    old, new = torch.tensor([[0.3, -torch.inf, 1.0], [0.1, -torch.inf, 0.2]], dtype=F64)
    seen = torch.tensor([True, False, True])
    kl = lambda logits: Categorical(old).kl(Categorical(logits))
    assert kl(old) == 0
    torch.testing.assert_close(kl(new), Categorical(old[seen]).kl(Categorical(new[seen])))
    torch.testing.assert_close(grad(kl)(new)[seen], grad(lambda logits: Categorical(old[seen]).kl(Categorical(logits)))(new[seen]))
    assert hessian(kl)(old).isfinite().all()


def policies(world: Navigation, method: str, steps: int) -> Learner:
    policy = gaussian_mlp(2, 8, 8, 2, generator=torch.Generator().manual_seed(0)).double()
    loss = score(policy)
    if method == "maml":
        return judged(maml(policy, loss, steps, 0.1), policy)
    if method == "l2f":
        return judged(attenuated(maml(policy, loss, steps, 0.1), loss, ["net", "-net.log_sd"]), policy)
    if method == "rates":
        return judged(per_step_rates(policy, loss, steps, 0.1), policy)
    film = with_film(policy)
    encoder = OfTrajectory(5, 4).double()
    return judged(mumomaml(film, score(film), steps, 0.1, encoder=encoder, hidden=None), film)


def small(**how: object) -> Navigation:
    """Short walks that do not begin at the origin, where units of biases at 0 have their kink."""
    return Navigation(**({"horizon": 8, "starts": 0.3} | how))  # type: ignore[arg-type]


@pytest.mark.parametrize("method", ["maml", "mumomaml"])
def test_a_task_in_hand_is_met_and_adapted_to(method: str) -> None:
    learner = policies(small(), method, 2)
    goal = torch.tensor([0.4, -0.2, 0.1, 0.2, 0.0], dtype=F64)
    met = Experience(small(), trajectories=5, preparing=1 if method == "mumomaml" else None).meet(learner, goal.float())
    assert len(met.support) == len(learner.steps)
    for point, rollouts in zip(learner.adapt(learner.prior, met.support), (*met.support, met.query), strict=True):
        seen = rollouts.observations
        torch.testing.assert_close(seen[:, 0], goal[2:4].expand_as(seen[:, 0]))
        walked = (seen[:, 1:] - goal[:2]).norm(dim=-1) * rollouts.alive[:, 1:]
        torch.testing.assert_close(-rollouts.rewards[:, :-1] * rollouts.alive[:, 1:], walked)
        assert learner.model is not None
        log_prob = learner.model(point, seen).log_prob(rollouts.actions) * rollouts.alive
        torch.testing.assert_close(log_prob, rollouts.log_prob, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("method", ["maml", "l2f", "rates", "mumomaml"])
@pytest.mark.parametrize("steps", [1, 2, 3])
def test_replaying_what_was_sampled_gives_the_same_path(method: str, steps: int) -> None:
    torch.manual_seed(0)
    learner = policies(small(), method, steps)
    met = Experience(small(), trajectories=5, preparing=1 if method == "mumomaml" else None).gather(learner, learner.prior, "train", 3, 4)
    assert len(met.support) == len(learner.steps)
    for i in range(4):
        task = one(met, i)
        path = learner.adapt(learner.prior, task.support)
        for point, rollouts in zip(path, (*task.support, task.query), strict=True):
            assert learner.model is not None
            log_prob = learner.model(point, rollouts.observations).log_prob(rollouts.actions) * rollouts.alive
            torch.testing.assert_close(log_prob, rollouts.log_prob, rtol=1e-9, atol=1e-9)
    moved = [not torch.allclose(a.rewards, b.rewards) for a, b in zip(met.support, [*met.support[1:], met.query], strict=True)]
    assert all(moved) or method == "mumomaml"


def test_a_tasks_rollouts_do_not_depend_on_those_beside_it() -> None:
    learner, experience = policies(small(), "maml", 1), Experience(small(), 5)
    together, alone = (experience.gather(learner, learner.prior, "train", first, count) for first, count in ((0, 6), (4, 1)))
    torch.testing.assert_close(one(together, 4), one(alone, 0), rtol=1e-12, atol=1e-12)
    other = experience.gather(learner, learner.prior, "test", 4, 1)
    assert not torch.equal(one(other, 0).query.rewards, one(alone, 0).query.rewards)


class Reusing:
    """Episodes that keep all that they give in the same tensors."""

    def __init__(self, plain: Episodes):
        self.plain, self.observation = plain, plain.observation.clone()
        self.reward = self.observation[..., 0].clone()

    def step(self, action: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        seen, reward, ended = self.plain.step(action)
        return self.observation.copy_(seen), self.reward.copy_(reward), ended


class ReusingWorld(Around):
    def begin(self, tasks: Tensor, trajectories: int, generators: Sequence[torch.Generator]) -> Episodes:
        return Reusing(self.world.begin(tasks, trajectories, generators))


def test_a_world_may_reuse_its_tensors() -> None:
    learner = learner_for()
    own, reused = (Experience(world, 3).gather(learner, learner.prior, "train", 0, 2) for world in (small(), ReusingWorld(small())))
    for a, b in zip(own.query, reused.query, strict=True):
        assert torch.equal(a, b)


def test_rollouts_of_the_step_before_are_seen_again_where_that_is_asked() -> None:
    learner = policies(small(), "l2f", 2)
    fresh, again = (Experience(small(), 5, again=a).gather(learner, learner.prior, "train", 0, 2) for a in (False, True))
    assert not torch.equal(fresh.support[0].actions, fresh.support[1].actions)
    assert torch.equal(again.support[0].actions, again.support[1].actions)
    assert not torch.equal(again.support[1].actions, again.support[2].actions)


def test_an_episode_that_ended_is_masked_and_counts_no_more() -> None:
    """Points that walk right into goals at different distances."""
    straight = nn.Linear(2, 2)
    policy = GaussianPolicy(straight, actions=2, sd=1e-6).double()
    with torch.no_grad():
        straight.weight.zero_()
        straight.bias.copy_(torch.tensor([1.0, 0.0]))
    tasks = torch.zeros(2, 5, dtype=F64)
    tasks[:, 0] = torch.tensor([0.3, 0.5])
    params = {f"net.{n}": p.detach().expand(2, *p.shape) for n, p in policy.named_parameters()}
    found = collect(pretrained(policy, score(policy)).model, params, small(), tasks, 2, [torch.Generator(), torch.Generator()], Returns())  # type: ignore[arg-type]
    assert found.alive.sum(-1).tolist() == [[3, 3], [5, 5]]
    assert torch.allclose(total(found), torch.tensor([-0.3, -1.0], dtype=F64), atol=1e-4)  # .2 + .1 + 0 and .4 + .3 + .2 + .1 + 0
    assert not found.rewards[~found.alive].any()
    assert not found.advantages[~found.alive].any()
    changed = found._replace(rewards=found.rewards, advantages=found.advantages.where(found.alive, 7.0))
    for loss in (score, ratio, loaded_dice, clipped):
        at = {f"net.{n}": p.detach() for n, p in policy.named_parameters()}
        torch.testing.assert_close(loss(policy)(at, one(found, 0)), loss(policy)(at, one(changed, 0)))


def test_what_happens_after_an_episodes_end_is_not_looked_at() -> None:
    """A world that breaks for those who walk on."""

    class Cliff(Broken):
        def step(self, action: Tensor) -> tuple[Tensor, Tensor, Tensor]:
            seen, reward, ended = self.walk.step(action)
            self.t += 1
            over = torch.zeros_like(ended)
            if self.t == 2:
                over[:, 0] = True
            if self.t > 2:
                seen[:, 0], reward[:, 0] = torch.nan, torch.nan
            return seen, reward, over

    learner = learner_for()
    met = Experience(Cliff(""), 3).gather(learner, learner.prior, "train", 0, 2)  # type: ignore[arg-type]
    assert met.query.alive[:, 0].sum(-1).tolist() == [2, 2]
    assert all(t.isfinite().all() for t in met.query)


def test_the_baseline_is_the_ridge_regression_that_numpy_solves() -> None:
    torch.manual_seed(0)
    seen, returns, alive = 20 * torch.randn(2, 4, 30, 3, dtype=F64), torch.randn(2, 4, 30, dtype=F64), torch.rand(2, 4, 30) < 0.8
    weights = fitted(features(seen), returns, alive)
    for i in range(2):
        f, r = features(seen[i])[alive[i]].numpy(), returns[i][alive[i]].numpy()
        ridge = np.sqrt(RIDGE) * np.eye(f.shape[1])
        wanted = np.linalg.lstsq(np.vstack([f, ridge]), np.concatenate([r, np.zeros(f.shape[1])]), rcond=None)[0]
        np.testing.assert_allclose(weights[i, :, 0].numpy(), wanted, rtol=1e-5, atol=1e-7)
    nothing = features(torch.zeros(1, 2, 5, 3))  # to tell apart
    assert fitted(nothing, torch.ones(1, 2, 5), torch.ones(1, 2, 5, dtype=torch.bool)).isfinite().all()


def test_advantages_are_generalised_advantage_estimates_by_the_book() -> None:
    torch.manual_seed(0)
    seen, rewards, alive = torch.randn(1, 3, 6, 2, dtype=F64), torch.randn(1, 3, 6, dtype=F64), torch.ones(1, 3, 6, dtype=torch.bool)
    plain = Returns(discount=0.9, trace=0.8, normalised=False)
    weights = fitted(features(seen), discounted(rewards, 0.9), alive)
    b = (features(seen) @ weights[:, None])[0, ..., 0]
    wanted = torch.zeros(3, 6, dtype=F64)
    for k in range(3):
        for t in range(6):
            for s in range(t, 6):
                following = 0.9 * b[k, s + 1] if s < 5 else 0.0
                wanted[k, t] += (0.9 * 0.8) ** (s - t) * (rewards[0, k, s] + following - b[k, s])
    torch.testing.assert_close(plain(seen, rewards, alive)[0], wanted)
    scaled = replace(plain, normalised=True)(seen, rewards, alive)
    torch.testing.assert_close(scaled[0], (wanted - wanted.mean()) / wanted.std(correction=0), rtol=1e-6, atol=1e-6)


def test_bootstrapping_takes_a_constant_reward_to_go_on() -> None:
    """With reward 1 for ever, every return is 1 / (1 − γ): nothing is better or worse than another."""
    seen, rewards, alive = torch.zeros(1, 4, 50, 1), torch.ones(1, 4, 50), torch.ones(1, 4, 50, dtype=torch.bool)
    cut = Returns(discount=0.5, normalised=False, bootstrap=True)
    found = cut(seen, rewards, alive, torch.zeros(1, 4, 1), torch.ones(1, 4, dtype=torch.bool))
    without = replace(cut, bootstrap=False, baseline="none")(seen, rewards, alive)
    assert found.abs().max() < 0.3 < (without - 2).abs().max()
    with pytest.raises(InputError, match="give last and going"):
        cut(seen, rewards, alive)


@pytest.mark.parametrize("discount", [0.5, 0.9, 0.99])
def test_rewards_that_stay_what_they_are_are_expected_for_ever(discount: float) -> None:
    """Each episode shows its own reward, which never changes: no step is better than expected, but where a cut is taken for an end."""
    own = torch.linspace(-1, 1, 20)[None, :, None]
    rewards, alive, going = own.expand(1, 20, 100), torch.ones(1, 20, 100, dtype=torch.bool), torch.ones(1, 20, dtype=torch.bool)
    cut = Returns(discount, normalised=False, bootstrap=True)
    assert cut(rewards[..., None], rewards, alive, own, going).abs().max() < 1e-3
    assert replace(cut, bootstrap=False)(rewards[..., None], rewards, alive).abs().max() > 0.3
    with pytest.raises(InputError, match="bootstrap with a discount of 1 has no end"):
        Returns(1.0, bootstrap=True)


def test_an_episode_that_a_time_limit_cuts_is_bootstrapped_where_it_was_cut() -> None:
    """The same walk, cut after 5 of 12 steps by the world and by the horizon: every advantage is the same."""
    cut = Returns(bootstrap=True, normalised=False)
    seen, rewards, last = (torch.randn(shape, generator=torch.Generator().manual_seed(0)) for shape in ((1, 4, 5, 2), (1, 4, 5), (1, 4, 2)))
    alive, going = torch.ones(1, 4, 5, dtype=torch.bool), torch.tensor([[True, True, False, False]])
    longer = lambda t: torch.cat([t, t.new_zeros(*t.shape[:2], 7, *t.shape[3:])], 2)
    wanted = cut(seen, rewards, alive, last, going)
    found = cut(longer(seen), longer(rewards), longer(alive), last, going)
    torch.testing.assert_close(found, longer(wanted))
    assert not torch.allclose(wanted, cut(seen, rewards, alive, last, torch.zeros_like(going)))
    after = last.where(going.unsqueeze(-1), torch.nan)  # what follows an end
    torch.testing.assert_close(cut(seen, rewards, alive, after, going), wanted)


def test_rollouts_are_bootstrapped_with_what_was_seen_last() -> None:
    learner = policies(small(), "maml", 1)
    plain, cut = (Experience(small(), 5, returns=Returns(bootstrap=b)).gather(learner, learner.prior, "train", 0, 2) for b in (False, True))
    assert torch.equal(plain.support[0].rewards, cut.support[0].rewards)
    assert not torch.allclose(plain.support[0].advantages, cut.support[0].advantages)


# Trust regions


def quadratic() -> tuple[TrustRegion, Params, Tensor]:
    a = torch.tensor([[2.0, 0.3], [0.3, 1.0]], dtype=F64)
    goal = torch.tensor([1.0, -2.0], dtype=F64)
    judge = lambda p, batch: (((p["x"] - goal) ** 2).sum(), p["x"])
    divergence = lambda old, new, batch: 0.5 * (new - old) @ a @ (new - old)
    return TrustRegion(judge, divergence, limit=0.02, damping=0.0), {"x": torch.zeros(2, dtype=F64)}, a


def test_a_trust_region_step_on_a_quadratic_is_the_exact_one() -> None:
    region, params, a = quadratic()
    there, did = region(params, None)
    x = torch.linalg.solve(a, -2 * torch.tensor([-1.0, 2.0], dtype=F64))
    x = x * (0.04 / (x @ a @ x)).sqrt()
    while 0.5 * x @ a @ x > 0.02:  # on the edge but for rounding
        x = 0.8 * x
    torch.testing.assert_close(there["x"], x, rtol=1e-8, atol=1e-8)
    assert did.after < did.before
    assert did.moved <= 0.02
    assert params["x"].tolist() == [0.0, 0.0]


def test_a_rejected_step_leaves_the_parameters_alone() -> None:
    region, *_ = quadratic()
    stubborn = replace(region, judge=lambda p, batch: (p["x"].sum() * 0 + p["x"].square().sum().sqrt() - p["x"][0] * 1e-3, p["x"]))
    start = {"x": torch.tensor([1e-9, 0.0], dtype=F64)}
    there, did = replace(stubborn, limit=1.0, tries=2)(start, None)
    assert there is start
    assert (did.tries, did.moved) == (2, 0.0)


def test_conjugate_gradients_solve_and_tell_the_curvature_of_what_they_found() -> None:
    torch.manual_seed(0)
    root = torch.randn(6, 6, dtype=F64)
    a, b = root @ root.T + torch.eye(6, dtype=F64), torch.randn(6, dtype=F64)
    for iterations in (3, 12):
        x, bent = conjugate_gradients(lambda v: {"x": a @ v["x"]}, {"x": b}, iterations)
        torch.testing.assert_close(bent, x["x"] @ a @ x["x"])
    torch.testing.assert_close(x["x"], torch.linalg.solve(a, b))


def gathered(learner: Learner, **how: object) -> Task:
    return Experience(small(), 5, **how).gather(learner, learner.prior, "train", 0, 3)  # type: ignore[arg-type]


@pytest.mark.parametrize("method", ["maml", "l2f", "mumomaml"])
def test_products_are_those_with_the_hessian_of_the_kl_after_adaptation(method: str) -> None:
    torch.manual_seed(0)
    learner = policies(small(), method, 1)
    tasks, region = gathered(learner), trpo(learner, damping=0.0)
    v = {name: torch.randn_like(p) for name, p in learner.prior.items()}
    old = region.judge(learner.prior, tasks)[1]
    kl = lambda p: region.divergence(old, region.judge(p, tasks)[1], tasks)
    slope = grad(kl)
    assert dot(slope(learner.prior), slope(learner.prior)) < 1e-20
    exact = torch.func.jvp(slope, (learner.prior,), (v,))[1]
    found = region.curvature(learner.prior, tasks)(v)
    torch.testing.assert_close(found, exact, rtol=1e-8, atol=1e-10)


def test_differences_of_gradients_come_near_the_product_where_the_policy_is_smooth() -> None:
    """With ReLU the inner gradient jumps, and differences of it with it: that is why the exact product is the default."""
    torch.manual_seed(0)
    policy = GaussianPolicy(nn.Sequential(nn.Linear(2, 8), nn.Tanh(), nn.Linear(8, 2)), 2).double()
    learner = judged(maml(policy, score(policy), 1, 0.1), policy)
    tasks, region = gathered(learner), trpo(learner)
    v = {name: torch.randn_like(p) for name, p in learner.prior.items()}
    exact, near = (replace(region, hessian=h).curvature(learner.prior, tasks)(v) for h in ("exact", "differences"))
    apart = map_tensors(torch.sub, near, exact)
    assert dot(apart, apart) < 1e-5 * dot(exact, exact)


@pytest.mark.parametrize("method", ["maml", "l2f", "rates"])  # maltml's takes minutes to compile
def test_a_compiled_step_is_the_eager_one(method: str) -> None:
    learner = policies(small(), method, 1)
    tasks = gathered(learner)
    # Ten conjugate gradients of a matrix that is nearly singular turn rounding into another direction: hence the damping.
    (eager, did), (built, same) = (trpo(learner, compile=c, damping=0.1)(learner.prior, tasks) for c in (False, True))
    torch.testing.assert_close(built, eager, rtol=1e-8, atol=1e-10)
    assert (did.tries, pytest.approx(did.after)) == (same.tries, same.after)
    assert did.after < did.before
    assert 0 < did.moved <= 0.01


@pytest.mark.parametrize("method", ["maml", "l2f", "rates", "mumomaml"])
def test_all_plans_give_one_meta_gradient_of_a_policy(method: str) -> None:
    torch.manual_seed(0)
    learner = policies(small(), method, 2)
    tasks = gathered(learner)
    plans = [Plan(), Plan(loop=True), Plan(stepwise=True), Plan(stepwise=True, recompute=True)]
    first, *others = (meta_gradient(learner, plan)(learner.prior, tasks)[0] for plan in plans)
    for other in others:
        torch.testing.assert_close(other, first, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("inner", [score, ratio, loaded_dice])
def test_the_meta_gradient_is_that_of_the_surrogate(inner: Callable[[nn.Module], Loss]) -> None:
    policy = gaussian_mlp(2, 4, 2, generator=torch.Generator().manual_seed(0)).double()
    learner = judged(maml(policy, inner(policy), 2, 0.1), policy)
    tasks, names = gathered(learner), list(learner.prior)
    f = lambda *values: meta_loss(learner)(dict(zip(names, values, strict=True)), tasks)
    assert torch.autograd.gradcheck(f, tuple(p.requires_grad_() for p in learner.prior.values()))


def test_products_of_the_curvature_may_be_rough_and_nothing_else() -> None:
    policy = gaussian_mlp(2, 16, 2, generator=torch.Generator().manual_seed(0))
    learner = judged(il.maml(policy, score(policy), steps=1, rate=0.1), policy)
    tasks = Experience(Navigation(horizon=10), 6).gather(learner, learner.prior, "train", 0, 4)
    exact, rough = trpo(learner), trpo(learner, precision="bfloat16")
    v = {name: torch.randn(p.shape, generator=torch.Generator().manual_seed(1)) for name, p in learner.prior.items()}
    products = [torch.cat([p.flatten() for p in region.curvature(learner.prior, tasks)(v).values()]) for region in (exact, rough)]
    apart = float((products[1] - products[0]).norm() / products[0].norm())
    assert 1e-4 < apart < 0.03
    (there, did), (_, roughly) = exact(learner.prior, tasks), rough(learner.prior, tasks)
    assert all(p.dtype == torch.float32 for p in there.values())
    assert roughly.before == did.before, "the surrogate itself is exact"
    assert roughly.after == pytest.approx(did.after, rel=0.25), "lengths that are tried are a fifth apart"
    with pytest.raises(InputError, match="no precision 'bfloat'; did you mean bfloat16"):
        trpo(learner, precision="bfloat")
    with pytest.raises(InputError, match="differences of gradients need every digit"):
        trpo(learner, precision="bfloat16", hessian="differences")


def test_curvature_is_taken_on_a_part_of_the_trajectories() -> None:
    learner = policies(small(), "maml", 1)
    tasks = gathered(learner)
    assert trpo(learner).fewer(tasks).query.rewards.shape == (3, 5, 8)
    assert trpo(learner, part=0.5).fewer(tasks).support[0].rewards.shape == (3, 3, 8)
    many = map_tensors(lambda t: t.repeat(1, 200, *[1] * (t.ndim - 2)), tasks)
    assert trpo(learner).fewer(many).query.rewards.shape == (3, 250, 8)
    with pytest.raises(InputError, match="part is 2"):
        trpo(learner, part=2)


# Training


def learner_for(steps: int = 1) -> Learner:
    policy = gaussian_mlp(2, 8, 2, generator=torch.Generator().manual_seed(0))
    return judged(maml(policy, score(policy), steps, 0.1), policy)


QUIET = {"meta_batch": 3, "progress": False}


@pytest.mark.parametrize("optimizer", [None, adam(1e-2)])
def test_a_run_that_goes_on_is_bit_for_bit_an_unbroken_one(tmp_path: Path, optimizer: object) -> None:
    how: dict = QUIET | {"optimizer": optimizer, "checkpoint_every": 2}
    met = Experience(small(), 4)
    unbroken = train_policy(learner_for(), met, 5, out=tmp_path / "a", **how)
    train_policy(learner_for(), met, 2, out=tmp_path / "b", **how)
    continued = train_policy(learner_for(), met, 5, out=tmp_path / "b", resume=True, **how)
    assert all(torch.equal(p, continued.prior[n]) for n, p in unbroken.prior.items())
    lines = [(tmp_path / name / "metrics.jsonl").read_text().count("return") for name in "ab"]
    assert lines[0] == lines[1] == 5 * 2
    with pytest.raises(InputError, match="was made with experience"):
        train_policy(learner_for(), Experience(small(), 5), 6, out=tmp_path / "b", resume=True, **how)
    with pytest.raises(InputError, match="was made with steps 1, not 2"):
        train_policy(learner_for(2), met, 6, out=tmp_path / "b", resume=True, **how)
    other: dict = how | {"optimizer": None if optimizer else adam(1e-2)}
    with pytest.raises(InputError, match="was made with outer"):
        train_policy(learner_for(), met, 6, out=tmp_path / "b", resume=True, **other)


def test_two_runs_of_a_seed_are_equal_and_of_two_seeds_are_not() -> None:
    first, same, other = (train_policy(learner_for(), Experience(small(seed=s), 4), 2, best=False, **QUIET).prior for s in (0, 0, 1))
    assert all(torch.equal(first[n], same[n]) for n in first)
    assert not torch.equal(first["net.mean.0.weight"], other["net.mean.0.weight"])


def test_the_best_prior_is_kept_or_the_last_one(tmp_path: Path) -> None:
    rows: list[dict] = []
    met, priors = Experience(small(), 4), []
    for n in range(1, 5):
        priors.append(train_policy(learner_for(), met, n - 1, best=False, **QUIET).prior)
    kept = train_policy(learner_for(), met, 4, log=rows.append, **QUIET).prior
    returns = [row["return"] for row in rows if "return" in row]
    best = returns.index(max(returns))
    assert all(torch.equal(kept[n], priors[best][n]) for n in kept)


def test_training_raises_the_return_after_adaptation() -> None:
    """Fifteen iterations on a short walk: well above where it began, and adapting helps."""
    policy = gaussian_mlp(2, 32, 2, generator=torch.Generator().manual_seed(0))
    learner = judged(maml(policy, score(policy), 1, 0.1), policy)
    met = Experience(Navigation(horizon=20), 20)
    before = evaluate_policy(learner, met, n_tasks=20)
    trained = train_policy(learner, met, 15, outer=partial(trpo, limit=0.05), best=False, progress=False)
    after = evaluate_policy(trained, met, n_tasks=20)
    assert after.mean[1] > before.mean[1] + 1
    assert after.mean[1] > after.mean[0] + 0.5


def test_a_signal_saves_the_state(tmp_path: Path) -> None:
    import os
    import signal

    def stop(row: dict) -> None:
        if row.get("iteration") == 2:
            os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(Stopped, match="after iteration 2 of 9"):
        train_policy(learner_for(), Experience(small(), 4), 9, out=tmp_path, log=stop, **QUIET)
    assert checkpoint.read(tmp_path / "checkpoint.safetensors")[1]["iteration"] == 2


def test_an_oracle_sees_the_goal_and_a_policy_without_steps_is_scored_once() -> None:
    world = Told(small())
    assert world.observations == 4
    policy = gaussian_mlp(4, 8, 2)
    learner = pretrained(policy, ratio(policy))
    met = Experience(world, 3).gather(learner, learner.prior, "train", 0, 2)
    torch.testing.assert_close(met.query.observations[:, :, 0, 2:], world.tasks("train", 0, 2)[:, None, :2].expand(-1, 3, -1))
    assert evaluate_policy(learner, Experience(world, 3), steps=0, n_tasks=2).values.shape == (2, 1)


def test_scores_are_the_returns_of_what_adaptation_saw() -> None:
    learner = policies(small(), "l2f", 1)
    met = Experience(small(), 4)
    scores = evaluate_policy(learner, met, steps=2, n_tasks=3, together=2)
    tasks = met.gather(learner.taking(2), learner.prior, "test", 0, 3)
    wanted = torch.stack([total(r) for r in (tasks.support[1], tasks.support[2], tasks.query)], 1)
    torch.testing.assert_close(scores.values, wanted)


# Families


def test_goals_of_a_family_share_a_rectangle_and_nothing_else() -> None:
    goals = Rectangles(small()).families("train", 0, 200, 40)[..., :2]
    assert goals.abs().max() <= 0.5
    sides = goals.amax(1) - goals.amin(1)
    assert sides.max() <= 0.75
    assert 0.4 < sides.mean() < 0.55  # 40 goals reach 39/41 of a side of 0.5
    assert torch.equal(Rectangles(small()).families("train", 3, 2, 40)[..., :2], goals[3:5])
    assert not torch.equal(Rectangles(small()).families("test", 3, 2, 40)[..., :2], goals[3:5])


def test_replaying_a_family_gives_the_familys_prior_and_no_meta_step_gives_the_base() -> None:
    policy = gaussian_mlp(2, 8, 2, generator=torch.Generator().manual_seed(0)).double()
    base = judged(maml(policy, score(policy), 1, 0.1), policy)
    met = FamilyExperience(Experience(Rectangles(small()), 4), base, related=3, goals=2)
    over = maltml(base, meta_rate=0.1)
    families = met.gather(over, over.prior, "train", 0, 2)
    for j in range(2):
        family = one(families, j)
        own = over.adapt(over.prior, family.support)[-1]
        for c in range(2):
            task = one(family.query, c)
            assert base.model is not None
            for point, rollouts in zip(base.adapt(own, task.support), (*task.support, task.query), strict=True):
                found = base.model(point, rollouts.observations).log_prob(rollouts.actions) * rollouts.alive
                torch.testing.assert_close(found, rollouts.log_prob, rtol=1e-9, atol=1e-9)
    still = met.gather(maltml(base, meta_rate=0.0), over.prior, "train", 0, 2)
    moved = not torch.allclose(still.query.support[0].actions, families.query.support[0].actions)
    assert moved
    region = trpo(over, goal=base)
    there, did = region(over.prior, families)
    assert did.after < did.before
    assert there["net.mean.0.weight"].shape == over.prior["net.mean.0.weight"].shape
    assert evaluate_policy(over, met, steps=2, n_tasks=2).values.shape == (2, 3)


def test_a_gradient_through_three_levels_of_policies_is_right() -> None:
    policy = gaussian_mlp(2, 3, 2, generator=torch.Generator().manual_seed(0)).double()
    base = judged(maml(policy, loaded_dice(policy), 1, 0.1), policy)
    over = maltml(base, meta_rate=0.1)
    for name, p in over.prior.items():
        over.prior[name] = p + 0.1 * torch.rand_like(p)  # walks begin at the origin, where units of biases at 0 have their kink
    families = FamilyExperience(Experience(Rectangles(small(horizon=4)), 3), base, 2, 1).gather(over, over.prior, "train", 0, 1)
    names = list(over.prior)
    f = lambda *values: meta_loss(over)(dict(zip(names, values, strict=True)), families)
    assert torch.autograd.gradcheck(f, tuple(p.requires_grad_() for p in over.prior.values()))


# Bad input


class Broken:
    """A world whose second observation or reward of task 1 is NaN."""

    observations, actions, discrete, horizon, seed = 2, 2, False, 4, 0

    def __init__(self, what: str):
        self.what, self.plain = what, small(horizon=4)

    def tasks(self, split: str, first: int, count: int) -> Tensor:
        return self.plain.tasks(split, first, count)

    identity = tasks

    def begin(self, tasks: Tensor, trajectories: int, generators: object) -> "Broken":
        self.walk, self.t = self.plain.begin(tasks, trajectories, generators), 0  # type: ignore[arg-type]
        self.observation = self.walk.observation
        return self

    def step(self, action: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        seen, reward, ended = self.walk.step(action)
        self.t += 1
        if self.t == 2:
            (seen if self.what == "an observation" else reward)[1] = torch.nan
        return seen, reward, ended


@pytest.mark.parametrize(("what", "time"), [("an observation", 2), ("a reward", 1)])
def test_nan_is_named_with_task_and_time(what: str, time: int) -> None:
    learner = learner_for()
    with pytest.raises(InputError, match=f"{what} of task 6 of 'train' is NaN or infinite at time {time} of trajectory 0"):
        Experience(Broken(what), 2).gather(learner, learner.prior, "train", 5, 3)  # type: ignore[arg-type]


def test_a_prior_or_an_adaptation_that_diverged_is_not_blamed_on_the_world(tmp_path: Path) -> None:
    met = Experience(small(), 2)
    with pytest.raises(Diverged, match="the prior became NaN or infinite before iteration 1; take a smaller outer step"):
        train_policy(learner_for(), met, 3, optimizer=lambda params: torch.optim.SGD(params, torch.inf), out=tmp_path, **QUIET)
    assert checkpoint.read(tmp_path / "checkpoint.safetensors")[1]["iteration"] == 0
    policy = gaussian_mlp(2, 8, 2, generator=torch.Generator().manual_seed(0))
    learner = judged(maml(policy, score(policy), 1, torch.inf), policy)
    with pytest.raises(Diverged, match="parameters that task 40 of 'test' is met with became NaN or infinite; take smaller steps"):
        met.gather(learner, learner.prior, "test", 40, 2)
    huge = {name: 1e38 * p.sign() for name, p in learner.prior.items()}
    with pytest.raises(Diverged, match="actions that task 40 of 'test' is met with became NaN or infinite; take smaller steps"):
        met.gather(learner, huge, "test", 40, 2)


def test_an_inner_rate_that_makes_a_policy_diverge_is_not_taken() -> None:
    policy = gaussian_mlp(2, 8, 2, generator=torch.Generator().manual_seed(0))
    build = lambda rate: judged(maml(policy, score(policy), 2, rate), policy)
    scored = lambda *given, metric=None, **how: evaluate_policy(*given, **how)
    met: Any = Experience(small(), 2)
    rate, scores = tune(build, (0.1, 1e30), met, 2, 2, highest=True, score=scored)
    assert (rate, scores[1e30]) == (0.1, torch.inf)


class Remembering(nn.Module):
    """Acts by what it saw before, as far as it is given at once."""

    def __init__(self) -> None:
        super().__init__()
        self.read, self.log_sd = nn.GRU(2, 2, batch_first=True), nn.Parameter(torch.zeros(2))

    def forward(self, seen: Tensor) -> Gaussian:
        mean = self.read(seen)[0]
        return Gaussian(mean, self.log_sd.expand_as(mean))


class Flattening(nn.Linear):
    """Takes rows alone."""

    def __init__(self) -> None:
        super().__init__(2, 2)

    def forward(self, input: Tensor) -> Tensor:
        return super().forward(input.view(input.shape[0], 2))


def test_a_policy_of_the_wrong_kind_or_size_is_named() -> None:
    dropping = GaussianPolicy(nn.Sequential(nn.Linear(2, 2), nn.Dropout(0.5)), 2)
    for policy, message in (
        (CategoricalPolicy(mlp(2, 3)), "use a GaussianPolicy"),
        (gaussian_mlp(2, 4, 3), "gives actions of 3 numbers but the world takes 2"),
        (gaussian_mlp(3, 4, 2), "does not take the world's observations of 2 numbers"),
        (dropping, "draws random numbers by itself.*call eval"),
        (Remembering(), "must take observations with any axes in front, of which each gives its own distribution; a recurrent"),
        (GaussianPolicy(Flattening(), 2), r"with any axes in front, .*, \[trajectories, steps, numbers\] too"),
    ):
        _refused(policy, small(), message)


class Choosing(Around):
    """A plane whose actions are one of two."""

    @property
    def discrete(self) -> bool:
        return True


class Never(Around):
    """A plane whose episodes have no steps."""

    @property
    def horizon(self) -> int:
        return 0


def _refused(policy: nn.Module, world: Any, message: str) -> None:
    learner = maml(policy, score(policy))
    with pytest.raises(InputError, match=message):
        Experience(world, 2).gather(learner, learner.prior, "train", 0, 1)


def test_a_world_of_choices_refuses_a_gaussian_policy_and_one_without_steps_any() -> None:
    _refused(
        gaussian_mlp(2, 4, 2), Choosing(small()), "gives actions of real numbers but the world takes one of several actions; use a Cat"
    )
    _refused(gaussian_mlp(2, 4, 2), Never(small()), "the world's horizon 0; both must be 1 or more")


class Laplace(NamedTuple):
    """A distribution of one's own, without a mean."""

    middle: Tensor
    scale: Tensor

    def act(self, noise: Tensor) -> Tensor:
        return self.middle + self.scale * noise.sign() * noise.square()

    def log_prob(self, action: Tensor) -> Tensor:
        return -((action - self.middle).abs() / self.scale + self.scale.log()).sum(-1)

    def kl(self, new: "Laplace") -> Tensor:
        return (self.middle - new.middle).square().sum(-1)


class OwnPolicy(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.net = mlp(2, 8, 2, generator=torch.Generator().manual_seed(0))

    def forward(self, observations: Tensor) -> Laplace:
        middle = self.net(observations)
        return Laplace(middle, torch.ones_like(middle))


def test_a_policy_may_have_a_distribution_of_its_own() -> None:
    policy = OwnPolicy()
    learner = judged(maml(policy, score(policy), 1, 0.1), policy)
    trained = train_policy(learner, Experience(small(), 3), 2, optimizer=adam(1e-2), best=False, **QUIET)
    assert not torch.equal(trained.prior["net.net.0.weight"], learner.prior["net.net.0.weight"])


def test_an_encoder_of_trajectories_reads_actions_that_are_numbers_as_their_choice() -> None:
    encoder = OfTrajectory(2 + 3 + 1, 4, generator=torch.Generator().manual_seed(0))
    observations, rewards, chosen = torch.randn(1, 5, 2), torch.randn(1, 5), torch.tensor([[0, 2, 1, 1, 0]])
    torch.testing.assert_close(
        encoder(observations, chosen, rewards), encoder(observations, nn.functional.one_hot(chosen, 3).float(), rewards)
    )


def test_an_encoder_of_trajectories_stops_where_the_episode_ends() -> None:
    encoder = OfTrajectory(2 + 1 + 1, 4, generator=torch.Generator().manual_seed(0))
    seen, acted, rewards = torch.randn(1, 5, 2), torch.randn(1, 5, 1), torch.randn(1, 5)
    after = lambda t: torch.cat([t, t.new_zeros(1, 7, *t.shape[2:])], 1)
    alive = after(torch.ones(1, 5, dtype=torch.bool))
    both = [torch.stack([after(t), torch.randn(1, 12, *t.shape[2:])]) for t in (seen, acted, rewards)]
    found = torch.func.vmap(encoder)(*both, torch.stack([alive, torch.ones_like(alive)]))
    torch.testing.assert_close(found[0], encoder(seen, acted, rewards))
    torch.testing.assert_close(found[1], encoder(*(t[1] for t in both)))


def test_weights_of_the_query_loss_count_in_the_trust_region_too() -> None:
    policy = gaussian_mlp(2, 8, 2, generator=torch.Generator().manual_seed(0))
    learner = replace(judged(maml(policy, score(policy), 2, 0.5), policy), weights=(0.5, 0.25, 0.25))
    tasks = gathered(learner)
    torch.testing.assert_close(trpo(learner).judge(learner.prior, tasks)[0], meta_loss(learner)(learner.prior, tasks))
    plain = replace(learner, weights=(1.0,))
    assert not torch.allclose(trpo(learner).judge(learner.prior, tasks)[0], trpo(plain).judge(plain.prior, tasks)[0], atol=1e-4)


def test_small_rewards_are_learned_from_too() -> None:
    tiny = lambda params, batch: (1e-6 * params["x"].square().sum(), params["x"])
    region = TrustRegion(tiny, lambda old, new, batch: (old - new).square().sum())
    start = {"x": torch.ones(3)}
    assert region(start, None)[1].tries == 1


def test_scores_of_policies_tell_worlds_and_families_apart_but_not_what_an_oracle_is_told() -> None:
    learner = learner_for()
    tasks = lambda world: evaluate_policy(learner, Experience(world, 2), n_tasks=2).tasks
    own = tasks(small())
    assert own == tasks(small())
    assert own != tasks(small(reward="squared"))
    assert own != tasks(small(horizon=4))
    policy = gaussian_mlp(4, 8, 2)
    assert own == evaluate_policy(pretrained(policy, ratio(policy)), Experience(Told(small()), 2), n_tasks=2).tasks
    met = Experience(Rectangles(small()), 2)
    families = [evaluate_policy(maltml(learner), FamilyExperience(met, learner, k, 1), n_tasks=2).tasks for k in (1, 2)]
    assert families[0] != families[1]
    told, own = (FamilyExperience(Experience(Rectangles(world), 2), learner, 1, 1) for world in (Told(small()), small()))
    kept = maltml(learner, 0)
    oracle = pretrained(policy, ratio(policy))
    told = replace(told, base=oracle)
    assert evaluate_policy(maltml(oracle, 0), told, n_tasks=2).tasks == evaluate_policy(kept, own, n_tasks=2).tasks


def test_a_family_scores_the_mean_over_its_goals() -> None:
    learner = learner_for()
    over, met = maltml(learner), FamilyExperience(Experience(Rectangles(small()), 3), learner, related=2, goals=3)
    scores = evaluate_policy(over, met, n_tasks=5, together=2)
    drawn = met.gather(over, over.prior, "test", 0, 5).query
    before, after = drawn.support[0], drawn.query
    expected = torch.stack([total(rollouts).mean(1) for rollouts in (before, after)], 1)
    assert expected.shape == (5, 2)
    torch.testing.assert_close(scores.values, expected)


def test_a_run_in_a_world_of_ones_own_goes_on(tmp_path: Path) -> None:
    class Own(Navigation):
        __repr__ = object.__repr__

    train_policy(learner_for(), Experience(Own(horizon=4), 2), 1, out=tmp_path, **QUIET)
    train_policy(learner_for(), Experience(Own(horizon=4), 2), 2, out=tmp_path, resume=True, **QUIET)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Navigation(horizon=0), "1 step or more"),
        (lambda: Navigation(reward="square"), "did you mean squared"),  # type: ignore[arg-type]
        (lambda: Navigation(stop="circle"), "stop is 'circle'"),  # type: ignore[arg-type]
        (lambda: Experience(Navigation(), 0), "give 1 or more"),
        (lambda: Experience(Navigation(), preparing=0), "preparing 0; give 1 or more"),
        (lambda: Returns(discount=1.2), "from 0 to 1"),
        (lambda: Returns(baseline="none", bootstrap=True), "without bootstrap"),
        (lambda: GaussianPolicy(mlp(2, 2), 2, sd=0), "0 < least ≤ sd"),
        (lambda: loaded_dice(Table(), 2.0), "from 0"),
        (lambda: clipped(Table(), 0), "more than 0"),
        (lambda: Rectangles(least=0.9, most=0.5), "least ≤ most"),
        (lambda: FamilyExperience(Experience(Navigation()), learner_for()), "no families"),
        (lambda: trpo(learner_for(), limit=0.0), "limit above 0"),
        (lambda: train_policy(learner_for(), Experience(small(), 2), 1, engine="loop"), "engine is 'loop'"),
        (lambda: train_policy(learner_for(), Experience(small(), 2), 1, resume=True), "give out"),
        (
            lambda: train_policy(learner_for(), Experience(small(), 2), 1, outer=trpo(learner_for())),  # type: ignore[arg-type]
            "outer is a TrustRegion; give a function",  # type: ignore[arg-type]
        ),
        (lambda: train_policy(learner_for(), Experience(small(), 2), -1), "iterations is -1; it must be a whole number from 0 on"),
        (lambda: train_policy(learner_for(), Experience(small(), 2), 1, outer_steps=5), "a trust region takes one; give an optimizer"),
        (lambda: evaluate_policy(learner_for(), Experience(small(), 2), n_tasks=0), "1 or more"),
        (lambda: evaluate_policy(learner_for(), Experience(small(), 2), split="tset"), "did you mean test"),
        (lambda: il.evaluate(learner_for(), Experience(small(), 2)), "innerloop.rl has train_policy and evaluate_policy"),  # type: ignore
        (lambda: il.train(learner_for(), Experience(small(), 2), 1), "innerloop.rl has train_policy and evaluate_policy"),  # type: ignore
        (lambda: Drifting(small()), "gravity changes nothing"),
    ],
)
def test_bad_input_is_named(make: Callable[[], object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        make()


def test_a_run_that_goes_on_for_longer_keeps_to_the_engine_that_it_began_with(tmp_path: Path) -> None:
    rows: list[dict] = []
    how: dict = QUIET | {"meta_batch": 1}
    train_policy(learner_for(), Experience(small(), 2), 1, out=tmp_path, **how)
    train_policy(learner_for(), Experience(small(), 2), 31, out=tmp_path, resume=True, log=rows.append, **how)
    assert [row["engine"] for row in rows if "engine" in row] == ["vmap"]


def test_goals_and_starts_are_where_they_are_said_to_be() -> None:
    assert torch.equal(Navigation().tasks("train", 0, 50)[:, 2:4], torch.zeros(50, 2))
    starts = Navigation(starts=0.2, goals=2.0).tasks("train", 0, 500)[:, 2:4].abs()
    assert 0.19 < starts.max() <= 0.2
    goals = Navigation(centres=((3.0, 3.0),), spread=0.1).tasks("train", 0, 500)[:, :2]
    assert abs(float((goals - 3).std()) - 0.1) < 0.01


def test_the_clipped_surrogate_is_the_lower_of_both() -> None:
    policy = gaussian_mlp(2, 4, 2, generator=torch.Generator().manual_seed(0))
    params = named("net", policy)
    met = one(Experience(small(), 2).gather(learner_for(), learner_for().prior, "train", 0, 1).query, 0)
    now = policy(met.observations).log_prob(met.actions).detach()
    for moved, advantage, expected in ((2.0, -1.0, 2.0), (2.0, 1.0, -1.3), (0.5, 1.0, -0.5), (0.5, -1.0, 0.7)):
        rollouts = met._replace(log_prob=now - math.log(moved), advantages=torch.full_like(met.advantages, advantage))
        assert float(clipped(policy, 0.3)(params, rollouts)) == pytest.approx(expected, abs=1e-5)


def test_what_comes_after_an_episodes_end_is_no_part_of_the_divergence() -> None:
    policy = gaussian_mlp(2, 4, 2, generator=torch.Generator().manual_seed(0))
    learner = judged(maml(policy, score(policy), 1, 0.1), policy)
    met = Experience(small(), 2).gather(learner, learner.prior, "train", 0, 1)
    alive = met.query.alive.clone()
    alive[..., alive.shape[-1] // 2 :] = False
    ended = met._replace(query=met.query._replace(alive=alive))
    region = trpo(learner)
    old, new = (Gaussian(torch.zeros(*alive.shape, 2), torch.zeros(*alive.shape, 2)) for _ in range(2))
    moved = Gaussian(torch.where(alive.unsqueeze(-1), new.mean, 5.0), new.log_sd)
    assert float(region.divergence(old, moved, ended)) == 0
    assert float(region.divergence(old, moved, met)) > 1
