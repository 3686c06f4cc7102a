"""Functions of torch in plain operations: under ``vmap`` torch's own have wrong derivatives.

By ``batch_norm`` a weight whose meta-gradient is 0 got 0.2, a network of two layers of 40 with ``layer_norm`` a
meta-gradient that was off by half of its length at a rate of 0.1, and by ``embedding`` the row of ``padding_idx`` moved.
Each is what the function of ``torch.nn.functional`` of that name ends in, however a network came by it.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from innerloop.errors import InputError

_TORCHS: dict[str, Callable[..., Tensor]] = {
    name: getattr(torch, name) for name in ("batch_norm", "instance_norm", "layer_norm", "embedding")
}


def batch_norm(
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    training: bool,
    momentum: float,
    eps: float,
    cudnn_enabled: bool = True,
) -> Tensor:
    """(x − mean) / √(var + eps) · weight + bias, with mean and variance over all axes but the second."""
    if running_mean is not None or not training or not _fits(weight, bias, x.shape[1:2]):
        return _TORCHS["batch_norm"](x, weight, bias, running_mean, running_var, training, momentum, eps, cudnn_enabled)
    return by_batch(x, weight, bias, eps)


def by_batch(x: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float, first: int | None = None) -> Tensor:
    """``batch_norm`` with mean and variance of the first examples alone; where a batch has fewer, of all."""
    axes, counted = [0, *range(2, x.ndim)], x[:first]
    if counted.numel() == counted.shape[1]:
        raise InputError(
            f"a BatchNorm is given {list(x.shape)}, one number of each channel, of which nothing is left without their mean; "
            "give more examples at once"
        )
    return _scaled(_standard(x, counted, axes, eps), weight, bias, (1, -1) + (1,) * (x.ndim - 2))


def instance_norm(
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    use_input_stats: bool,
    momentum: float,
    eps: float,
    cudnn_enabled: bool = True,
) -> Tensor:
    """The same for each channel of each example by itself."""
    places = x.ndim - 2
    if running_mean is not None or not use_input_stats or not _fits(weight, bias, x.shape[1:2]):
        return _TORCHS["instance_norm"](x, weight, bias, running_mean, running_var, use_input_stats, momentum, eps, cudnn_enabled)
    return _scaled(_standard(x, x, range(-places, 0), eps), weight, bias, (-1,) + (1,) * places)


def layer_norm(
    x: Tensor,
    normalized_shape: Sequence[int],
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
    cudnn_enable: bool = True,
) -> Tensor:
    """The same for each example over its last axes."""
    shape = tuple(normalized_shape)
    if not shape or x.shape[-len(shape) :] != shape or not _fits(weight, bias, shape):
        return _TORCHS["layer_norm"](x, normalized_shape, weight, bias, eps, cudnn_enable)  # which says what does not fit
    return _scaled(_standard(x, x, range(-len(shape), 0), eps), weight, bias, shape)


def embedding(weight: Tensor, x: Tensor, padding_idx: int = -1, scale_grad_by_freq: bool = False, sparse: bool = False) -> Tensor:
    """The rows of ``weight`` that x counts; nothing moves that of ``padding_idx``."""
    if scale_grad_by_freq:
        raise InputError("an Embedding with scale_grad_by_freq has no derivative; leave it out")
    if padding_idx >= 0:
        rows = torch.arange(len(weight), device=weight.device)
        weight = torch.where((rows == padding_idx).unsqueeze(-1), weight.detach(), weight)
    return _TORCHS["embedding"](weight, x)


def renormed(*given: Any, **more: Any) -> Tensor:
    """What an ``Embedding`` with ``max_norm`` does to its weight."""
    raise InputError("an Embedding with max_norm writes into the prior; leave it out")


FUNCTIONS: dict[str, Callable[..., Tensor]] = {
    "batch_norm": batch_norm,
    "instance_norm": instance_norm,
    "layer_norm": layer_norm,
    "embedding": embedding,
    "embedding_renorm_": renormed,
}
"""By their names in ``torch``, where ``torch.nn.functional`` finds them."""


def is_by_batch(layer: nn.Module) -> bool:
    """Whether the layer is a ``BatchNorm`` that normalises by the batch alone."""
    return type(layer).forward is _BatchNorm.forward and "forward" not in layer.__dict__ and layer.running_mean is None


def _fits(weight: Tensor | None, bias: Tensor | None, shape: Sequence[int]) -> bool:
    return all(given is None or given.shape == tuple(shape) for given in (weight, bias))


def _standard(x: Tensor, counted: Tensor, axes: Sequence[int], eps: float) -> Tensor:
    """(x − mean) / √(var + eps), with mean and variance of what is counted."""
    mean = counted.mean(list(axes), keepdim=True)
    return (x - mean) * ((counted - mean).square().mean(list(axes), keepdim=True) + eps).rsqrt()


def _scaled(x: Tensor, weight: Tensor | None, bias: Tensor | None, shape: tuple[int, ...]) -> Tensor:
    x = x if weight is None else x * weight.view(shape)
    return x if bias is None else x + bias.view(shape)
