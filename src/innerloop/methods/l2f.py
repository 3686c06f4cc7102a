"""L2F, learning to forget: a task keeps of the prior what serves it, and adapts from there."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any, Literal

import torch
from torch import Tensor, nn

from innerloop.errors import InputError, nearest
from innerloop.learner import Batch, Learner, Loss, Step
from innerloop.losses import model
from innerloop.methods.gradient import maml
from innerloop.models import mlp
from innerloop.params import Params, Patterns, named, under, within
from innerloop.steps import Rate, attenuate, rescale, slope

Scope = Literal["parameter", "filter", "layer", "network"]
Signal = Callable[[Params, Batch], Tensor]

SCOPES: dict[str, Callable[[Tensor], tuple[int, ...]]] = {
    "parameter": lambda p: tuple(p.shape),
    "filter": lambda p: (*p.shape[:1], *[1] * (p.ndim - 1)),
    "layer": lambda p: (),
    "network": lambda p: (),
}
"""Shape of a tensor's factors."""


def l2f(net: nn.Module, loss: Loss, steps: int = 5, rate: Rate = 0.01, only: Patterns = "net", **how: Any) -> Learner:
    """L2F: φ₀ⱼ = γⱼ θⱼ with γ = σ(g(mean ∇_θ₁ L(θ), …)), then MAML's steps from φ₀.

    ``attenuated`` puts the same in front of any other learner.

    Args:
        only: patterns of the names that are attenuated and move; normalisations stay in the
            paper's networks: ``["net", "-*.norm"]``.
        how: further arguments of ``attenuated``, and ``first_order`` of ``maml``.

    >>> from innerloop.losses import mse
    >>> learner = l2f(net := mlp(1, 8, 1), mse(net), steps=2)
    >>> [name for name in learner.prior if name.startswith("gate")]
    ['gate.0.weight', 'gate.0.bias', 'gate.2.weight', 'gate.2.bias']
    >>> learner.prior["gate.0.weight"].shape  # one number in and one out for each tensor of the network
    torch.Size([4, 4])

    Source: Baik et al. 2020, arXiv:1906.05859, algorithm 1; baiksung/L2F.
    """
    base = maml(net, loss, steps, rate, only, how.pop("first_order", False))
    return attenuated(base, loss, only, **how)


def attenuated(
    base: Learner,
    loss: Loss,
    only: Patterns = "net",
    *,
    signal: Signal | None = None,
    size: int | None = None,
    squash: Callable[[Tensor], Tensor] = torch.sigmoid,
    shift: bool = False,
    layers: int = 2,
    keep_graph: bool = False,
    generator: torch.Generator | None = None,
) -> Learner:
    """Any learner that forgets first: φ₀ⱼ = γⱼ θⱼ, γ = squash(g(signal)), before its own steps and after what prepares them.

    γ is one number for each parameter tensor and task, weights and biases apart. g is an MLP of
    ``gate.*`` in the prior, whose layers are all as wide as there are tensors; γ is near ½ when
    training begins.

    Args:
        base: steps that begin where attenuation ends; as a support, a list has an entry for it too.
        loss: whose slopes tell of the task.
        only: patterns of the names that are attenuated: those that move in ``base``.
        signal: ``(params, batch) → what is told of the task [size]``; by default ``mean_slopes(loss, only)``.
        size: numbers of the signal; by default one for each tensor.
        squash: ``torch.sigmoid``, or any other function to the factors.
        shift: also add a learned δⱼ, φ₀ⱼ = γⱼ θⱼ + δⱼ, with ``squash`` on both.
        layers: of weights in g. The release has 2; the paper writes "3-layer MLP".
        keep_graph: differentiate through the slopes too. The release takes them as constants.
        generator: where g's weights are drawn from, as PyTorch draws those of linear layers.

    Raises:
        InputError: no parameter matches, there are no layers, or the learner has factors already.

    Source: Baik et al. 2020, arXiv:1906.05859, eq. 3 and 4, Tables 5 and 6; baiksung/L2F.
    """
    names = list(within(base.prior, only))  # of the prior: what a first step puts in its place stays whole
    count = len(names)
    if layers < 1:
        raise InputError(f"layers is {layers}; g needs at least one layer of weights")
    if under(base.prior, "gate"):
        raise InputError("the learner is attenuated already; its prior has gate.* of another g")
    told = signal or mean_slopes(loss, names, keep_graph)
    gates = mlp(size or count, *[count] * (layers - 1), count * (2 if shift else 1), generator=generator)
    like, factors = next(iter(base.prior.values())), model(gates, "gate")

    def gate(params: Params, batch: Batch) -> Tensor:
        made = squash(factors(params, told(params, batch)))
        return made.unflatten(0, (2, count)) if shift else made

    prior = base.prior | {name: p.to(like) for name, p in named("gate", gates).items()}
    return _before(base, attenuate(gate, names), prior)


