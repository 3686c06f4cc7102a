"""The gradient step."""

from collections.abc import Callable

from torch import Tensor
from torch.func import grad

from innerloop.learner import Batch, Loss, Step
from innerloop.params import Params, Patterns, within

Rate = float | Callable[[Params, str], float | Tensor]


def slope(loss: Loss, params: Params, batch: Batch, moving: Params) -> Params:
    """Gradient of the loss by the ``moving`` ones among the parameters."""
    return grad(lambda moved: loss({**params, **moved}, batch))(moving)


def descend(loss: Loss, rate: Rate = 0.01, only: Patterns = "net", first_order: bool = False, clip: float | None = None) -> Step:
    """One gradient step: φ ← φ − rate · ∇L(φ), for the parameters that match ``only``.

    Args:
        loss: what to go down.
        rate: a number, or ``(params, name) → rate`` where it differs by parameter; a rate
            found in ``params`` is learned with the rest of the prior. A tensor broadcasts
            against the parameter.
        only: patterns of the names that move (see ``within``).
        first_order: take the slope as a constant, so that no second derivative is needed.
        clip: largest element of the slope, > 0.

    >>> import torch
    >>> step = descend(lambda params, batch: (params["net.w"] ** 2).sum(), rate=0.5)
    >>> step({"net.w": torch.tensor([3.0])}, None)
    {'net.w': tensor([0.])}

    Source: Finn et al. 2017, arXiv:1703.03400, §2.2; first order: its §5.2.
    """
    rate_of = rate if callable(rate) else lambda params, name: rate

    def step(params: Params, batch: Batch) -> Params:
        moving = within(params, only)
        if first_order:
            # Detached before the slope is taken: then no graph of it is built at all.
            fixed = {name: p.detach() for name, p in params.items()}
            slopes = slope(loss, fixed, batch, within(fixed, only))
        else:
            slopes = slope(loss, params, batch, moving)
        if clip is not None:
            slopes = {name: s.clamp(-clip, clip) for name, s in slopes.items()}
        return {**params, **{name: p - rate_of(params, name) * slopes[name] for name, p in moving.items()}}

    return step
