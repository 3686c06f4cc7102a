"""Convolution and pooled normalisation for inner loops: all their derivatives are made of the same few fast operations.

Each function here is linear in each of its arguments but for constants, so derivatives of any order
stay within the set: of ``Conv``, ``InputSlope`` and ``WeightSlope``; of ``Pool``, ``Spread`` and
``Gather``; of ``Patches`` and ``Fold``.
"""

# pyright: reportIncompatibleMethodOverride=false, reportGeneralTypeIssues=false
# torch has a Function's methods overridden with the arguments that it takes.

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import Function

from innerloop.models import kernels
from innerloop.models.plain import batch_norm, is_by_batch


def reads_innermost(layer: nn.Module) -> bool:
    """Whether the layer is a convolution of the kind that ``convolved`` runs: square, of one group."""
    return (
        isinstance(layer, nn.Conv2d)
        and type(layer).forward is nn.Conv2d.forward
        and "forward" not in layer.__dict__
        and layer.groups == 1
        and layer.dilation == (1, 1)
        and layer.padding_mode == "zeros"
        and not isinstance(layer.padding, str)
        and len({*layer.kernel_size}) == len({*layer.stride}) == len({*layer.padding}) == 1
    )


def convolved(conv: Any, x: Tensor, centred: bool = False, innermost: bool = False) -> Tensor:
    """What an ``nn.Conv2d`` gives; channels stay innermost in memory.

    Args:
        centred: without its bias.
        innermost: that they do under vmap too; some of torch's layers refuse that order there.
    """
    bias, stride, padding = None if centred else conv.bias, conv.stride[0], int(conv.padding[0])
    if x.ndim != 4 or not kernels.serves(x, conv.weight):
        return nn.functional.conv2d(x, conv.weight, bias, stride, padding)
    y: Any = Conv.apply(x, conv.weight, stride, padding, innermost)
    return y if bias is None else y + bias.view(-1, 1, 1)


def pools(norm: nn.Module, activation: nn.Module, pool: nn.Module) -> bool:
    """Whether the three layers in a row are of the kind that ``rectified_pool`` runs as one."""
    return (
        type(norm) is nn.BatchNorm2d
        and is_by_batch(norm)
        and (type(activation) is nn.ReLU or (type(activation) is nn.LeakyReLU and activation.negative_slope >= 0))
        and type(pool) is nn.MaxPool2d
        and (pool.kernel_size, pool.stride) in ((2, 2), ((2, 2), (2, 2)))
        and (pool.padding, pool.dilation, pool.ceil_mode, pool.return_indices) == (0, 1, False, False)
    )


def rectified_pool(norm: Any, activation: Any, x: Tensor, innermost: bool = False) -> Tensor:
    """Batch normalisation, an activation that never falls, and 2 × 2 max-pooling, in one pass over the images.

    As both maps are monotone, pooling may come first: by the maximum where γ ≥ 0, else by the
    minimum. Then all but a sum of x and of x² is done on a quarter of the numbers.

    Args:
        norm: a ``BatchNorm2d`` without running statistics.
        activation: such as ReLU.
        innermost: leave channels innermost in memory, for a convolution that comes next;
            under vmap, some of torch's layers refuse that order.
    """
    if not kernels.serves(x) or min(x.shape[2:]) < 2:
        return nn.functional.max_pool2d(activation(batch_norm(x, norm.weight, norm.bias, None, None, True, 0.0, norm.eps)), 2)
    weight = x.new_ones(x.shape[1]) if norm.weight is None else norm.weight
    images = x.movedim(1, -1)[None]
    sign = torch.where(weight >= 0, 1.0, -1.0).to(x.dtype).detach()[None]
    shift = images[:, 0, 0, 0].detach()
    total, square, z = Pool.apply(images, sign, shift)
    points = x.numel() // x.shape[1]
    off = total / points
    scale = weight * (square / points - off.square() + norm.eps).rsqrt()
    y = z * scale[:, None, None, None] - ((off + shift) * scale)[:, None, None, None]
    y = activation(y if norm.bias is None else y + norm.bias)
    y = y[0].movedim(-1, 1)
    return y if innermost else y.contiguous()


def _grouped(function: Any, info: Any, in_dims: Any, *given: Any) -> Any:
    """The vmap rule of functions of groups or images: tasks become more of them."""
    n = info.batch_size

    def leading(t: Any, dim: int | None) -> Any:
        if not isinstance(t, Tensor):
            return t
        return (t.expand(n, *t.shape) if dim is None else t.movedim(dim, 0)).flatten(0, 1)

    out = function.apply(*map(leading, given, in_dims))
    if isinstance(out, Tensor):
        return out.unflatten(0, (n, -1)), 0
    return tuple(t.unflatten(0, (n, -1)) for t in out), (0,) * len(out)


