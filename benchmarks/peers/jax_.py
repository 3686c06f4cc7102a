"""JAX: the network as plain functions, the gradient of the vmapped meta-loss under ``jit``.

Images are NHWC and filters HWIO, as JAX's users keep them; gradients come back in torch's order of
axes, as views. XLA has threads of its own, which ``OMP_NUM_THREADS`` does not limit. It makes grouped
convolutions of those that ``vmap`` gives every task its own filters, which on a CPU are slow.
"""

from collections.abc import Callable, Iterator
from typing import Any

import jax  # pyright: ignore[reportMissingImports]
import torch
from jax import lax  # pyright: ignore[reportMissingImports]
from jax import numpy as jnp  # pyright: ignore[reportMissingImports]
from torch import Tensor, nn

from . import Tasks

Array = Any  # jax.Array; JAX may be missing where types are checked


def prepare(net: nn.Module, classify: bool, steps: int, rate: float, tasks: Tasks) -> Callable[[], list[Tensor]]:
    """One meta-gradient under ``jit``, at the parameters that the network has now; the first call compiles.

    Raises:
        NotImplementedError: the network has a layer that is not written out here.
    """
    layers = _layers(net)
    compare = _cross_entropy if classify else _squared_error
    prior = [_array(p.permute(2, 3, 1, 0) if p.ndim == 4 else p) for p in net.parameters()]
    support, query = [(_array(x.movedim(2, -1) if x.ndim == 5 else x), _array(y)) for x, y in tasks]

    def loss(params: list[Array], x: Array, y: Array) -> Array:
        return compare(_forward(layers, params, x), y)

    def task_loss(params: list[Array], support: tuple[Array, Array], query: tuple[Array, Array]) -> Array:
        for _ in range(steps):
            slopes = jax.grad(loss)(params, *support)
            params = [p - rate * slope for p, slope in zip(params, slopes, strict=True)]
        return loss(params, *query)

    def meta_loss(params: list[Array], support: tuple[Array, Array], query: tuple[Array, Array]) -> Array:
        return jax.vmap(task_loss, in_axes=(None, 0, 0))(params, support, query).mean()

    slope = jax.jit(jax.grad(meta_loss))

    def gradient() -> list[Tensor]:
        return [_tensor(slope) for slope in jax.block_until_ready(slope(prior, support, query))]

    return gradient


def _layers(net: nn.Module) -> list[nn.Module]:
    """The layers of a sequence, in order, nested ones taken apart."""
    if isinstance(net, nn.Sequential):
        return [layer for part in net for layer in _layers(part)]
    known = isinstance(net, (nn.Linear, nn.ReLU))
    known |= isinstance(net, nn.Conv2d) and net.groups == 1 and net.padding_mode == "zeros"
    known |= isinstance(net, nn.BatchNorm2d) and net.affine and not net.track_running_stats
    known |= isinstance(net, nn.MaxPool2d) and str(net) == str(nn.MaxPool2d(2))
    known |= isinstance(net, nn.Flatten) and (net.start_dim, net.end_dim) == (1, -1)
    if not known:
        name = type(net).__name__
        raise NotImplementedError(f"{name} is not written out for JAX, which cannot run torch's modules; use another peer")
    return [net]


def _forward(layers: list[nn.Module], params: list[Array], x: Array) -> Array:
    left: Iterator[Array] = iter(params)
    for layer in layers:
        x = _apply(layer, left, x)
    return x


def _apply(layer: nn.Module, left: Iterator[Array], x: Array) -> Array:
    """One layer, which takes its parameters from those that are left."""
    match layer:
        case nn.Linear():
            x = x @ next(left).T
            return x if layer.bias is None else x + next(left)
        case nn.Conv2d():
            padding = layer.padding.upper() if isinstance(layer.padding, str) else [(p, p) for p in layer.padding]
            x = lax.conv_general_dilated(
                x, next(left), layer.stride, padding, rhs_dilation=layer.dilation, dimension_numbers=("NHWC", "HWIO", "NHWC")
            )
            return x if layer.bias is None else x + next(left)
        case nn.BatchNorm2d():
            mean, variance = x.mean((0, 1, 2)), x.var((0, 1, 2))
            return (x - mean) * lax.rsqrt(variance + layer.eps) * next(left) + next(left)
        case nn.ReLU():
            return jax.nn.relu(x)
        case nn.MaxPool2d():
            return lax.reduce_window(x, -jnp.inf, lax.max, (1, 2, 2, 1), (1, 2, 2, 1), "VALID")
        case _:  # Flatten: back to torch's order of axes, for the weights behind it
            return jnp.moveaxis(x, -1, 1).reshape(len(x), -1) if x.ndim == 4 else x.reshape(len(x), -1)


def _cross_entropy(logits: Array, y: Array) -> Array:
    return -jnp.take_along_axis(jax.nn.log_softmax(logits), y[:, None], axis=-1).mean()


def _squared_error(prediction: Array, y: Array) -> Array:
    return jnp.square(prediction - y).mean()


def _array(t: Tensor) -> Array:
    """A copy of a tensor for JAX."""
    return jnp.array(t.detach().cpu().numpy())


def _tensor(a: Array) -> Tensor:
    """A gradient for torch: filters as OIHW again."""
    t = torch.from_dlpack(a)
    return t.permute(3, 2, 0, 1) if t.ndim == 4 else t
