"""LEO: what its steps are, its start with nothing to adapt, and all engine plans alike."""

from dataclasses import replace

import pytest
import torch
from conftest import EAGER, differences
from torch import Tensor
from torch.autograd import gradcheck
from torch.nn.functional import cross_entropy

import innerloop as il
from innerloop import InputError, Learner, Task, meta_loss
from innerloop.batches import one
from innerloop.engine import Plan, meta_gradient
from innerloop.methods import Penalties, leo

FEATURES, WAYS, CODES = 6, 3, 2


def built(**how: object) -> Learner:
    learner = leo(FEATURES, WAYS, CODES, **({"steps": 2, "fine": 2, "generator": torch.Generator().manual_seed(0)} | how))  # pyright: ignore
    return replace(learner, prior={name: p.double() for name, p in learner.prior.items()})


@pytest.fixture
def vectors() -> Task:
    """Two tasks of three classes in float64, two examples each."""
    g = torch.Generator().manual_seed(1)
    y = torch.stack([torch.arange(6)[torch.randperm(6, generator=g)] % 3 for _ in range(4)]).view(2, 2, 6)
    x = torch.randn(2, 2, 6, FEATURES, dtype=torch.float64, generator=g)
    return Task((x[:, 0], y[:, 0]), (x[:, 1], y[:, 1]))


