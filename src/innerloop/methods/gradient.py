"""Gradient steps from a learned prior: MAML and its family."""

from collections.abc import Sequence
from dataclasses import replace
from numbers import Real
from typing import Any

import torch
from torch import Tensor, nn

from innerloop.errors import InputError, whole
from innerloop.learner import Batch, Learner, Loss
from innerloop.methods.baselines import head_of, pretrained
from innerloop.params import Params, Patterns, within
from innerloop.steps import Rate, descend, in_turn


def maml(
    net: nn.Module,
    loss: Loss,
    steps: int = 1,
    rate: Rate | Sequence[Rate] = 0.01,
    only: Patterns = "net",
    first_order: bool = False,
    clip: float | None = None,
) -> Learner:
    """MAML: φₖ₊₁ = φₖ − rate · ∇L(φₖ), trained through the steps.

    Args:
        rate: one for all steps, or a list of one for each.
        only: patterns of the names that move.
        first_order: leave the second derivatives out.
        clip: largest element of an inner gradient.

    >>> net = nn.Linear(1, 1)
    >>> from innerloop.losses import mse
    >>> len(maml(net, mse(net), steps=5, rate=0.01).steps)
    5

    Source: Finn et al. 2017, arXiv:1703.03400, algorithm 2.
    """
    whole(steps=steps)
    rates = list(rate) if isinstance(rate, Sequence) else [rate] * steps
    if len(rates) != steps:
        raise InputError(f"steps is {steps} and there are {len(rates)} rates; give one rate, or one for each step")
    for r in rates:
        if not (callable(r) or (isinstance(r, Real | Tensor) and r >= 0)):
            raise InputError(f"rate is {r}; an inner rate must be 0 or more, or a function (params, name) → rate")
    if clip is not None and not clip > 0:
        raise InputError(f"clip is {clip}; the largest element of a gradient must be above 0, or None for any")
    start = pretrained(net, loss)
    within(start.prior, only)  # a pattern that matches nothing is found now, not in the first iteration
    made = {r: descend(loss, r, only, first_order, clip) for r in rates}  # equal steps are one step, so that it is compiled once
    return replace(start, steps=tuple(made[r] for r in rates))


def fomaml(net: nn.Module, loss: Loss, steps: int = 1, rate: Rate | Sequence[Rate] = 0.01, **how: Any) -> Learner:
    """First-order MAML: the meta-gradient is the gradient at the adapted parameters, ∇L(φ_K).

    Source: Finn et al. 2017, arXiv:1703.03400, §5.2.
    """
    return maml(net, loss, steps, rate, first_order=True, **how)


def anil(
    net: nn.Module, loss: Loss, steps: int = 1, rate: Rate = 0.01, head: str | None = None, *, only: Patterns = "net", **how: Any
) -> Learner:
    """ANIL, almost no inner loop: only the head moves.

    Args:
        head: pattern of its names, by default the last layer's.
        only: what its patterns of the kind ``-name`` leave out stays too.

    Source: Raghu et al. 2020, arXiv:1909.09157.
    """
    return maml(net, loss, steps, rate, only=[head or head_of(net), *_left_out(only)], **how)


def oml(net: nn.Module, loss: Loss, steps: int = 50, rate: Rate = 0.003, head: str | None = None, **how: Any) -> Learner:
    """OML, online-aware meta-learning: the representation stays, and the head follows a stream of correlated batches, one a step.

    φₖ₊₁ = φₖ − rate · ∇L(φₖ; Sₖ) for the head alone, and the loss is that of all that the stream has shown: so
    the representation learns to keep what comes later from destroying what came before. It is ANIL on a
    list of batches, such as ``Streams`` give; the meta-gradient goes through the whole stream.

    Args:
        steps: batches of a stream.
        head: pattern of the names that move, by default the last layer's.

    >>> from innerloop.losses import mse
    >>> from innerloop.models import mlp
    >>> from innerloop.tasks import Sinusoids, Streams
    >>> streams = Streams(Sinusoids(shots=10), functions=3, updates=2)
    >>> learner = oml(net := mlp(4, 8, 1), mse(net), steps=3 * 2)
    >>> len(learner.adapt(learner.prior, [(x[0], y[0]) for x, y in streams.draw("train", 0, 1).support]))
    7

    Source: Javed & White 2019, arXiv:1905.12588, algorithm 1.
    """
    return anil(net, loss, steps, rate, head, **how)


