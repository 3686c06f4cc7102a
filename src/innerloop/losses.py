"""Losses of a network on one task's batch ``(x, y)``; ``mse`` is the papers' for regression."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional

from innerloop.errors import InputError
from innerloop.learner import Batch, Loss
from innerloop.models.rewrite import for_inner_loops
from innerloop.params import Params, under


def model(net: nn.Module) -> Callable[[Params, Any], Any]:
    """``(params, x) → net(x)`` with the parameters under ``net.``; the module itself stays as it is.

    Raises:
        InputError: the network keeps running statistics, which tasks would overwrite for each other.
    """
    for name, part in net.named_modules():
        if part.training and getattr(part, "track_running_stats", False):
            raise InputError(
                f"{type(part).__name__} {name!r} updates running statistics, which tasks would overwrite for each other; "
                "build it with track_running_stats=False to normalise each batch by itself, or call net.eval() to freeze it"
            )
    net = for_inner_loops(net)

    def forward(params: Params, x: Any) -> Any:
        if isinstance(x, Tensor) and x.is_floating_point() and not any(p.dtype == x.dtype for p in params.values()):
            kept = ", ".join(sorted({str(p.dtype).removeprefix("torch.") for p in params.values()}))
            raise InputError(f"x is {str(x.dtype).removeprefix('torch.')} but the network is {kept}; convert one of them")
        try:
            y = call(net, under(params, "net"), x)
        except RuntimeError as problem:
            if isinstance(x, Tensor) and any(sign in str(problem) for sign in ("shapes cannot be multiplied", "same dtype")):
                kind = str(x.dtype).removeprefix("torch.")
                raise InputError(f"the network does not take x of shape {list(x.shape)} and kind {kind}: {problem}") from problem
            raise
        if isinstance(y, Tensor) and y.dtype is torch.bfloat16 and torch.is_autocast_enabled(y.device.type):
            return y.float()  # the network may be of low precision, what compares its predictions may not
        return y

    return forward


def call(net: nn.Module, params: Params, *inputs: Any) -> Any:
    """``net(*inputs)`` with ``params`` in the place of its own parameters, and its own buffers."""
    return functional_call(net, {**dict(net.named_buffers()), **params}, inputs, strict=True)


def supervised(net: nn.Module, compare: Callable[[Any, Any], Tensor]) -> Loss:
    """Loss L(φ) = compare(net_φ(x), y) on a batch ``(x, y)``.

    Args:
        net: any module of one input.
        compare: ``(prediction, y) → scalar``, such as those of ``torch.nn.functional``. Its
            reduction sets the scale of the inner gradient, and so is part of the method.

    Raises:
        InputError: the batch is no pair, or ``compare`` does not give a scalar.
    """
    forward = model(net)

    def loss(params: Params, batch: Batch) -> Tensor:
        if not (isinstance(batch, (tuple, list)) and len(batch) == 2):
            raise InputError(f"a batch must be a pair (x, y), not {type(batch).__name__} of {_size(batch)}")
        x, y = batch
        value = compare(forward(params, x), y)
        if value.ndim:
            raise InputError(f"the loss of one task must be a scalar, not of shape {list(value.shape)}; reduce it to its mean")
        return value

    return loss


def mse(net: nn.Module) -> Loss:
    """Mean squared error, L(φ) = mean (net_φ(x) − y)², over points and outputs.

    The paper's equation 2 prints a sum; its released code takes the mean, and the printed
    inner rates go with the mean. We follow the code.

    >>> import torch
    >>> net = nn.Linear(1, 1)
    >>> params = {"net.weight": torch.ones(1, 1), "net.bias": torch.zeros(1)}
    >>> mse(net)(params, (torch.tensor([[1.0], [2.0]]), torch.tensor([[1.0], [4.0]])))
    tensor(2.)

    Raises:
        InputError: prediction and ``y`` differ in shape or kind of number.
    Source: Finn et al. 2017, arXiv:1703.03400, eq. 2.
    """
    return supervised(net, squared_error)


def squared_error(prediction: Tensor, y: Tensor) -> Tensor:
    """mean (prediction − y)², of tensors that agree in shape: nothing is broadcast."""
    if prediction.shape != y.shape:
        raise InputError(f"the network gives {list(prediction.shape)} but y is {list(y.shape)}; they must agree")
    if prediction.dtype != y.dtype:
        raise InputError(f"the network gives {prediction.dtype} but y is {y.dtype}; convert y")
    return functional.mse_loss(prediction, y)


def cross_entropy(net: nn.Module) -> Loss:
    """Mean cross-entropy of the network's logits ``[points, classes]`` against class numbers ``[points]``."""
    return supervised(net, functional.cross_entropy)


def _size(batch: Any) -> str:
    return f"shape {list(batch.shape)}" if isinstance(batch, Tensor) else f"{len(batch)} parts" if hasattr(batch, "__len__") else "one"