def attenuated_for_all(base: Learner, scope: Scope = "layer", only: Patterns = "net") -> Learner:
    """Any learner whose tasks all forget alike: φ₀ = γ ∘ θ with γ learned, at 1 when training begins.

    Args:
        scope: one γ for each ``parameter``, each ``filter`` (the weights to one output), each
            ``layer`` (a tensor; weights and biases apart), or one for the whole ``network``.
        only: patterns of the names that are attenuated.

    Raises:
        InputError: there is no such scope, or no parameter matches.

    >>> from innerloop.losses import mse
    >>> base = maml(net := mlp(1, 8, 1), mse(net))
    >>> {name: list(p.shape) for name, p in attenuated_for_all(base, "filter").prior.items() if name.startswith("factor")}
    {'factor.net.0.weight': [8, 1], 'factor.net.0.bias': [8], 'factor.net.2.weight': [1, 1], 'factor.net.2.bias': [1]}

    Source: Baik et al. 2020, arXiv:1906.05859, Table 4.
    """
    if scope not in SCOPES:
        raise InputError(f"scope is {scope!r}; {nearest(scope, SCOPES)}")
    moving = within(base.prior, only)
    whole = scope == "network"
    like = next(iter(moving.values()))
    factors = {"factor": like.new_ones(())} if whole else {f"factor.{name}": p.new_ones(SCOPES[scope](p)) for name, p in moving.items()}
    step = rescale(lambda params, name: params["factor" if whole else f"factor.{name}"], list(moving))
    return _before(base, step, base.prior | factors)


def mean_slopes(loss: Loss, only: Patterns = "net", keep_graph: bool = False) -> Signal:
    """What L2F is told of a task: the mean of each tensor's gradient, ``[tensors]``.

    Args:
        keep_graph: differentiate through it; else it is a constant to the outer loop.

    >>> signal = mean_slopes(lambda params, batch: (params["net.w"] ** 2).sum())
    >>> signal({"net.w": torch.tensor([1.0, 3.0])}, None)
    tensor([4.])

    Source: Baik et al. 2020, arXiv:1906.05859, §3.4.
    """

    def signal(params: Params, batch: Batch) -> Tensor:
        at = params if keep_graph else {name: p.detach() for name, p in params.items()}
        return torch.stack([g.mean() for g in slope(loss, at, batch, within(at, only)).values()])

    return signal


def mean_prototype(trained: Learner) -> Signal:
    """What a trained prototypical network tells of a task: the mean of its classes' prototypes, ``[features]``.

    Args:
        trained: such as ``train(prototypical(embed, ways), …)``; it learns no more.

    Source: Baik et al. 2020, arXiv:1906.05859, Table 5.
    """
    prior = {name: p.detach() for name, p in trained.prior.items()}
    [keep] = trained.steps
    return lambda params, batch: keep(prior, batch)["prototypes"].mean(0)


def _before(base: Learner, step: Step, prior: Params) -> Learner:
    """The learner with one more step that prepares, the last of those."""
    steps = (*base.steps[: base.prepared], step, *base.steps[base.prepared :])
    return replace(base, prior=prior, steps=steps, prepared=base.prepared + 1)
