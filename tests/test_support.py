"""Normalisation by the support: what a query is told by."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

import innerloop as il
from innerloop import InputError, Task
from innerloop.engine import ENGINES, Plan, meta_gradient
from innerloop.models import convnet


def net() -> nn.Sequential:
    return convnet((1, 8, 8), 3, 4, 2, generator=torch.Generator().manual_seed(0)).double()


def tasks(n: int = 2, queries: int = 9) -> Task:
    g = torch.Generator().manual_seed(1)
    images = lambda points: torch.randn(n, points, 1, 8, 8, generator=g, dtype=torch.float64)
    labels = lambda points: torch.arange(3).repeat(n, points // 3)
    return Task((images(6), labels(6)), (images(queries), labels(queries)))


def test_a_prediction_does_not_depend_on_other_queries() -> None:
    task = il.batches.one(tasks(), 0)

    def predictions(learner: il.Learner) -> tuple[Tensor, Tensor]:
        assert learner.model is not None
        params = learner.adapt(learner.prior, task.support)[-1]
        return learner.model(params, task.query[0])[:2], learner.model(params, task.query[0][:2])

    torch.testing.assert_close(*predictions(il.by_support(net(), functional.cross_entropy, 6, steps=2, rate=0.1)))
    together, alone = predictions(il.maml(net(), il.cross_entropy(net()), steps=2, rate=0.1))
    assert (together - alone).abs().max() > 0.01, "by the batch itself, it does"


def test_adaptation_is_that_of_the_method_and_so_is_a_query_that_is_the_support() -> None:
    ours, plain = il.by_support(net(), functional.cross_entropy, 6, steps=3, rate=0.1), il.maml(net(), il.cross_entropy(net()), 3, 0.1)
    task = il.batches.one(tasks(), 0)
    for mine, its in zip(ours.adapt(ours.prior, task.support)[1:], plain.adapt(plain.prior, task.support), strict=True):
        torch.testing.assert_close({name: mine[name] for name in its}, its)
        torch.testing.assert_close(ours.loss(mine, task.support), plain.loss(its, task.support))
    assert ours.prior.keys() == plain.prior.keys()


def test_all_plans_agree() -> None:
    learner = il.by_support(net(), functional.cross_entropy, 6, il.meta_sgd, steps=2, rate=0.1)
    expected = meta_gradient(learner, Plan(loop=True))(learner.prior, tasks())
    for engine in ENGINES[1:]:
        if "compile" not in engine:
            found = meta_gradient(learner, Plan.named(engine) or Plan())(learner.prior, tasks())
            torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-11)


def test_networks_without_such_layers_are_refused() -> None:
    with pytest.raises(InputError, match="Linear has no BatchNorm with track_running_stats=False"):
        il.by_support(nn.Linear(1, 1), functional.mse_loss, 5)
    with pytest.raises(InputError, match="the support has 1 examples; a variance needs 2 or more"):
        il.by_support(net(), functional.cross_entropy, 1)
