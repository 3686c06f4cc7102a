"""MuMoMAML: the prior is modulated for the kind of task that the support shows, and adapts from there; and an oracle that is told."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, Literal

import torch
from torch import Tensor, nn

from innerloop.errors import InputError, nearest
from innerloop.learner import Batch, Learner, Loss
from innerloop.losses import model
from innerloop.methods.gradient import maml
from innerloop.models import mlp
from innerloop.models.film import scales
from innerloop.params import Params, named, under
from innerloop.steps import Rate, each_on, modulate

Operation = Literal["film", "sigmoid", "softmax"]

OPERATIONS: dict[str, tuple[int, Callable[[Tensor], tuple[Tensor, Tensor]]]] = {
    "film": (2, lambda t: (1 + t.chunk(2)[0], t.chunk(2)[1])),
    "sigmoid": (1, lambda t: (t.sigmoid(), torch.zeros_like(t))),
    "softmax": (1, lambda t: (t.softmax(-1), torch.zeros_like(t))),
}
"""Numbers for each unit, and scale and shift made of them."""

EMBEDDING = "embedding"
"""Where a task's path keeps what its encoder told."""


def mumomaml(
    net: nn.Module,
    loss: Loss,
    steps: int = 5,
    rate: Rate | Sequence[Rate] = 0.01,
    *,
    encoder: nn.Module,
    size: int | None = None,
    operation: Operation = "film",
    hidden: int | None = 80,
    base: Callable[..., Learner] = maml,
    generator: torch.Generator | None = None,
    **how: Any,
) -> Learner:
    """MuMoMAML: layer i's units become Fᵢ ∘ scaleᵢ + shiftᵢ, told by gᵢ(v) with v = encoder(support); then MAML's steps.

    Scales and shifts are constants to those steps. FiLM: scale = 1 + γ and shift = β with
    (γ, β) = g(v); the paper prints τ_γ for the scale, but with the 1, as in the released code,
    g = 0 is the base learner. Sigmoid, softmax: scale = σ(g(v)), or softmax(g(v)) over the layer's
    units, and no shift. The query's loss trains encoder and heads too, through all uses of
    what they tell; a path keeps v as ``embedding``.

    Args:
        net: with layers that can be modulated: those of ``with_film``, or batch normalisations.
        encoder: ``(x, y) → v [size]`` of one task's support, such as ``Recurrent`` or ``OfImages``.
        size: numbers of v, where the encoder has no ``size`` of its own.
        operation: ``film``, ``sigmoid`` or ``softmax``.
        hidden: units of each layer's head g, an MLP of one hidden layer; None for a linear layer, as in the released code.
        base: what adapts, ``(net, loss, steps, rate, only=…) → learner``: ``maml``, ``meta_sgd``, ``maml_plus_plus``, ``l2f``, ….
        generator: where the heads' weights are drawn from.
        how: further arguments of ``base``. ``only`` is by default all of the network but what is modulated.

    >>> from innerloop.losses import mse
    >>> from innerloop.models import Recurrent, with_film
    >>> net = with_film(mlp(1, 8, 8, 1))
    >>> learner = mumomaml(net, mse(net), encoder=Recurrent(2, hidden=4), hidden=None)
    >>> [name for name in learner.prior if name.startswith("head")]
    ['head.0.0.weight', 'head.0.0.bias', 'head.2.0.weight', 'head.2.0.bias']
    >>> path = learner.adapt(learner.prior, (torch.zeros(5, 1), torch.zeros(5, 1)))
    >>> bool((path[1]["net.0.scale"] != 1).any())
    True

    Raises:
        InputError: nothing in the network can be modulated, there is no such operation, or the embedding's size is not known.

    Source: Vuorio et al. 2018, arXiv:1812.07172, algorithm 1; Vuorio et al. 2019, arXiv:1910.13616, released code.
    """
    layers = {name: (f"net.{scale}", f"net.{shift}") for name, (scale, shift) in scales(net).items()}
    if not layers:
        raise InputError(f"{type(net).__name__} has no layer that can be modulated; make it with with_film(net), before its loss")
    if operation not in OPERATIONS:
        raise InputError(f"operation is {operation!r}; {nearest(operation, OPERATIONS)}")
    told = size or getattr(encoder, "size", None)
    if not isinstance(told, int):
        raise InputError(f"how many numbers does a {type(encoder).__name__} give? say so with size")
    moved = [name for both in layers.values() for name in both]
    learner = base(net, loss, steps, rate, **{"only": ["net", *(f"-{name}" for name in moved)], **how})
    numbers, made = OPERATIONS[operation]
    units = {layer: learner.prior[scale].numel() for layer, (scale, _) in layers.items()}
    heads = {layer: mlp(told, *([hidden] if hidden else []), numbers * n, generator=generator) for layer, n in units.items()}
    embed, asked = model(encoder, "encoder"), {layer: model(head, f"head.{layer}") for layer, head in heads.items()}

    def tells(params: Params, batch: Batch) -> Params:
        v = embed(params, *batch)
        each = {layer: made(numbers_of(params, v)) for layer, numbers_of in asked.items()}
        return {EMBEDDING: v} | {name: value for layer, both in each.items() for name, value in zip(layers[layer], both, strict=True)}

    like = next(iter(learner.prior.values()))
    more = named("encoder", encoder)
    for layer, head in heads.items():
        more |= named(f"head.{layer}", head)
    prior = learner.prior | {name: p.to(like) for name, p in more.items()}
    return replace(learner, prior=prior, steps=(modulate(tells), *learner.steps), prepared=learner.prepared + 1)


def multi_maml(learners: Sequence[Learner]) -> Learner:
    """One learner for each mode, chosen by a task's true mode: φ₀ = θ_mode. An oracle, as only it is told.

    They are one stack, ``mode.*`` in the prior, so that all modes' tasks adapt and train
    together: the support is ``Told(batch, mode)``, as of ``Mixture(told=True)``.

    Args:
        learners: of the same kind with a prior each, such as ``maml`` on networks of other starts;
            the first one's steps and loss are taken.

    Raises:
        InputError: there are none, or their priors differ in names or shapes; when adapting, a task does not tell its mode.

    >>> from innerloop.losses import mse
    >>> from innerloop.tasks import Told
    >>> learner = multi_maml([maml(net := nn.Linear(1, 1), mse(net)), maml(net, mse(net))])
    >>> {name: list(p.shape) for name, p in learner.prior.items()}
    {'mode.net.weight': [2, 1, 1], 'mode.net.bias': [2, 1]}
    >>> len(learner.adapt(learner.prior, Told((torch.ones(2, 1), torch.ones(2, 1)), torch.tensor(1))))
    3

    Source: Vuorio et al. 2018, arXiv:1812.07172 (MuMoMAML), §5.1.
    """
    if not learners:
        raise InputError("there are no learners; give one for each mode")
    first = learners[0]
    shapes = [{name: p.shape for name, p in learner.prior.items()} for learner in learners]
    if any(other != shapes[0] for other in shapes):
        raise InputError("the learners' priors differ in names or shapes; make one for each mode in the same way")
    prior = {f"mode.{name}": torch.stack([learner.prior[name] for learner in learners]) for name in first.prior}

    def choose(params: Params, mode: Batch) -> Params:
        return {**params, **{name: stack.index_select(0, mode.view(1))[0] for name, stack in under(params, "mode").items()}}

    missing = "the support does not tell the mode of its task; draw from a Mixture(…, told=True)"
    steps = each_on([choose], "mode", missing) + each_on(first.steps, "batch", missing)
    return replace(first, prior=prior, steps=steps, prepared=first.prepared + 1)