class Pool(Function):
    """``kernels.pool`` of x."""

    @staticmethod
    def forward(x: Tensor, sign: Tensor, shift: Tensor) -> Any:
        return kernels.pool(x, sign, shift)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx: Any, by_sum: Tensor, by_square: Tensor, by_z: Tensor) -> Any:
        x, sign, shift = ctx.saved_tensors
        return Spread.apply(by_sum - 2 * by_square * shift, 2 * by_square, x, by_z, sign), None, None

    @staticmethod
    def vmap(info: Any, in_dims: Any, *given: Any) -> Any:
        return _grouped(Pool, info, in_dims, *given)


class Spread(Function):
    """``kernels.spread``: linear in offset, factor and g; its x but for the choice of elements."""

    @staticmethod
    def forward(offset: Tensor, factor: Tensor, x: Tensor, g: Tensor, sign: Tensor) -> Any:
        return kernels.spread(offset, factor, x, g, sign)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        _, factor, x, _, sign = inputs
        ctx.save_for_backward(factor, x, sign)

    @staticmethod
    def backward(ctx: Any, v: Tensor) -> Any:
        factor, x, sign = ctx.saved_tensors
        total, product, z = Gather.apply(v, x, sign)
        return total, product, factor[:, None, None, None] * v if ctx.needs_input_grad[2] else None, z, None

    @staticmethod
    def vmap(info: Any, in_dims: Any, *given: Any) -> Any:
        return _grouped(Spread, info, in_dims, *given)


class Gather(Function):
    """``kernels.gather``: linear in v; in x but for the choice of elements."""

    @staticmethod
    def forward(v: Tensor, x: Tensor, sign: Tensor) -> Any:
        return kernels.gather(v, x, sign)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx: Any, by_sum: Tensor, by_product: Tensor, by_z: Tensor) -> Any:
        v, x, sign = ctx.saved_tensors
        by_x = by_product[:, None, None, None] * v if ctx.needs_input_grad[1] else None
        return Spread.apply(by_sum, by_product, x, by_z, sign), by_x, None

    @staticmethod
    def vmap(info: Any, in_dims: Any, *given: Any) -> Any:
        return _grouped(Gather, info, in_dims, *given)


class Patches(Function):
    """``kernels.patches``: linear in x."""

    @staticmethod
    def forward(x: Tensor, kernel: int, stride: int, padding: int) -> Any:
        return kernels.patches(x, kernel, stride, padding)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        x, *ctx.window = inputs
        ctx.size = x.shape[-3:-1]

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Any:
        return Fold.apply(g, *ctx.size, *ctx.window), None, None, None

    @staticmethod
    def vmap(info: Any, in_dims: Any, *given: Any) -> Any:
        return _grouped(Patches, info, in_dims, *given)


class Fold(Function):
    """``kernels.fold``: linear in y."""

    @staticmethod
    def forward(y: Tensor, height: int, width: int, kernel: int, stride: int, padding: int) -> Any:
        return kernels.fold(y, height, width, kernel, stride, padding)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        ctx.window = inputs[3:]

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Any:
        return Patches.apply(g, *ctx.window), None, None, None, None, None

    @staticmethod
    def vmap(info: Any, in_dims: Any, *given: Any) -> Any:
        return _grouped(Fold, info, in_dims, *given)


def _slopes(g: Tensor, x: Tensor, w: Tensor, stride: int, padding: int, which: int) -> Tensor:
    mask = [which == 0, which == 1, False]
    g, x, w = (t.contiguous(memory_format=torch.channels_last) for t in (g, x, w))
    return torch.ops.aten.convolution_backward(g, x, w, None, [stride] * 2, [padding] * 2, [1, 1], False, [0, 0], 1, mask)[which]


def _tasks(info: Any, dims: Any, *given: Tensor) -> list[Tensor]:
    """With the tasks in front, also of what all of them share."""
    return [t.expand(info.batch_size, *t.shape) if d is None else t.movedim(d, 0) for t, d in zip(given, dims, strict=False)]


def _rows(x: Tensor, w: Tensor, stride: int, padding: int) -> Tensor:
    """Windows of images ``[tasks, images, channels, height, width]``, one to a row: ``[tasks, rows, kernel² · channels]``."""
    rows: Any = Patches.apply(x.movedim(2, -1).flatten(0, 1), w.shape[-1], stride, padding)
    return rows.view(len(x), -1, rows.shape[-1])


def _matrix(w: Tensor) -> Tensor:
    """Filters ``[tasks, out, in, kernel, kernel]`` as ``[tasks, kernel² · in, out]``."""
    return w.permute(0, 3, 4, 2, 1).flatten(1, 3)


