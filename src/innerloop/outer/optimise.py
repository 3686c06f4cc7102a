"""Optimisers of the outer loop, and schedules of their rate."""

from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.optim import lr_scheduler as schedules
from torch.optim.lr_scheduler import LRScheduler

from innerloop.errors import InputError, positive

Made = TypeVar("Made")


def adam(rate: float, clip: float | None = None, longest: float | None = None) -> Callable[[list[Tensor]], Optimizer]:
    """Adam with the given rate, for ``train(optimizer=…)``.

    Args:
        rate: above 0.
        clip: bound of each element of the meta-gradient, which is cut to −clip … clip before
            the step. MAML's on mini-ImageNet is 10, and it acts on the loss's scale: that of
            ``cross_entropy_per_shot``.
        longest: bound of the length of the whole meta-gradient, which is shortened to it, after ``clip``.

    Raises:
        InputError: a setting is not above 0.

    Source of the clipping: Finn et al. 2017, arXiv:1703.03400, in cbfinn/maml, ``maml.py``.
    """
    positive(rate=rate, clip=1.0 if clip is None else clip, longest=1.0 if longest is None else longest)

    def build(params: list[Tensor]) -> Optimizer:
        outer = torch.optim.Adam(params, rate, fused=all(p.is_floating_point() for p in params))
        outer.defaults |= {"clip": clip, "longest": longest}  # known to a run that goes on
        if clip is not None:
            outer.register_step_pre_hook(partial(_clip, params, clip))
        if longest is not None:
            outer.register_step_pre_hook(partial(_shorten, params, longest))
        return outer

    return build


def _clip(params: list[Tensor], bound: float, *step: object) -> None:
    for p in params:
        if p.grad is not None:
            p.grad = p.grad.clamp(-bound, bound)


def _shorten(params: list[Tensor], bound: float, *step: object) -> None:
    torch.nn.utils.clip_grad_norm_(params, bound)


def optimizer_of(make: Any, params: list[Tensor]) -> Optimizer:
    """What the user's function makes of the prior.

    Raises:
        InputError: it is no function that makes an optimiser, or one whose steps need a closure.
    """
    usual, needed = "a list of tensors, such as adam(1e-3)", "torch.optim whose step needs no closure"
    return _made("optimizer", make, params, Optimizer, torch.optim.LBFGS, usual, needed)


def schedule_of(make: Any, outer: Optimizer) -> LRScheduler:
    """What the user's function makes of the optimiser.

    Raises:
        InputError: it is no function that makes a schedule, or one that has to be told a loss.
    """
    usual, needed = "an optimiser, such as cosine(iterations)", "torch's that steps by the iteration alone"
    return _made("schedule", make, outer, LRScheduler, schedules.ReduceLROnPlateau, usual, needed)


def _made(name: str, make: Any, given: Any, kind: type[Made], unfit: type, usual: str, needed: str) -> Made:
    if isinstance(make, kind):
        raise InputError(f"{name} is a {type(make).__name__} that is made; give what makes one of {usual}")
    if isinstance(found := make(given), unfit) or not isinstance(found, kind):
        raise InputError(f"{name} makes a {type(found).__name__}; give one of {needed}")
    return found


def cosine(iterations: int, least: float = 0.0) -> Callable[[Optimizer], LRScheduler]:
    """The outer rate falls along half a cosine, from its own value to ``least``, and stays there; for ``train(schedule=…)``.

    MAML++ takes 1e-3 to 1e-5 on Omniglot, lowered every epoch; here it falls with every iteration.

    Args:
        iterations: that it takes to fall, as a rule those of the training.
        least: where it ends, 0 or more.

    Raises:
        InputError: there are no iterations, or the rate would end below 0.

    Source: Loshchilov & Hutter 2017, arXiv:1608.03983, eq. 5; Antoniou et al. 2019, arXiv:1810.09502, §4 (CA).
    """
    positive(iterations=iterations)
    if least < 0:
        raise InputError(f"least is {least}; a rate must be 0 or more")
    return lambda outer: CosineAnnealingLR(outer, iterations, least)


class CosineAnnealingLR(schedules.CosineAnnealingLR):
    """Torch's own, but for what comes after its iterations: there torch's rises again, and this one stays."""

    def get_lr(self) -> list[float | Tensor]:
        if self.last_epoch > self.T_max:
            return [self.eta_min for _ in self.optimizer.param_groups]
        return super().get_lr()
