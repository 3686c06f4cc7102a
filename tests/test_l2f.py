"""L2F: what it is with its idea switched off, what its factors are, and whose derivatives count."""

from collections.abc import Callable

import pytest
import torch
from conftest import EAGER, built, differences, image_net, image_tasks, smooth_net
from torch import Tensor

import innerloop as il
from innerloop import InputError, Learner, Task, meta_loss
from innerloop.batches import one
from innerloop.engine import Plan, meta_gradient
from innerloop.losses import model
from innerloop.methods import mean_prototype, mean_slopes
from innerloop.params import under, within
from innerloop.steps import attenuate, descend

BASES = ["maml", "fomaml", "anil", "meta_sgd", "maml_plus_plus"]


def close(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("name", BASES)
def test_factors_of_one_leave_the_base_learner(name: str, waves: Task) -> None:
    base = built(name)
    learner = il.attenuated(base, base.loss, squash=torch.ones_like)
    task: Task = one(waves, 0)
    close(learner.adapt(learner.prior, task.support)[-1], base.adapt(base.prior, task.support)[-1])
    (found, loss), (expected, own) = (meta_gradient(x)(x.prior, waves) for x in (learner, base))
    torch.testing.assert_close(loss, own, rtol=1e-12, atol=0)
    close(found, expected)
    assert all((g == 0).all() for g in under(found, "gate").values()), "the gate is not asked"


@pytest.mark.parametrize("scope", ["parameter", "filter", "layer", "network"])
def test_learned_factors_begin_as_the_base_learner(scope: str, waves: Task) -> None:
    base = built("maml")
    learner = il.attenuated_for_all(base, scope)  # pyright: ignore[reportArgumentType]
    (found, loss), (expected, own) = (meta_gradient(x)(x.prior, waves) for x in (learner, base))
    torch.testing.assert_close(loss, own, rtol=1e-12, atol=0)
    close(found, expected)
    # With factors of 1, φ₀ = θ: so a factor's slope is that of its parameters along themselves.
    along = {name: base.prior[name] * g for name, g in expected.items()}
    for name, g in along.items():
        if scope == "network":
            torch.testing.assert_close(found["factor"], sum(x.sum() for x in along.values()))
            continue
        axes = {"parameter": [], "filter": [*range(1, g.ndim)], "layer": [*range(g.ndim)]}[scope]
        wanted = g.sum(axes, keepdim=scope == "filter") if axes else g
        torch.testing.assert_close(found[f"factor.{name}"], wanted.reshape(found[f"factor.{name}"].shape))


def test_a_gate_that_knows_nothing_halves_the_prior(waves: Task) -> None:
    learner = built("l2f")
    blank = learner.prior | {name: torch.zeros_like(p) for name, p in learner.prior.items() if name.startswith("gate")}
    start = learner.adapt(blank, one(waves, 0).support)[1]
    close(start, {name: p / 2 for name, p in within(blank, "net").items()})


def test_the_factors_are_those_of_the_equation(waves: Task) -> None:
    learner = built("l2f")
    support = one(waves, 1).support
    p = learner.prior
    net = {name: value.clone().requires_grad_() for name, value in within(p, "net").items()}
    slopes = torch.autograd.grad(learner.loss(net, support), list(net.values()))
    told = torch.stack([g.mean() for g in slopes])
    hidden = (p["gate.0.weight"] @ told + p["gate.0.bias"]).relu()
    factors = torch.sigmoid(p["gate.2.weight"] @ hidden + p["gate.2.bias"])
    start = learner.adapt(p, support)[1]
    close(start, {name: factors[j] * p[name] for j, name in enumerate(net)})
    assert len(set(factors.tolist())) == 6, "each tensor has a factor of its own"
    other = learner.adapt(p, one(waves, 2).support)[1]
    assert not torch.equal(other["net.0.weight"], start["net.0.weight"]), "and each task"


def test_what_the_gate_is_told_is_a_constant_unless_its_graph_is_kept(waves: Task) -> None:
    net = smooth_net()
    loss = il.mse(net)
    generators = [torch.Generator().manual_seed(3) for _ in range(2)]
    released, kept = (il.l2f(net, loss, 2, 0.1, generator=g, keep_graph=keep) for g, keep in zip(generators, (False, True), strict=True))
    close(released.prior, kept.prior)
    told = mean_slopes(loss)
    at_prior = [told(released.prior, one(waves, k).support) for k in range(3)]
    total: dict[str, Tensor] = {name: torch.zeros_like(p) for name, p in released.prior.items()}
    for k in range(3):
        frozen = il.attenuated(il.maml(net, loss, 2, 0.1), loss, signal=lambda params, batch, k=k: at_prior[k])
        task: Task = one(waves, k)
        for name, slope in differences(lambda p, frozen=frozen, task=task: il.task_loss(frozen)(p, task), released.prior).items():
            total[name] += slope / 3
    found = meta_gradient(released)(released.prior, waves)[0]
    for name, slope in total.items():
        torch.testing.assert_close(found[name], slope, rtol=1e-6, atol=1e-8)
    whole = meta_gradient(kept)(kept.prior, waves)[0]
    torch.testing.assert_close(whole, differences(lambda p: meta_loss(kept)(p, waves), kept.prior), rtol=1e-6, atol=1e-8)
    assert not torch.allclose(whole["net.0.weight"], found["net.0.weight"], rtol=1e-3)
    assert all((mean_slopes(loss)(released.prior, one(waves, k).support) == at_prior[k]).all() for k in range(3))


@pytest.mark.parametrize("plan", [*EAGER, Plan(compiled=True)], ids=str)
@pytest.mark.parametrize("how", [{}, {"squash": lambda x: x}, {"squash": lambda x: x, "shift": True}], ids=["sigmoid", "γ", "γ and δ"])
def test_every_plan_agrees_on_every_transformation(how: dict, plan: Plan, waves: Task) -> None:
    if plan.compiled and how.get("shift"):
        pytest.skip("compiled as the one without shifts")
    net = smooth_net()
    learner = il.l2f(net, il.mse(net), 1, 0.1, generator=torch.Generator().manual_seed(0), **how)
    expected = meta_gradient(learner)(learner.prior, waves)
    torch.testing.assert_close(meta_gradient(learner, plan)(learner.prior, waves), expected, rtol=1e-10, atol=1e-12)


def test_factors_and_shifts_of_any_size(waves: Task) -> None:
    net = smooth_net()
    learner = il.l2f(net, il.mse(net), 1, 0.1, squash=lambda x: x, shift=True)
    bias = torch.arange(12.0).double() - 3
    blank = learner.prior | {n: torch.zeros_like(p) for n, p in learner.prior.items() if n.startswith("gate")} | {"gate.2.bias": bias}
    start = learner.adapt(blank, one(waves, 0).support)[1]
    close(start, {name: bias[j] * blank[name] + bias[6 + j] for j, name in enumerate(within(blank, "net"))})


def test_it_comes_after_what_prepares_and_before_what_adapts() -> None:
    net, tasks = image_net(), image_tasks()
    loss = il.cross_entropy(net)
    base = il.maml_plus_plus(net, loss, steps=2, rate=0.1)
    learner = il.attenuated(base, loss)
    assert (learner.prepared, len(learner.steps)) == (2, 4)
    assert len(learner.taking(5).steps) == 7
    support = one(tasks, 0).support
    path = learner.adapt(learner.prior, support)
    assert "net.1.weight" not in path[0]
    torch.testing.assert_close(path[1]["net.1.weight"], path[2]["net.1.weight"], rtol=0, atol=0)
    torch.testing.assert_close(path[2], learner.steps[1](path[1], support), rtol=0, atol=0)
    assert not torch.equal(path[1]["net.0.weight"], path[2]["net.0.weight"])
    (twice, loop) = (meta_gradient(learner, plan)(learner.prior, tasks) for plan in (Plan(), Plan(loop=True, recompute=True)))
    torch.testing.assert_close(twice, loop, rtol=1e-10, atol=1e-12)


def test_a_list_as_support_has_an_entry_for_it(waves: Task) -> None:
    learner = built("l2f")
    shown = [one(waves, k).support for k in range(3)]
    path = learner.adapt(learner.prior, shown)
    close(path[1], learner.adapt(learner.prior, shown[0])[1])
    step = descend(learner.loss, 0.1)
    close(path[2], step(path[1], shown[1]))


@pytest.mark.parametrize("compiled", [False, True])
def test_told_by_the_prototypes_of_a_trained_network(compiled: bool) -> None:
    net, tasks = image_net(), image_tasks()
    trained = il.prototypical(il.without_head(net), ways=3)
    signal = mean_prototype(trained)
    x, y = one(tasks, 0).support
    features = model(il.without_head(net))(trained.prior, x)
    by_hand = torch.stack([features[y == n].mean(0) for n in range(3)]).mean(0)
    torch.testing.assert_close(signal({}, (x, y)), by_hand)
    loss = il.cross_entropy(net)
    base = il.maml(net, loss, 1, 0.1, only=["net", "-net.1"])
    learner = il.attenuated(base, loss, ["net", "-net.1"], signal=signal, size=len(by_hand))
    assert learner.prior["gate.0.weight"].shape == (4, len(by_hand))
    assert not any(name.startswith("net.0.0") for name in learner.prior), "the network that tells is not trained"
    expected = meta_gradient(learner)(learner.prior, tasks)
    torch.testing.assert_close(expected[0], differences(lambda p: meta_loss(learner)(p, tasks), learner.prior), rtol=1e-5, atol=1e-7)
    if compiled:
        found = meta_gradient(learner, Plan(loop=True, compiled=True))(learner.prior, tasks)
        torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-12)