def boil(
    net: nn.Module, loss: Loss, steps: int = 1, rate: Rate = 0.01, head: str | None = None, *, only: Patterns = "net", **how: Any
) -> Learner:
    """BOIL, body only in the inner loop: all but the head moves.

    Args:
        head: pattern of the names that stay, by default the last layer's.
        only: what its patterns of the kind ``-name`` leave out stays too.

    Source: Oh et al. 2021, arXiv:2008.08882.
    """
    return maml(net, loss, steps, rate, only=["net", f"-{head or head_of(net)}", *_left_out(only)], **how)


def _left_out(only: Patterns) -> list[str]:
    return [pattern for pattern in ([only] if isinstance(only, str) else only) if pattern.startswith("-")]


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

    Raises:
        InputError: other parameters are to move.

    Source: Finn et al. 2017, arXiv:1703.03400, App. C.2, after Rei 2015.
    """
    if "only" in how:
        raise InputError("of a context vector's learner the context alone moves; take maml(…, only=…) for others")
    return maml(net, loss, steps, rate, only="net.context", **how)


def reptile(net: nn.Module, loss: Loss, steps: int = 5, rate: float = 0.01, **how: Any) -> Learner:
    """Reptile: the prior moves to where adaptation ends, θ ← θ + ε · mean_i (φ_K − θ), ε the outer rate.

    The first step keeps the start under names of its own, the descents are detached, and the
    loss is ½ Σ |start − φ_K|² with φ_K a constant, so that the meta-gradient is θ − φ_K.
    Queries are not looked at. That loss is a distance and no score, so train another learner by
    it, the one that is to be evaluated: ``train(maml(net, loss, steps, rate), …, phases={0:
    reptile(net, loss, steps, rate)})``, with SGD outside as in the paper's update.

    The paper draws new points for each step: a list as support does that. Steps are plain
    descents; the released code's are Adam's without momentum.

    >>> from innerloop.losses import mse
    >>> learner = reptile(net := nn.Linear(1, 1, bias=False), mse(net), steps=3)
    >>> [list(point) for point in learner.adapt(learner.prior, (torch.ones(2, 1), torch.ones(2, 1)))[:2]]
    [['net.weight'], ['start.net.weight', 'net.weight']]

    Source: Nichol et al. 2018, arXiv:1803.02999, algorithm 2.
    """
    return toward_end(fomaml(net, loss, steps, rate, **how))


def toward_end(base: Learner) -> Learner:
    """Reptile's update for any learner: the prior moves to where its steps end, and no derivative goes through them.

    Args:
        base: whose steps take slopes as constants, such as ``fomaml``, or ``maltml(fomaml(…), meta_steps=5,
            first_order=True)`` for the two-level first-order form of MALTML.

    Source: Nichol et al. 2018, arXiv:1803.02999, algorithm 2; Devos & Dandi 2020, §3.2.
    """

    def keep_start(params: Params, batch: Batch) -> Params:
        return {**{f"start.{name}": params[name] for name in base.prior}, **params}  # a start that is kept already stays

    def distance(params: Params, batch: Batch) -> Tensor:
        moved = [params.get(f"start.{name}", params[name]) - params[name].detach() for name in base.prior]
        return torch.stack([difference.square().sum() for difference in moved]).sum() / 2

    made = {descent: in_turn(keep_start, descent) for descent in base.steps}  # equal steps stay one step
    return replace(base, steps=tuple(made[descent] for descent in base.steps), loss=distance, weights=(1.0,))
