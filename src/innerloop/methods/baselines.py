"""What methods are measured against: no adaptation, a new head on a trained network, the mean of networks."""

from collections.abc import Callable, Sequence
from copy import deepcopy
from typing import Literal

import torch
from torch import Tensor, nn
from torch.func import vmap

from innerloop.errors import InputError
from innerloop.learner import Batch, Learner, Loss
from innerloop.losses import model
from innerloop.params import Params, named, under


def pretrained(net: nn.Module, loss: Loss) -> Learner:
    """No adaptation: trained on all tasks at once, θ ← argmin Σ_i L_i(θ).

    The baseline of every paper here; ``maml`` with the trained network fine-tunes it.

    Raises:
        InputError: the network is no module or has nothing to learn, or the loss is one of torch's, which knows no network.
    """
    if not (prior := named("net", net)):
        raise InputError(f"{type(net).__name__} has no parameters to learn; give a network that has")
    if not callable(loss) or any(known is loss or known is type(loss) for known in (*vars(nn).values(), *vars(nn.functional).values())):
        what = getattr(loss, "__name__", str(loss))
        raise InputError(f"loss is {what}, which knows no network; give one of this network, such as mse(net) or supervised(net, {what})")
    return Learner(prior, (), loss, model(net))


def head_of(net: nn.Module) -> str:
    """The layer with weights, as matrices or filters, that is registered last: what ANIL adapts and BOIL leaves.

    In an ``nn.Sequential`` that is the last one; a module of one's own may register its layers in another order than it runs
    them: then give the layer's name, ``anil(…, head="net.head")``.

    >>> head_of(nn.Sequential(nn.Linear(1, 8), nn.PReLU(), nn.Linear(8, 1), nn.PReLU()))
    'net.2'

    Raises:
        InputError: there is no such layer, or its weights are those of another one too.
    """
    owned: dict[str, list[Tensor]] = {}
    for name, part in net.named_modules():
        own = owned.setdefault(name.partition(".parametrizations.")[0], [])
        own += [p for p in part._parameters.values() if p is not None and p.requires_grad and p.ndim > 1]
    if not (owners := [name for name, weights in owned.items() if name and weights]):
        raise InputError(f"{type(net).__name__} has no layer that could be its head; name what may move with maml(only=…)")
    *others, last = owners
    for other in others:
        if any(p is q for p in owned[other] for q in owned[last]):
            raise InputError(f"the last layer, {last}, has the weights of {other}, so it is no head; name one with head='net.…'")
    return f"net.{last}"


def with_new_head(net: nn.Module, prior: Params, ways: int, std: float = 0.0, generator: torch.Generator | None = None) -> nn.Module:
    """The trained network with a fresh last layer for ``ways`` classes: what fine-tuning begins with.

    Fine-tuning is gradient steps from there, φₖ₊₁ = φₖ − rate · ∇L(φₖ), without meta-training:
    ``maml`` on the new network and as many steps as wanted, whose rate ``tune`` finds on
    validation tasks.

    Args:
        net: a classifier of all training classes, whose last layer is an ``nn.Linear``; it stays as it is.
        prior: what training it left, such as ``train(pretrained(net, loss), …).prior``.
        std: deviation of the new weights, 0 for a head that starts at 0; biases are 0.
        generator: where the weights are drawn from.

    Raises:
        InputError: the last layer is of another kind, or the prior of another network.

    >>> net = nn.Sequential(nn.Linear(2, 8), nn.ReLU(), nn.Linear(8, 64))
    >>> with_new_head(net, named("net", net), ways=5)[2]
    Linear(in_features=8, out_features=5, bias=True)

    Source: Ravi & Larochelle 2017, "Optimization as a model for few-shot learning", ICLR, its first baseline.
    """
    at, head = _last_linear(net)
    if ways < 1 or std < 0:
        raise InputError(f"ways is {ways} and std {std}; a head has 1 class or more, and a deviation of 0 or more")
    fresh = deepcopy(net)
    own = dict(fresh.named_parameters())
    if wrong := sorted(name for name in own.keys() | under(prior, "net").keys() if not _fits(own.get(name), prior.get(f"net.{name}"))):
        raise InputError(f"the prior is of another network: net.{wrong[0]} is not the same; give the one that this network was trained to")
    like = {"bias": head.bias is not None, "device": head.weight.device, "dtype": head.weight.dtype}
    new = nn.utils.skip_init(nn.Linear, head.in_features, ways, **like)  # nn.Linear itself would draw from the global generator
    with torch.no_grad():
        for name, p in own.items():
            p.copy_(prior[f"net.{name}"])
        for p in new.parameters():
            p.zero_()
        if std:
            nn.init.normal_(new.get_parameter("weight"), std=std, generator=generator)
    fresh.set_submodule(at, new)
    return fresh


def without_head(net: nn.Module) -> nn.Module:
    """The network up to its last layer: an embedding, such as for ``prototypical`` and ``nearest_neighbour``.

    >>> net = nn.Sequential(nn.Linear(2, 8), nn.ReLU(), nn.Linear(8, 64))
    >>> [name for name, _ in without_head(net).named_parameters()]
    ['0.weight', '0.bias']

    Raises:
        InputError: something with parameters comes after it.
    """
    body = deepcopy(net)
    body.set_submodule(_at_the_end(net), nn.Identity())
    return body


def _at_the_end(net: nn.Module) -> str:
    """The head's name within the network, once nothing with parameters comes after it, which would be of its size.

    Raises:
        InputError: something does.
    """
    head = head_of(net).removeprefix("net.")
    after = [*net.named_parameters()][-1][0].rpartition(".")[0].partition(".parametrizations")[0]
    if after != head:
        kind = type(net.get_submodule(after)).__name__
        raise InputError(
            f"the last layer net.{after} is {kind}; a new head takes the place of an nn.Linear, with nothing to learn behind it"
        )
    return head


def _last_linear(net: nn.Module) -> tuple[str, nn.Linear]:
    name = _at_the_end(net)
    if not isinstance(head := net.get_submodule(name), nn.Linear):
        raise InputError(f"the last layer net.{name} is {type(head).__name__}; a new head takes the place of an nn.Linear")
    return name, head


def _fits(own: Tensor | None, saved: Tensor | None) -> bool:
    return own is not None and saved is not None and own.shape == saved.shape


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
