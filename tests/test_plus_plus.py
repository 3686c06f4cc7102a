"""MAML++: what each step sees, its identities, and its phases."""

from dataclasses import replace

import pytest
import torch
from conftest import EAGER, differences, image_net, image_tasks
from torch import nn

import innerloop as il
from innerloop import InputError, Learner, Task, meta_loss
from innerloop.batches import one
from innerloop.engine import Plan, meta_gradient

NORMS = ["net.1.weight", "net.1.bias"]


def smooth_norm_net() -> nn.Sequential:
    norm = nn.BatchNorm2d(3, track_running_stats=False)
    net = nn.Sequential(nn.Conv2d(1, 3, 3, bias=False), norm, nn.Tanh(), nn.Flatten(), nn.Linear(12, 3)).double()
    generator = torch.Generator().manual_seed(0)
    for p in net.parameters():
        nn.init.normal_(p, std=0.7, generator=generator)
    return net


def plus_plus(net: nn.Module, steps: int = 2, **how) -> Learner:
    """With rates and normalisations that differ from step to step."""
    learner = il.maml_plus_plus(net, il.cross_entropy(net), steps, 0.1, **how)
    generator = torch.Generator().manual_seed(1)
    kept = {name: p for name, p in learner.prior.items() if name.startswith(("rate.", "norm."))}
    moved = {name: p * (1 + 0.3 * torch.randn(p.shape, generator=generator, dtype=p.dtype)) for name, p in kept.items()}
    return replace(learner, prior=learner.prior | moved)


def test_the_prior_keeps_a_normalisation_and_a_rate_for_every_step() -> None:
    prior = il.maml_plus_plus(net := image_net(), il.cross_entropy(net), steps=4).prior
    shapes = {name: list(p.shape) for name, p in prior.items()}
    assert {name: shape for name, shape in shapes.items() if name.startswith("norm.")} == {f"norm.{name}": [4, 3] for name in NORMS}
    assert {name for name in shapes if name.startswith("rate.")} == {f"rate.net.{k}.{kind}" for k in (0, 5) for kind in ("weight", "bias")}
    assert not shapes.keys() & set(NORMS)


def test_at_its_start_it_is_maml_of_all_but_the_normalisations() -> None:
    net, tasks = image_net(), image_tasks()
    learner = il.maml_plus_plus(net, il.cross_entropy(net), 3, 0.1)
    base = il.maml(net, il.cross_entropy(net), 3, 0.1, only=["net", *(f"-{name}" for name in NORMS)])
    gradient, loss = meta_gradient(learner)(learner.prior, tasks)
    expected, base_loss = meta_gradient(base)(base.prior, tasks)
    torch.testing.assert_close(loss, base_loss, rtol=1e-12, atol=0)
    found = {name: gradient[f"norm.{name}"].sum(0) if name in NORMS else gradient[name] for name in expected}
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-12)


def test_each_step_and_the_query_after_it_see_their_own_normalisation() -> None:
    """With the multi-step loss, written out step by step."""
    net, (support, query) = image_net(), one(image_tasks(), 0)
    learner = plus_plus(net, 3, weights=(0.2, 0.3, 0.5))
    prior, loss, expected = learner.prior, il.cross_entropy(net), torch.zeros((), dtype=torch.float64)
    params = {name: p for name, p in prior.items() if name.startswith("net.")}
    for k, weight in enumerate((0.2, 0.3, 0.5)):
        params |= {name: prior[f"norm.{name}"][k] for name in NORMS}
        moving = {name: p.clone().requires_grad_() for name, p in params.items() if name not in NORMS}
        value = loss({**params, **moving}, support)
        slopes = torch.autograd.grad(value, list(moving.values()), allow_unused=True, materialize_grads=True)
        stepped = zip(moving.items(), slopes, strict=True)
        params |= {name: (p - prior[f"rate.{name}"][k] * slope).detach() for (name, p), slope in stepped}
        expected += weight * loss(params, query)
    torch.testing.assert_close(il.task_loss(learner)(prior, Task(support, query)), expected, rtol=1e-10, atol=0)