def test_what_cannot_be_is_refused(waves: Task) -> None:
    base = built("maml")
    with pytest.raises(InputError, match=r"layers is 0; g needs at least one layer"):
        il.attenuated(base, base.loss, layers=0)
    with pytest.raises(InputError, match="attenuated already"):
        il.attenuated(built("l2f"), base.loss)
    with pytest.raises(InputError, match=r"scope is .filters.; did you mean filter"):
        il.attenuated_for_all(base, "filters")  # pyright: ignore[reportArgumentType]
    with pytest.raises(InputError, match=r"the gate gives \[5\] for 6 tensors; give \[6\], or \[2, 6\] with shifts"):
        attenuate(lambda params, batch: torch.ones(5))(base.prior, None)
    with pytest.raises(InputError, match=r"pattern .net\.7. matches no parameter"):
        il.attenuated(base, base.loss, only="net.7")


def test_l2f_learns(waves: Task) -> None:
    """One training of a minute's hundredth: the loss falls, and the gate's weights have moved."""
    net = il.mlp(1, 16, 16, 1, generator=torch.Generator().manual_seed(0))
    learner = il.l2f(net, il.mse(net), 1, 0.01, generator=torch.Generator().manual_seed(0))
    tasks = il.Sinusoids(shots=5, queries=10)
    build: Callable[[Learner], float] = lambda x: float(il.evaluate(x, tasks, 1, 50).mean[1])
    before = build(learner)
    trained = il.train(learner, tasks, 200, meta_batch=8, outer_rate=3e-3, validation_tasks=0, progress=False)
    assert build(trained) < 0.9 * before
    assert not torch.equal(trained.prior["gate.2.bias"], learner.prior["gate.2.bias"])
