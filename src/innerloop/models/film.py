"""Feature-wise linear modulation: layers whose units can be scaled and shifted from outside."""

from collections.abc import Sequence
from copy import deepcopy

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm, _NormBase
from torch.nn.modules.conv import _ConvNd

from innerloop.errors import InputError, nearest


class FiLM(nn.Module):
    """A layer and what its units are scaled and shifted by: layer(x) ∘ scale + shift, at 1 and 0 until something moves them.

    Args:
        layer: a linear layer, convolution, or batch or instance normalisation, whose units are in the last
            axis of its output, or in front of the axes of an image.

    >>> FiLM(nn.Linear(3, 8)).scale.shape
    torch.Size([8])

    Raises:
        InputError: the layer is of another kind.

    Source: Perez et al. 2018, arXiv:1709.07871.
    """

    def __init__(self, layer: nn.Module):
        super().__init__()
        self.layer = layer
        like = next(layer.parameters(), torch.zeros(()))
        self.scale = nn.Parameter(like.new_ones(_units(layer)))
        self.shift = nn.Parameter(like.new_zeros(_units(layer)))

    def forward(self, x: Tensor) -> Tensor:
        y = self.layer(x)
        shape = (-1,) if isinstance(self.layer, nn.Linear) else (-1, *[1] * (y.ndim - 2))
        return y * self.scale.view(shape) + self.shift.view(shape)


def with_film(net: nn.Module, layers: Sequence[str] = ()) -> nn.Module:
    """A copy of the network whose named layers can be modulated.

    ``0.weight`` becomes ``0.layer.weight``, beside ``0.scale`` and ``0.shift``.

    Args:
        net: it stays as it is.
        layers: dotted names of what can be modulated, by default all linear layers and convolutions
            but the last; where a batch or instance normalisation follows one, which would undo
            what is done to its units, the normalisation.

    >>> net = nn.Sequential(nn.Linear(1, 8), nn.ReLU(), nn.Linear(8, 1))
    >>> [name for name, _ in with_film(net).named_parameters()]
    ['0.scale', '0.shift', '0.layer.weight', '0.layer.bias', '2.weight', '2.bias']

    Raises:
        InputError: there is no such layer, or it is of a kind that cannot be modulated.

    Source: Vuorio et al. 2018, arXiv:1812.07172 (MuMoMAML), §4.1.
    """
    own = deepcopy(net)
    there = dict(own.named_modules())
    chosen, inside = list(layers) or _before_the_last(own), _of_attention(own)
    if not chosen:
        raise InputError(f"{type(net).__name__} has no linear layer or convolution before its last; name what is modulated with layers")
    for name in chosen:
        if name not in there or not name:
            raise InputError(f"there is no layer {name!r}; {nearest(name, [n for n in there if n])}")
        if name in inside:
            raise InputError(f"{name} is a part of {inside[name]}, whose attention reads its weights without it; name another layer")
        own.set_submodule(name, FiLM(there[name]))
    return own


def _before_the_last(net: nn.Module) -> list[str]:
    """Names of the layers that are modulated where none is named."""
    chosen: list[str] = []
    inside = _of_attention(net)
    for name, layer in net.named_modules():
        if isinstance(layer, (nn.Linear, _ConvNd)) and name not in inside:
            chosen.append(name)
        elif isinstance(layer, _NormBase) and chosen:
            chosen[-1] = name
    return chosen[:-1]


def _of_attention(net: nn.Module) -> dict[str, str]:
    """Names of what lies in torch's attention, which takes its parts' weights and does not call them; and where."""
    found = [(at, part) for at, part in net.named_modules() if isinstance(part, nn.MultiheadAttention)]
    return {f"{at}.{name}".removeprefix("."): at for at, part in found for name, _ in part.named_modules() if name}


def scales(net: nn.Module) -> dict[str, tuple[str, str]]:
    """Names of scale and shift of each layer that can be modulated: those with FiLM, or batch normalisations where there are none."""
    films = {name: (f"{name}.scale", f"{name}.shift") for name, layer in net.named_modules() if isinstance(layer, FiLM)}
    return films or {name: (f"{name}.weight", f"{name}.bias") for name, layer in net.named_modules() if _has_scale(layer)}


def _has_scale(layer: nn.Module) -> bool:
    return isinstance(layer, _BatchNorm) and layer.weight is not None and layer.bias is not None


def _units(layer: nn.Module) -> int:
    for name in ("out_features", "out_channels", "num_features"):
        if hasattr(layer, name):
            return getattr(layer, name)
    raise InputError(f"the units of a {type(layer).__name__} cannot be modulated; name a linear layer, a convolution or a normalisation")