@pytest.mark.parametrize("weights", [(1.0,), (0.2, 0.8)])
def test_the_meta_gradient_equals_finite_differences(weights: tuple[float, ...]) -> None:
    learner, tasks = plus_plus(smooth_norm_net(), weights=weights), image_tasks()
    gradient, _ = meta_gradient(learner, Plan(loop=True))(learner.prior, tasks)
    torch.testing.assert_close(gradient, differences(lambda p: meta_loss(learner)(p, tasks), learner.prior), rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("plan", EAGER, ids=str)
def test_every_plan_gives_the_same_meta_gradient(plan: Plan) -> None:
    learner, tasks = plus_plus(image_net(), weights=(0.2, 0.3, 0.5)), image_tasks()
    expected = meta_gradient(learner, Plan(loop=True))(learner.prior, tasks)
    torch.testing.assert_close(meta_gradient(learner, plan)(learner.prior, tasks), expected, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("plan", [Plan(compiled=True), Plan(stepwise=True, compiled=True)], ids=str)
def test_compiled_equals_eager(plan: Plan, waves: Task) -> None:
    """With few layers and one step, as every step is compiled for itself."""
    net = nn.Sequential(nn.Linear(1, 4), nn.BatchNorm1d(4, track_running_stats=False), nn.Tanh(), nn.Linear(4, 1)).double()
    learner = il.maml_plus_plus(net, il.mse(net), 1, 0.1, weights=(0.3, 0.7))
    expected = meta_gradient(learner)(learner.prior, waves)
    torch.testing.assert_close(meta_gradient(learner, plan)(learner.prior, waves), expected, rtol=1e-9, atol=1e-11)


def test_preparation_is_not_counted_and_the_last_step_is_repeated() -> None:
    learner, task = plus_plus(image_net()), one(image_tasks(), 0)
    path = learner.taking(4).adapt(learner.prior, task.support)
    assert len(path) == 6
    slices = learner.prior["norm.net.1.weight"]
    assert [[torch.equal(point["net.1.weight"], own) for own in slices].index(True) for point in path[1:]] == [0, 0, 1, 1, 1]
    scores = il.evaluate(learner, il.from_function(lambda g: task), steps=4, n_tasks=1, metric=il.accuracy)
    assert scores.values.shape == (1, 5)


def test_first_order_sees_a_normalisation_by_the_query_loss_alone() -> None:
    learner, tasks = plus_plus(image_net(), 2, first_order=True), image_tasks()
    gradient, _ = meta_gradient(learner)(learner.prior, tasks)
    assert not gradient["norm.net.1.weight"][0].any()
    assert gradient["norm.net.1.weight"][1].abs().max() > 1e-3
    exact, _ = meta_gradient(plus_plus(image_net(), 2))(learner.prior, tasks)
    assert exact["norm.net.1.weight"][0].abs().max() > 1e-3


def test_phases_anneal_weights_and_order() -> None:
    net = image_net()
    phases = il.maml_plus_plus_phases(net, il.cross_entropy(net), 5, 0.1, iterations=1000, first_order=0.1, multi_step=0.2, levels=4)
    assert list(phases) == [0, 50, 100, 150, 200]
    weights = {start: learner.weights for start, learner in phases.items()}
    assert weights[0] == pytest.approx((0.2,) * 5)
    assert weights[100] == pytest.approx((0.1,) * 4 + (0.6,))
    assert weights[150] == pytest.approx((0.05,) * 4 + (0.8,))
    assert weights[200] == (1.0,)
    prior, tasks = plus_plus(net, 5).prior, image_tasks()
    for start, learner in phases.items():
        other = il.maml_plus_plus(net, il.cross_entropy(net), 5, 0.1, first_order=start < 100, weights=learner.weights)
        torch.testing.assert_close(meta_gradient(learner)(prior, tasks), meta_gradient(other)(prior, tasks), rtol=0, atol=0)


def test_an_earlier_weight_does_not_fall_below_its_least() -> None:
    net = nn.Linear(1, 1)
    phases = il.maml_plus_plus_phases(net, il.mse(net), 2, iterations=1000, multi_step=1.0, levels=100)
    assert len(phases) == 100
    assert phases[990].weights == pytest.approx((0.015, 0.985))


@pytest.mark.parametrize(
    ("how", "expected"),
    [
        ({}, {0: True, 30: True, 60: True, 90: True, 120: True, 150: False}),
        ({"multi_step": 0.0}, {0: False}),
        ({"multi_step": 0.0, "first_order": 0.5}, {0: False, 500: False}),
        ({"multi_step": 1.0, "levels": 1}, {0: True}),
        ({"steps": 1, "levels": 1}, {0: False, 150: False}),
    ],
)
def test_phases_begin_where_they_should(how: dict, expected: dict[int, bool]) -> None:
    net = nn.Linear(1, 1)
    phases = il.maml_plus_plus_phases(net, il.mse(net), iterations=1000, **how)
    assert {start: len(learner.weights) > 1 for start, learner in phases.items()} == expected


def test_settings_that_cannot_be_used_are_refused() -> None:
    net = nn.Linear(1, 1)
    with pytest.raises(InputError, match="steps is 0; MAML"):
        il.maml_plus_plus(net, il.mse(net), steps=0)
    for how, message in [
        ({"first_order": 2.0}, "first_order is 2.0; it is a part of the iterations, from 0 to 1"),
        ({"multi_step": -0.1}, "multi_step is -0.1"),
        ({"levels": 0}, "levels is 0 and iterations 50000; give at least one of each"),
    ]:
        with pytest.raises(InputError, match=message):
            il.maml_plus_plus_phases(net, il.mse(net), **how)
