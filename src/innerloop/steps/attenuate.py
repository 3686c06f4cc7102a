"""Steps that take some of the prior away before a task adapts."""

from collections.abc import Callable

from torch import Tensor

from innerloop.errors import InputError
from innerloop.learner import Batch, Step
from innerloop.params import Params, Patterns, within

Gate = Callable[[Params, Batch], Tensor]


def attenuate(gate: Gate, only: Patterns = "net") -> Step:
    """One factor for each parameter tensor, the task's own: φⱼ = γⱼ θⱼ with γ = gate(θ, batch).

    Args:
        gate: ``(params, batch) → γ [tensors]``, or γ and δ ``[2, tensors]`` for φⱼ = γⱼ θⱼ + δⱼ; the
            tensors are those that match ``only``, in the order of ``params``.
        only: patterns of the names that are attenuated (see ``within``).

    >>> import torch
    >>> step = attenuate(lambda params, batch: torch.tensor([0.5, 1.0]))
    >>> step({"net.weight": torch.tensor([4.0]), "net.bias": torch.tensor([3.0])}, None)
    {'net.weight': tensor([2.]), 'net.bias': tensor([3.])}

    Raises:
        InputError: the gate gives another number of factors.

    Source: Baik et al. 2020, arXiv:1906.05859, eq. 3 and 4; δ: its Table 6.
    """

    def step(params: Params, batch: Batch) -> Params:
        old, made = within(params, only), gate(params, batch)
        if made.shape not in ((len(old),), (2, len(old))):
            raise InputError(f"the gate gives {list(made.shape)} for {len(old)} tensors; give [{len(old)}], or [2, {len(old)}] with shifts")
        factors, shifts = made.unbind() if made.ndim == 2 else (made, None)
        new = {name: factors[j] * p for j, (name, p) in enumerate(old.items())}
        if shifts is not None:
            new = {name: p + shifts[j] for j, (name, p) in enumerate(new.items())}
        return {**params, **new}

    return step


def rescale(factor: Callable[[Params, str], Tensor], only: Patterns = "net") -> Step:
    """Factors that are the same for all tasks: φ = factor ∘ θ.

    Args:
        factor: ``(params, name) → tensor`` that broadcasts against the parameter; found in
            ``params``, it is learned with the rest of the prior.
        only: patterns of the names that are rescaled.

    >>> import torch
    >>> step = rescale(lambda params, name: params["factor"])
    >>> step({"net.weight": torch.tensor([4.0]), "factor": torch.tensor(0.5)}, None)["net.weight"]
    tensor([2.])

    Source: Baik et al. 2020, arXiv:1906.05859, eq. 3.
    """
    return lambda params, batch: {**params, **{name: factor(params, name) * p for name, p in within(params, only).items()}}
