"""MALTML: three levels of learning, what each is when another is switched off, and the families that it learns from."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from conftest import EAGER, built, differences, smooth_net
from torch import Tensor
from torch.autograd import gradcheck

import innerloop as il
from innerloop import InputError, Learner, Sinusoids, Task, experiments, meta_loss
from innerloop.batches import map_tensors, one, stack
from innerloop.engine import Plan, meta_gradient
from innerloop.methods import toward_end
from innerloop.params import Params
from innerloop.steps import descend
from innerloop.tasks import Families, Goals, Related


@pytest.fixture
def families() -> Task:
    """Two families of three related tasks and two goals in float64."""
    source = Families(Sinusoids(shots=4, queries=3), related=3, goals=2)
    return map_tensors(lambda t: t.double(), source.draw("train", 0, 2))


def close(a: Any, b: Any, rtol: float = 1e-10) -> None:
    torch.testing.assert_close(a, b, rtol=rtol, atol=1e-12)


def goals_of(families: Task) -> Task:
    """All goal tasks of all families, without what they are related to."""
    return map_tensors(lambda t: t.flatten(0, 1), families.query)


@pytest.mark.parametrize("base", ["maml", "l2f", "meta_sgd"])
def test_without_a_meta_rate_it_is_the_base_learner(base: str, families: Task) -> None:
    learner = built(base)
    for off in (il.maltml(learner, meta_rate=0.0), il.maltml(learner, meta_steps=0)):
        found, loss = meta_gradient(off)(learner.prior, families)
        expected, own = meta_gradient(learner)(learner.prior, goals_of(families))
        close(loss, own)
        close(found, expected)
    moved = meta_loss(il.maltml(learner, meta_rate=0.05))(learner.prior, families)
    assert (moved - own).abs() > 1e-3


@pytest.mark.parametrize("steps", [1, 2])
def test_its_gradient_has_third_derivatives(steps: int, families: Task) -> None:
    base = built("maml", steps=1)
    learner = il.maltml(base, steps, 0.05)
    gradient, _ = meta_gradient(learner)(learner.prior, families)
    torch.testing.assert_close(gradient, differences(lambda p: meta_loss(learner)(p, families), learner.prior), rtol=1e-6, atol=1e-8)
    if steps == 1:
        inputs = tuple(p.clone().requires_grad_() for p in learner.prior.values())
        assert gradcheck(lambda *p: meta_loss(learner)(dict(zip(learner.prior, p, strict=True)), families), inputs)


def quadratic(params: Params, batch: tuple[Tensor, Tensor]) -> Tensor:
    """½ a (w − c)²."""
    a, c = batch
    return 0.5 * a * (params["net.w"] - c) ** 2


def test_on_a_quadratic_it_is_the_closed_form() -> None:
    """With U_i(w) = w − α aᵢ (w − cᵢ), all three levels are linear in w."""
    alpha, beta, gamma, w = 0.1, 0.05, 0.2, torch.tensor(0.7, dtype=torch.float64)
    base, goal = (Learner({"net.w": w}, (descend(quadratic, rate),), quadratic) for rate in (alpha, gamma))
    a, c = torch.rand(2, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    family = Task(Task((a[:4], c[:4]), (a[:4], c[:4])), Task((a[4:], c[4:]), (a[4:], c[4:])))
    learner = il.maltml(base, 1, beta, goal=goal)
    slope = a[:4] * (1 - alpha * a[:4]) ** 2
    moved = w - beta * (slope * (w - c[:4])).sum()
    own = a[4] * (1 - gamma * a[4]) ** 2
    gradient, loss = meta_gradient(learner)(learner.prior, stack([family]))
    close(learner.adapt(learner.prior, family.support)[1]["net.w"], moved)
    close(loss, 0.5 * own * (moved - c[4]) ** 2)
    close(gradient["net.w"], own * (moved - c[4]) * (1 - beta * slope.sum()))
    first = il.maltml(base, 1, beta, goal=goal, first_order=True)
    close(meta_gradient(first)(first.prior, stack([family]))[0]["net.w"], own * (moved - c[4]))


def test_each_level_may_leave_its_highest_derivatives_out(families: Task) -> None:
    full, first = built("maml", steps=1), built("fomaml", steps=1)
    gradients = {}
    for name, learner in {
        "neither": il.maltml(full, 1, 0.05),
        "of tasks": il.maltml(first, 1, 0.05),
        "of families": il.maltml(full, 1, 0.05, first_order=True),
        "both": il.maltml(first, 1, 0.05, first_order=True),
    }.items():
        gradients[name], _ = meta_gradient(learner)(full.prior, families)
    each = [g["net.0.weight"] for g in gradients.values()]
    assert all(not torch.allclose(a, b, rtol=1e-3) for k, a in enumerate(each) for b in each[:k])
    # Both: the gradient at the end of the path, and all steps before it constants.
    expected = {name: torch.zeros_like(p) for name, p in full.prior.items()}
    for k in range(2):
        family: Task = one(families, k)
        there = il.maltml(first, 1, 0.05).adapt(full.prior, family.support)[-1]
        for c in range(2):
            goal: Task = one(family.query, c)
            adapted = first.adapt(there, goal.support)[-1]
            for name, slope in differences(lambda p, goal=goal: first.loss(p, goal.query), adapted).items():
                expected[name] += slope / 4
    torch.testing.assert_close(gradients["both"], expected, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("plan", [*EAGER, Plan(compiled=True)], ids=str)
@pytest.mark.parametrize("base", ["maml", "l2f"])
def test_every_plan_gives_the_same_third_order_gradient(base: str, plan: Plan, families: Task) -> None:
    if plan.compiled and base == "l2f":
        pytest.skip("compiled over MAML")
    learner = il.maltml(built(base, steps=1), 1, 0.05)
    expected = meta_gradient(learner)(learner.prior, families)
    close(meta_gradient(learner, plan)(learner.prior, families), expected)


def test_four_levels_are_one_more_composition(families: Task) -> None:
    """Two batches of families: meta-steps on the meta-loss of meta-learning, judged on other families."""
    seen, unseen = (Families(Sinusoids(3, 2, seed=seed), related=2, goals=1).draw("train", 0, 2) for seed in (0, 1))
    batch = map_tensors(lambda t: t.double(), stack([Task(seen, unseen)]))
    learner = il.maltml(il.maltml(built("maml", steps=1), 1, 0.05), 1, 0.05)
    few = {name: p for name, p in learner.prior.items() if name == "net.2.bias"}
    expected = differences(lambda p: meta_loss(learner)({**learner.prior, **p}, batch), few)
    found = meta_gradient(learner)(learner.prior, batch)[0]
    torch.testing.assert_close({name: found[name] for name in few}, expected, rtol=1e-6, atol=1e-8)
    flat = il.maltml(il.maltml(built("maml", steps=1), 1, 0.05), 1, 0.0)
    other = meta_gradient(flat)(flat.prior, batch)[0]
    assert not torch.allclose(found["net.2.bias"], other["net.2.bias"], rtol=1e-3)


def test_learned_rates_and_reptiles_form_are_compositions_too(families: Task) -> None:
    base = built("meta_sgd", steps=1)
    prior = base.prior | {"rate.meta": torch.tensor(0.05, dtype=torch.float64)}
    learner = il.maltml(replace(base, prior=prior), 1, lambda params, name: params["rate.meta"])
    gradient = meta_gradient(learner)(learner.prior, families)[0]
    rates = {name: p for name, p in prior.items() if name.startswith("rate.")}
    expected = differences(lambda p: meta_loss(learner)({**prior, **p}, families), rates)
    torch.testing.assert_close({name: gradient[name] for name in rates}, expected, rtol=1e-6, atol=1e-8)
    first = il.maltml(built("fomaml", steps=1), 3, 0.05, first_order=True)
    found, _ = meta_gradient(toward_end(first))(first.prior, families)
    ends = [first.adapt(first.prior, one(families, k).support)[-1] for k in range(2)]
    close(found, {name: p - (ends[0][name] + ends[1][name]) / 2 for name, p in first.prior.items()})


def test_goals_one_by_one_are_the_families_goals(families: Task) -> None:
    base = built("maml")
    family = il.maltml(base, 2, 0.05)
    single = il.meta_finetuned(family, base)
    assert (single.prepared, len(single.taking(5).steps)) == (2, 7)
    source = Goals(Families(Sinusoids(shots=4, queries=3), related=3, goals=2))
    goals = map_tensors(lambda t: t.double(), source.draw("train", 0, 4))
    close(meta_loss(single)(base.prior, goals), meta_loss(family)(base.prior, families))
    path = single.adapt(base.prior, one(goals, 3).support)
    close(path[2], family.adapt(base.prior, one(families, 1).support)[-1])
    close(path[-1], base.adapt(path[2], one(goals_of(families), 3).support)[-1])
    alone = il.meta_finetuned(il.maltml(base, 0), base).adapt(base.prior, one(goals, 3).support)
    close(alone[-1], base.adapt(base.prior, one(goals_of(families), 3).support)[-1])


def test_a_family_shares_what_it_must_and_nothing_else() -> None:
    source = Families(Sinusoids(shots=3, queries=4, frequency=(0.5, 2.0)), related=5, goals=2)
    c = source.coefficients("train", 3, 40)
    amplitude, phase, frequency = c.unbind(-1)
    assert c.shape == (40, 7, 3)
    assert (phase == phase[:, :1]).all()
    assert len(phase[:, 0].unique()) == 40
    assert len(amplitude.unique()) == len(frequency.unique()) == 280
    families = source.draw("train", 3, 40)
    for part, own in ((families.support, c[:, :5]), (families.query, c[:, 5:])):
        for x, y in part:
            torch.testing.assert_close(y[..., 0], source.curves.curve(own, x[..., 0]), rtol=1e-4, atol=1e-5)
    points = torch.cat([x.flatten() for part in (families.support, families.query) for x, _ in part])
    assert len(points.unique()) > 0.99 * len(points), "no point is shown twice"
    torch.testing.assert_close(source.draw("train", 5, 2), map_tensors(lambda t: t[2:4], families), rtol=0, atol=0)
    test = source.coefficients("test", 3, 40)
    assert not (test[:, 0, 1] == phase[:, 0]).any()


@pytest.mark.parametrize("first", [0, 1, 5])
def test_a_goal_is_of_its_family_whatever_is_drawn_with_it(first: int) -> None:
    source = Families(Sinusoids(shots=3, queries=4), related=2, goals=3)
    goals, families = Goals(source).draw("test", first, 5), source.draw("test", 0, 4)
    c = Goals(source).coefficients("test", first, 5)
    for k in range(5):
        family, which = divmod(first + k, 3)
        goal: Task = one(goals, k)
        assert isinstance(goal.support, Related)
        torch.testing.assert_close(goal.support.tasks, one(families, family).support, rtol=0, atol=0)
        torch.testing.assert_close(Task(goal.support.batch, goal.query), one(one(families, family).query, which), rtol=0, atol=0)
        torch.testing.assert_close(c[k], source.coefficients("test", family, 1)[0, 2 + which], rtol=0, atol=0)


def test_an_oracle_is_told_its_own_familys_phase_and_noise_stays() -> None:
    told = Families(Sinusoids(shots=3, queries=4, identity=True, noise=0.3), related=2, goals=1)
    plain = Families(Sinusoids(shots=3, queries=4, noise=0.3), related=2, goals=1)
    (x, y), (same, y_plain) = told.draw("train", 0, 50).query.support, plain.draw("train", 0, 50).query.support
    c = told.coefficients("train", 0, 50)[:, 2:, None]
    torch.testing.assert_close(x[..., 1:], c[..., :2].expand(-1, -1, 3, -1), rtol=0, atol=0)
    torch.testing.assert_close((x[..., :1], y), (same, y_plain), rtol=0, atol=0)
    noise = y[..., 0] - told.curves.curve(told.coefficients("train", 0, 50)[:, 2:], x[..., 0])
    assert noise.std().item() == pytest.approx(0.3, rel=0.15)


def test_a_run_learns_to_meta_learn_and_is_scored_by_goals() -> None:
    families = Families(Sinusoids(shots=5, queries=5))
    net = il.mlp(1, 20, 20, 1, generator=torch.Generator().manual_seed(0))
    base = il.maml(net, il.mse(net), 1, 0.001)
    trained = il.train(il.maltml(base, 1, 0.01), families, 600, meta_batch=10, outer_rate=3e-3, progress=False, engine="vmap")
    alone = replace(il.maltml(base, 0), prior=trained.prior)
    after, before = (il.evaluate(il.meta_finetuned(family, base), Goals(families), n_tasks=200) for family in (trained, alone))
    gained = il.compare(after, before)
    assert gained.mean[0] + gained.interval[0] < 0, "the meta-step alone helps on goals that it has not seen"


@pytest.mark.parametrize(
    ("name", "like", "values", "last"),
    [
        ("@learned-rates", "", {"rate.task": 0.02, "rate.family": 0.03, "rate.goal": 0.02}, "rate.goal"),
        ("@maml-learned-rate", "@maml", {"rate.task": 0.02}, "rate.task"),
    ],
)
def test_learned_rates_are_those_that_are_scored(name: str, like: str, values: dict[str, float], last: str) -> None:
    own, plain = (experiments.catalogue()[f"maltml/sinusoid{variant}"] for variant in (name, like))
    trial = own.build(replace(own.settings, test_steps=1, test_meta_rate=0.03))
    fixed = plain.build(replace(plain.settings, test_steps=1, rate=0.02, test_meta_rate=0.03))
    prior = trial.learner.prior | {key: torch.tensor(value) for key, value in values.items()}
    goals = next(iter(trial.cases.values()))

    def scores(t: experiments.Trial, prior: Params) -> torch.Tensor:
        return il.evaluate(t.scored(prior, 0.02), goals, n_tasks=20).values

    learned = scores(trial, prior)
    torch.testing.assert_close(learned, scores(fixed, fixed.learner.prior))
    still = scores(trial, prior | {last: torch.tensor(0.0)})
    torch.testing.assert_close(still[:, 1], still[:, 0])
    if last == "rate.goal":  # which the meta-update does not use
        torch.testing.assert_close(still[:, 0], learned[:, 0])
    gradient = meta_gradient(trial.learner)(prior, trial.tasks.draw("train", 0, 3))[0]
    assert all(gradient[key] != 0 for key in values)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: il.maltml(built("maml"), -1), "meta_steps is -1; take 0 or more"),
        (lambda: il.maltml(built("maml"), goal=built("meta_sgd")), "the goal learner's prior has other names"),
        (lambda: il.maltml(built("maml"), only="net.7"), "pattern 'net.7' matches no parameter"),
        (lambda: il.evaluate(il.meta_finetuned(il.maltml(built("maml")), built("maml")), Sinusoids()), "no related tasks; draw from Goals"),
        (lambda: Families(Sinusoids(), shared=("fase",)), "Sinusoids has no 'fase' to share; did you mean phase"),
        (lambda: Families(Sinusoids(), goals=0), "5 related tasks and 0 goals; it needs at least one of each"),
    ],
)
def test_what_cannot_be_is_said(make: Callable[[], Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        make()


def test_it_takes_any_network() -> None:
    net = smooth_net()
    assert il.maltml(il.anil(net, il.mse(net)), only="net.4").prior.keys() == built("maml").prior.keys()