class Conv(Function):
    """y = x ∗ w; with filters that differ between tasks, as a product of matrices."""

    @staticmethod
    def forward(x: Tensor, w: Tensor, stride: int, padding: int, innermost: bool) -> Tensor:
        x, w = (t.contiguous(memory_format=torch.channels_last) for t in (x, w))
        return torch.ops.aten.convolution(x, w, None, [stride] * 2, [padding] * 2, [1, 1], False, [0, 0], 1)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        x, w, *ctx.how = inputs
        ctx.save_for_backward(x, w)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Any:
        x, w = ctx.saved_tensors
        by_x = InputSlope.apply(g, w, x, *ctx.how) if ctx.needs_input_grad[0] else None
        by_w = WeightSlope.apply(g, x, w, *ctx.how) if ctx.needs_input_grad[1] else None
        return by_x, by_w, None, None, None

    @staticmethod
    def vmap(info: Any, in_dims: Any, x: Tensor, w: Tensor, stride: int, padding: int, innermost: bool) -> Any:
        if in_dims[1] is None:
            x = x.movedim(in_dims[0], 0)
            whole: Any = Conv.apply(x.flatten(0, 1), w, stride, padding, innermost)
            y = whole.unflatten(0, x.shape[:2])
        else:
            x, w = _tasks(info, in_dims, x, w)
            h, v = ((size + 2 * padding - w.shape[-1]) // stride + 1 for size in x.shape[-2:])
            y = torch.bmm(_rows(x, w, stride, padding), _matrix(w)).view(*x.shape[:2], h, v, -1).movedim(-1, 2)
        return y if innermost else y.contiguous(), 0


class InputSlope(Function):
    """The derivative of x ∗ w by x along g: g ∗ᵀ w."""

    @staticmethod
    def forward(g: Tensor, w: Tensor, x: Tensor, stride: int, padding: int, innermost: bool) -> Tensor:
        return _slopes(g, x, w, stride, padding, 0)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        g, w, _, *ctx.how = inputs
        ctx.save_for_backward(g, w)

    @staticmethod
    def backward(ctx: Any, c: Tensor) -> Any:
        g, w = ctx.saved_tensors
        by_g = Conv.apply(c, w, *ctx.how) if ctx.needs_input_grad[0] else None
        by_w = WeightSlope.apply(g, c, w, *ctx.how) if ctx.needs_input_grad[1] else None
        return by_g, by_w, None, None, None, None

    @staticmethod
    def vmap(info: Any, in_dims: Any, g: Tensor, w: Tensor, x: Tensor, stride: int, padding: int, innermost: bool) -> Any:
        g, w, x = _tasks(info, in_dims, g, w, x)
        rows = torch.bmm(g.movedim(2, -1).flatten(1, 3), _matrix(w).mT)
        y: Any = Fold.apply(rows.view(-1, *g.shape[-2:], rows.shape[-1]), *x.shape[-2:], w.shape[-1], stride, padding)
        y = y.unflatten(0, x.shape[:2]).movedim(-1, 2)
        return y if x.movedim(2, -1).is_contiguous() else y.contiguous(), 0  # as the images lie


class WeightSlope(Function):
    """The derivative of x ∗ w by w along g: x ⋆ g."""

    @staticmethod
    def forward(g: Tensor, x: Tensor, w: Tensor, stride: int, padding: int, innermost: bool) -> Tensor:
        return _slopes(g, x, w, stride, padding, 1)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        g, x, _, *ctx.how = inputs
        ctx.save_for_backward(g, x)

    @staticmethod
    def backward(ctx: Any, c: Tensor) -> Any:
        g, x = ctx.saved_tensors
        by_g = Conv.apply(x, c, *ctx.how) if ctx.needs_input_grad[0] else None
        by_x = InputSlope.apply(g, c, x, *ctx.how) if ctx.needs_input_grad[1] else None
        return by_g, by_x, None, None, None, None

    @staticmethod
    def vmap(info: Any, in_dims: Any, g: Tensor, x: Tensor, w: Tensor, stride: int, padding: int, innermost: bool) -> Any:
        g, x, w = _tasks(info, in_dims, g, x, w)
        rows, slopes = _rows(x, w, stride, padding), g.movedim(2, -1).flatten(1, 3)
        if rows.shape[-1] < slopes.shape[-1]:  # a product of few columns is slow
            return torch.bmm(rows.mT, slopes).view(-1, *w.shape[-2:], w.shape[2], w.shape[1]).permute(0, 4, 3, 1, 2), 0
        # In this order the derivative by the rows, which are many, lies in memory as they do.
        return torch.bmm(slopes.mT, rows).view(-1, w.shape[1], *w.shape[-2:], w.shape[2]).movedim(-1, 2), 0
