"""Normalisations by what they are given, in plain operations: torch's own have wrong second derivatives under ``vmap``.

A weight whose meta-gradient is 0 got 0.2 by ``batch_norm``, and a network of two layers of 40 with ``LayerNorm`` a
meta-gradient that was off by half of its length at a rate of 0.1.
"""

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn
from torch.nn import functional
from torch.nn.modules.batchnorm import _BatchNorm


def is_by_batch(layer: nn.Module) -> bool:
    """Whether the layer is a ``BatchNorm`` that normalises by the batch alone."""
    return type(layer).forward is _BatchNorm.forward and "forward" not in layer.__dict__ and layer.running_mean is None


def by_batch(norm: Any, x: Tensor, first: int | None = None) -> Tensor:
    """What a ``BatchNorm`` layer gives: (x − mean) / √(var + ε) · γ + β, over all axes but the second.

    Args:
        norm: the layer.
        first: mean and variance are of so many examples alone; where a batch has fewer, of all.
    """
    return normalised(x, norm.weight, norm.bias, norm.eps, first)


def normalised(x: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float, first: int | None = None) -> Tensor:
    """(x − mean) / √(var + eps) · weight + bias, with mean and variance of the first examples over all axes but the second."""
    axes = [0, *range(2, x.ndim)]
    return _scaled(_standard(x, x[:first], axes, eps), weight, bias, (1, -1) + (1,) * (x.ndim - 2))


def by_image(norm: Any, x: Tensor) -> Tensor:
    """What an ``InstanceNorm`` layer gives: each channel of each example by itself."""
    norm._check_input_dim(x)
    places = norm._get_no_batch_dim() - 1
    return _scaled(_standard(x, x, range(-places, 0), norm.eps), norm.weight, norm.bias, (-1,) + (1,) * places)


def by_example(norm: Any, x: Tensor) -> Tensor:
    """What a ``LayerNorm`` layer gives: each example over its last axes."""
    axes = len(norm.normalized_shape)
    if tuple(x.shape[-axes:]) != tuple(norm.normalized_shape):
        return functional.layer_norm(x, norm.normalized_shape, norm.weight, norm.bias, norm.eps)  # which says what does not fit
    return _scaled(_standard(x, x, range(-axes, 0), norm.eps), norm.weight, norm.bias, tuple(norm.normalized_shape))


def _standard(x: Tensor, counted: Tensor, axes: Sequence[int], eps: float) -> Tensor:
    """(x − mean) / √(var + eps), with mean and variance of what is counted."""
    mean = counted.mean(list(axes), keepdim=True)
    return (x - mean) * ((counted - mean).square().mean(list(axes), keepdim=True) + eps).rsqrt()


def _scaled(x: Tensor, weight: Tensor | None, bias: Tensor | None, shape: tuple[int, ...]) -> Tensor:
    x = x if weight is None else x * weight.view(shape)
    return x if bias is None else x + bias.view(shape)
