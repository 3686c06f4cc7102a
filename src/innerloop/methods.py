"""The methods, each a composition of steps: a learner is made of a network and a loss.

Common arguments: ``net``, any ``nn.Module``; ``loss``, ``(params, batch) → scalar`` such as
``mse(net)``; ``steps``, the number of adaptation steps; ``rate``, the inner rate, > 0.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.func import vmap

from innerloop.errors import InputError
from innerloop.learner import Batch, Learner, Loss
from innerloop.losses import model
from innerloop.params import Params, Patterns, named, within
from innerloop.steps import Rate, descend


def pretrained(net: nn.Module, loss: Loss) -> Learner:
    """No adaptation: trained on all tasks at once, θ ← argmin Σ_i L_i(θ).

    The baseline of every paper here; ``maml`` with the trained network fine-tunes it.
    """
    if not (prior := named("net", net)):
        raise InputError(f"{type(net).__name__} has no parameters to learn; give a network that has")
    return Learner(prior, (), loss, model(net))


def maml(
    net: nn.Module,
    loss: Loss,
    steps: int = 1,
    rate: Rate | Sequence[Rate] = 0.01,
    only: Patterns = "net",
    first_order: bool = False,
) -> Learner:
    """MAML: φₖ₊₁ = φₖ − rate · ∇L(φₖ), trained through the steps.

    Args:
        rate: one for all steps, or a list of one for each.
        only: patterns of the names that move.
        first_order: leave the second derivatives out.

    >>> net = nn.Linear(1, 1)
    >>> from innerloop.losses import mse
    >>> len(maml(net, mse(net), steps=5, rate=0.01).steps)
    5

    Source: Finn et al. 2017, arXiv:1703.03400, algorithm 2.
    """
    rates = list(rate) if isinstance(rate, Sequence) else [rate] * steps
    if steps < 0 or len(rates) != steps:
        raise InputError(f"steps is {steps} and there are {len(rates)} rates; take 0 steps or more, with one rate or one for each step")
    for r in rates:
        if not (callable(r) or r >= 0):
            raise InputError(f"rate is {r}; an inner rate must be 0 or more")
    start = pretrained(net, loss)
    within(start.prior, only)  # a pattern that matches nothing is found now, not in the first iteration
    made = {r: descend(loss, r, only, first_order) for r in rates}  # equal steps are one step, so that it is compiled once
    return replace(start, steps=tuple(made[r] for r in rates))


def fomaml(net: nn.Module, loss: Loss, steps: int = 1, rate: Rate | Sequence[Rate] = 0.01, **how: Any) -> Learner:
    """First-order MAML: the meta-gradient is the gradient at the adapted parameters, ∇L(φ_K).

    Source: Finn et al. 2017, arXiv:1703.03400, §5.2.
    """
    return maml(net, loss, steps, rate, first_order=True, **how)


def head_of(net: nn.Module) -> str:
    """The last module that owns parameters: what ANIL adapts and BOIL leaves.

    >>> head_of(nn.Sequential(nn.Linear(1, 8), nn.ReLU(), nn.Linear(8, 1)))
    'net.2'
    """
    owner = ("", *(name for name, _ in net.named_parameters()))[-1].rpartition(".")[0]
    if not owner:
        raise InputError(f"{type(net).__name__} has no layer that could be its head; name what may move with maml(only=…)")
    return f"net.{owner}"


def anil(net: nn.Module, loss: Loss, steps: int = 1, rate: Rate = 0.01, head: str | None = None, **how: Any) -> Learner:
    """ANIL, almost no inner loop: only the head moves.

    Args:
        head: pattern of its names, by default the last layer's.

    Source: Raghu et al. 2020, arXiv:1909.09157.
    """
    return maml(net, loss, steps, rate, only=head or head_of(net), **how)


def boil(net: nn.Module, loss: Loss, steps: int = 1, rate: Rate = 0.01, head: str | None = None, **how: Any) -> Learner:
    """BOIL, body only in the inner loop: all but the head moves.

    Args:
        head: pattern of the names that stay, by default the last layer's.

    Source: Oh et al. 2021, arXiv:2008.08882.
    """
    return maml(net, loss, steps, rate, only=["net", f"-{head or head_of(net)}"], **how)


def meta_sgd(net: nn.Module, loss: Loss, steps: int = 1, rate: float = 0.01, **how: Any) -> Learner:
    """Meta-SGD: one learned rate for every weight, φ ← φ − a ∘ ∇L(φ), with a started at ``rate``.

    Source: Li et al. 2017, arXiv:1707.09835, algorithm 1.
    """
    base = maml(net, loss, steps, lambda params, name: params[f"rate.{name}"], **how)
    rates = {f"rate.{name}": torch.full_like(p, rate) for name, p in _moving(base, how).items()}
    return replace(base, prior=base.prior | rates)


def per_step_rates(net: nn.Module, loss: Loss, steps: int = 5, rate: float = 0.01, **how: Any) -> Learner:
    """MAML++'s rates: one learned for every tensor and step, φₖ₊₁ = φₖ − aₖ · ∇L(φₖ).

    Source: Antoniou et al. 2019, arXiv:1810.09502, §4 (LSLR).
    """
    base = maml(net, loss, steps, [lambda params, name, k=k: params[f"rate.{name}"][k] for k in range(steps)], **how)
    rates = {f"rate.{name}": p.new_full((steps,), rate) for name, p in _moving(base, how).items()}
    return replace(base, prior=base.prior | rates)


def _moving(base: Learner, how: dict[str, Any]) -> Params:
    return within(base.prior, how.get("only", "net"))


def context_vector(net: nn.Module, loss: Loss, steps: int = 1, rate: Rate = 0.01, **how: Any) -> Learner:
    """Context vector: free inputs z adapt, z ← z − rate · ∇_z L; the weights are shared by all tasks.

    Args:
        net: a network with a parameter named ``context``, such as ``models.WithContext``;
            where z starts is learned like the weights.

    Source: Finn et al. 2017, arXiv:1703.03400, App. C.2, after Rei 2015.
    """
    return maml(net, loss, steps, rate, only="net.context", **how)


def independent(
    nets: Sequence[nn.Module],
    loss_of: Callable[[nn.Module], Loss],
    strength: float = 0.0,
    pull: Literal["none", "zero", "mean"] = "none",
) -> Learner:
    """Networks trained side by side on a task each, for ``averaged``: min Σ_i L_i(θ_i) + strength · |θ_i − c_i|².

    Their parameters are stacked, and so is the batch: its first axis counts the networks.
    The sum leaves every network's gradient as if it were trained alone.

    Args:
        nets: networks of one shape, each with its own start.
        loss_of: ``net → loss`` of one of them, such as ``mse``.
        strength: weight of the distance, ≥ 0.
        pull: what c_i is: ``zero`` (weight decay), or the ``mean`` of the networks before
            the i-th, as if they were trained one after the other.

    Source: Finn et al. 2017, arXiv:1703.03400, App. C.1.
    """
    loss, each = loss_of(nets[0]), [named("net", net) for net in nets]
    stacked = {name: torch.stack([prior[name] for prior in each]) for name in each[0]}
    before = torch.arange(len(nets)).clamp(min=1)

    def centre(p: Tensor) -> Tensor:
        if pull == "zero":
            return torch.zeros_like(p)
        # The first network has none before it: its centre is itself, and it is free.
        earlier = (p.cumsum(0) - p) / before.to(p).reshape(-1, *[1] * (p.ndim - 1))
        return torch.cat([p[:1], earlier[1:]]).detach()

    def together(params: Params, batch: Batch) -> Tensor:
        total = vmap(loss)(params, batch).sum()
        if strength and pull != "none":
            total = total + strength * sum(((p - centre(p)) ** 2).sum() for p in params.values())
        return total

    return Learner(stacked, (), together)


def averaged(params: Params) -> Params:
    """The mean of stacked networks: the prior that multi-task averaging fine-tunes."""
    return {name: p.mean(0) for name, p in params.items()}


METHODS = {f.__name__: f for f in (maml, fomaml, anil, boil, meta_sgd, per_step_rates, context_vector)}
