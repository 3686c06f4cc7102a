"""The step that puts what is told of a task in the place of parameters."""

from collections.abc import Callable

from innerloop.learner import Batch, Step
from innerloop.params import Params


def modulate(told: Callable[[Params, Batch], Params]) -> Step:
    """What is told of the task takes its place among the parameters: φ = {θ, τ} with τ = told(θ, batch).

    Args:
        told: ``(params, batch) → params``, such as scales and shifts of a network's layers.

    >>> import torch
    >>> step = modulate(lambda params, batch: {"net.scale": 1 + params["encoder.w"] * batch})
    >>> step({"net.scale": torch.tensor(1.0), "encoder.w": torch.tensor(3.0)}, torch.tensor(2.0))["net.scale"]
    tensor(7.)

    Source: Vuorio et al. 2018, arXiv:1812.07172 (MuMoMAML), §4.1.
    """
    return lambda params, batch: {**params, **told(params, batch)}