def by_hand(p: dict[str, Tensor], x: Tensor, y: Tensor, steps: int = 2, fine: int = 2, rate: bool = True) -> Tensor:
    """The classifier's weights after adaptation, by autograd and a plain loop: [ways, shots, features]."""
    own = x @ p["encoder"].T
    codes = []
    for n in range(WAYS):
        told = []
        for i in (y == n).nonzero()[:, 0]:
            pairs = [torch.cat([own[i], own[j]]) for j in range(len(x))]
            hidden = [(p["relation.1"] @ (p["relation.0"] @ pair).relu()).relu() for pair in pairs]
            told.append(torch.stack([p["relation.2"] @ h for h in hidden]).mean(0))
        codes.append(torch.stack(told).mean(0)[:CODES])
    z = torch.stack(codes)[:, None].repeat(1, len(x) // WAYS, 1)

    def summed(weights: Tensor) -> Tensor:
        logits = torch.stack([(x @ weights[n].T).mean(1) for n in range(WAYS)], 1)
        return cross_entropy(logits, y, reduction="sum")

    def decoded(z: Tensor) -> Tensor:
        return z @ p["decoder"][:FEATURES].T

    for _ in range(steps):
        z = z.requires_grad_() if not z.requires_grad else z
        (g,) = torch.autograd.grad(summed(decoded(z)), z)
        z = (z - p["rate.codes"] * g).detach()
    w = decoded(z)
    for _ in range(fine):
        w = w.detach().requires_grad_()
        (g,) = torch.autograd.grad(summed(w), w)
        w = (w - p["rate.weights"] * g).detach()
    return w


def test_adaptation_is_that_of_a_plain_loop(vectors: Task) -> None:
    learner = built()
    for k in range(2):
        x, y = one(vectors, k).support
        adapted = learner.adapt(learner.prior, (x, y))[-1]["adapted.weights"]
        torch.testing.assert_close(adapted, by_hand(learner.prior, x, y))
    assert len(learner.steps) - learner.prepared == 4


def test_without_rates_nothing_adapts(vectors: Task) -> None:
    learner = built()
    still = learner.prior | {name: torch.zeros_like(p) for name, p in learner.prior.items() if name.startswith("rate")}
    path = learner.adapt(still, one(vectors, 0).support)
    torch.testing.assert_close(path[-1]["adapted.weights"], by_hand(learner.prior, *one(vectors, 0).support, steps=0, fine=0))
    x = one(vectors, 0).query[0]
    assert learner.model is not None
    torch.testing.assert_close(learner.model(path[1], x), learner.model(path[-1], x), rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("attenuated", [False, True])
def test_derivatives(attenuated: bool, vectors: Task) -> None:
    learner = built(steps=1, fine=1, attenuated=attenuated)
    if not attenuated:
        inputs = tuple(p.clone().requires_grad_() for p in learner.prior.values())
        assert gradcheck(lambda *p: meta_loss(learner)(dict(zip(learner.prior, p, strict=True)), vectors), inputs)
        return
    # What gates are told is a constant, so only what comes behind them is as finite differences have it.
    found = meta_gradient(learner)(learner.prior, vectors)[0]
    behind = {name: p for name, p in learner.prior.items() if name.startswith("gate.adapted.weights")}
    expected = differences(lambda p: meta_loss(learner)(learner.prior | p, vectors), behind)
    for name, slope in expected.items():
        torch.testing.assert_close(found[name], slope, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("plan", [*EAGER, Plan(compiled=True)], ids=str)
@pytest.mark.parametrize("attenuated", [False, True])
def test_every_plan_agrees(attenuated: bool, plan: Plan, vectors: Task) -> None:
    learner = built(attenuated=attenuated)
    expected = meta_gradient(learner)(learner.prior, vectors)
    torch.testing.assert_close(meta_gradient(learner, plan)(learner.prior, vectors), expected, rtol=1e-10, atol=1e-12)


def test_gates_that_know_nothing_halve_codes_and_weights(vectors: Task) -> None:
    plain, halved = built(steps=1, fine=1), built(steps=1, fine=1, attenuated=True)
    still = {name: torch.zeros_like(p) for name, p in halved.prior.items() if name.startswith(("gate", "rate"))}
    support = one(vectors, 0).support
    half = halved.adapt(halved.prior | still, support)[-1]
    whole = plain.adapt(halved.prior | still, support)[-1]
    torch.testing.assert_close(half["adapted.codes"], whole["adapted.codes"] / 2)
    torch.testing.assert_close(half["adapted.weights"], whole["adapted.weights"] / 4)


def test_training_samples_and_pays_its_penalties(vectors: Task) -> None:
    none = Penalties(0.0, 0.0, 0.0, 0.0, 0.0)
    torch.manual_seed(0)
    sampling = built(penalties=none)
    a, b = (sampling.adapt(sampling.prior, one(vectors, 0).support)[-1] for _ in range(2))
    assert not torch.equal(a["adapted.codes"], b["adapted.codes"])
    query = one(vectors, 0).query
    base = sampling.loss(a, query)
    decoder = a["decoder"].T
    rows = decoder / decoder.norm(dim=1, keepdim=True)
    expected = {
        "kl": a["adapted.kl"],
        "encoder": (a["adapted.codes"] - a["adapted.start"]).square().mean(),
        "weights": sum(p.square().sum() for name, p in a.items() if name in sampling.prior and not name.startswith("rate")) / 2,
        "orthogonality": (rows @ rows.T - torch.eye(CODES)).square().mean(),
    }
    for name, value in expected.items():
        found = built(penalties=replace(none, **{name: 2.0})).loss(a, query)
        torch.testing.assert_close(found - base, 2.0 * value, rtol=1e-9, atol=1e-12)
    dropping = built(penalties=replace(none, dropout=0.5))
    assert dropping.loss(a, query) != base


def test_the_divergence_is_that_of_gaussians() -> None:
    """On average over samples it is the closed form, ½ (μ² + σ² − 1) − ln σ."""
    torch.manual_seed(0)
    learner = leo(2, 1, 500, steps=1, fine=0, penalties=Penalties(dropout=0.0), generator=torch.Generator().manual_seed(0))
    x, y = torch.randn(1, 2), torch.zeros(1, dtype=torch.long)
    found = torch.stack([learner.adapt(learner.prior, (x, y))[1]["adapted.kl"] for _ in range(300)]).mean()
    own = x @ learner.prior["encoder"].T
    pair = torch.cat([own, own], 1)
    for k in range(3):
        pair = pair @ learner.prior[f"relation.{k}"].T
        pair = pair.relu() if k < 2 else pair
    mean, free = pair[0].chunk(2)
    sd = (free.exp() - 1).clamp_min(1e-10)
    closed = ((mean.square() + sd.square() - 1) / 2 - sd.log()).mean()
    torch.testing.assert_close(found, closed, rtol=1e-2, atol=1e-2)


def test_it_learns_to_classify_vectors() -> None:
    def clusters(generator: torch.Generator) -> Task:
        centres = torch.randn(WAYS, FEATURES, generator=generator)
        y = torch.arange(WAYS * 4) % WAYS
        x = torch.nn.functional.normalize(centres[y] + 0.3 * torch.randn(len(y), FEATURES, generator=generator))
        return Task((x[:WAYS], y[:WAYS]), (x[WAYS:], y[WAYS:]))

    tasks = il.from_function(clusters)
    learner = leo(FEATURES, WAYS, 4, steps=2, fine=1, generator=torch.Generator().manual_seed(0))
    mild = Penalties(kl=0.01, dropout=0.0, orthogonality=0.01)
    trainer = leo(FEATURES, WAYS, 4, steps=2, fine=1, penalties=mild)
    torch.manual_seed(0)
    before = il.evaluate(learner, tasks, 3, 100, metric=il.accuracy)
    trained = il.train(learner, tasks, 150, meta_batch=8, outer_rate=5e-3, phases={0: trainer}, validation_tasks=0, progress=False)
    after = il.evaluate(trained, tasks, 3, 100, metric=il.accuracy)
    assert after.mean[-1] > 0.8
    assert after.mean[-1] > before.mean[-1] + 0.05
    assert (il.evaluate(trained, tasks, 3, 100, metric=il.accuracy).values == after.values).all(), "scores are without samples"


def test_what_cannot_be_is_refused(vectors: Task) -> None:
    with pytest.raises(InputError, match="there are 0 features, 5 ways, 64 codes, 5 and 5 steps"):
        leo(0, 5)
    x, y = one(vectors, 0).support
    with pytest.raises(InputError, match="the support has 5 examples of 3 classes; LEO needs equally many of each"):
        built().adapt(built().prior, (x[:5], y[:5]))
