"""Normalisation by the support alone, so that no query is told anything by the others."""

from collections.abc import Callable
from copy import deepcopy
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from innerloop.errors import InputError
from innerloop.learner import Batch, Learner
from innerloop.losses import supervised
from innerloop.methods.gradient import maml
from innerloop.models.plain import by_batch, is_by_batch
from innerloop.params import Params

SHOWN = "shown.x"


def by_support(
    net: nn.Module, compare: Callable[[Any, Any], Tensor], examples: int, method: Callable[..., Learner] = maml, **how: Any
) -> Learner:
    """A method whose network normalises queries by mean and variance of the support, layer by layer, at the same parameters.

    Where ``BatchNorm`` is by the batch itself, as in the papers' code, a prediction depends on the
    other queries that come with it. Here a first step keeps the support, and queries go through
    the network behind it: each prediction costs the support's forward pass, and is its own.

    Args:
        net: whose ``BatchNorm`` layers keep no running statistics; it stays as it is.
        compare: ``(prediction, y) → scalar``, such as ``torch.nn.functional.cross_entropy``.
        examples: of the support, N · K.
        method: ``(net, loss, …) → learner``; ``how`` are its other arguments.

    >>> net = nn.Sequential(nn.Linear(1, 8), nn.BatchNorm1d(8, track_running_stats=False), nn.Linear(8, 1))
    >>> learner = by_support(net, nn.functional.mse_loss, examples=5, steps=2)
    >>> path = learner.adapt(learner.prior, (torch.rand(5, 1), torch.rand(5, 1)))
    >>> x = torch.rand(3, 1)
    >>> bool(torch.allclose(learner.model(path[-1], x)[:1], learner.model(path[-1], x[:1])))
    True

    Raises:
        InputError: the network has no such layer, or there are fewer than 2 examples.

    Source: Bronskill et al. 2020, arXiv:2003.03284 (MetaBN).
    """
    if examples < 2:
        raise InputError(f"the support has {examples} examples; a variance needs 2 or more")
    own = deepcopy(net)
    layers = [layer for layer in own.modules() if is_by_batch(layer)]
    if not layers:
        raise InputError(
            f"{type(net).__name__} has no BatchNorm with track_running_stats=False; build it with one, or take the method alone"
        )
    for layer in layers:
        layer.forward = partial(_by_first, layer, examples)
    base = method(own, supervised(own, compare), **how)
    assert base.model is not None, "a learner of a network has its model"
    plain = base.model

    def keep(params: Params, batch: Batch) -> Params:
        return {**params, SHOWN: batch[0]}

    def predict(params: Params, x: Any) -> Any:
        if SHOWN not in params:
            return plain(params, x)
        return plain(params, torch.cat([params[SHOWN], x]))[len(params[SHOWN]) :]

    def loss(params: Params, batch: Batch) -> Tensor:
        return compare(predict(params, batch[0]), batch[1])

    return replace(base, steps=(keep, *base.steps), loss=loss, model=predict, prepared=base.prepared + 1)


def _by_first(norm: Any, examples: int, x: Tensor) -> Tensor:
    """What a ``BatchNorm`` layer gives with mean and variance of the first examples."""
    return by_batch(x, norm.weight, norm.bias, norm.eps, examples)
