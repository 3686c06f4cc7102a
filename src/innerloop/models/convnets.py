"""The networks of few-shot image classification; batch normalisation is by the batch itself, as the papers' code has it."""

import math
from collections import OrderedDict
from collections.abc import Sequence
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor, nn

from innerloop.errors import InputError

Norm = Literal["transductive", "shift", "none"]
HeadStart = Literal["xavier", "normal"]


def convnet(
    shape: Sequence[int],
    classes: int,
    filters: int | Sequence[int] = 64,
    blocks: int = 4,
    *,
    strided: bool = False,
    slope: float = 0.0,
    bias: bool = True,
    mean: bool = False,
    norm: Norm = "transductive",
    eps: float = 1e-5,
    head: HeadStart = "xavier",
    generator: torch.Generator | None = None,
) -> nn.Sequential:
    """Blocks of 3 × 3 convolution, batch normalisation and ReLU, each halving the image, then a linear layer.

    Args:
        shape: channels, height and width of an image.
        classes: outputs, the ways of a task.
        filters: of each block, or of all of them.
        strided: halve by a stride of 2 in the convolution, instead of by 2 × 2 max-pooling.
        slope: of a leaky ReLU below 0; 0 for ReLU.
        bias: of the convolutions.
        mean: average the last map over positions, instead of taking all of it.
        norm: ``transductive`` normalises support and query each by their own statistics, and
            learns scale and shift; ``shift`` likewise, the shift alone; ``none`` does nothing.
        eps: added to the variance.
        head: how the last layer's weights start: like the others, or from N(0, 1).
        generator: all other weights start Xavier-uniform from it, biases at 0.

    >>> net = convnet((1, 28, 28), classes=5, strided=True)
    >>> net(torch.zeros(3, 1, 28, 28)).shape
    torch.Size([3, 5])

    Raises:
        InputError: the image is too small for so many blocks.

    Source: Vinyals et al. 2016, arXiv:1606.04080, §4.1.1; strided: Finn et al. 2017, arXiv:1703.03400, §5.2.
    """
    widths = [filters] * blocks if isinstance(filters, int) else list(filters)
    channels, *size = shape
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    for k, (inputs, outputs) in enumerate(zip([channels, *widths], widths, strict=False)):
        layers[f"block{k + 1}"] = _block(inputs, outputs, strided, slope, bias, norm, eps)
        size = [(s + 1) // 2 if strided else s // 2 for s in size]
    if min(size) < 1:
        raise InputError(f"images of {shape[1]} × {shape[2]} are too small for {len(widths)} blocks that each halve them; take fewer")
    if mean:
        layers["mean"] = nn.AdaptiveAvgPool2d(1)
    layers["flat"] = nn.Flatten()
    layers["head"] = nn.Linear(widths[-1] * (1 if mean else size[0] * size[1]), classes)
    net = nn.Sequential(layers)
    _start(net, head, generator)
    return net


def mlp_classifier(
    shape: Sequence[int],
    classes: int,
    *hidden: int,
    norm: Norm = "transductive",
    eps: float = 1e-5,
    generator: torch.Generator | None = None,
) -> nn.Sequential:
    """The network without convolutions: linear layers, each with batch normalisation and ReLU, then a linear layer.

    Weights start from N(0, 0.01²) cut at two deviations, biases at 0.

    Args:
        shape: of an image; all its pixels are inputs.
        hidden: units of each layer, (256, 128, 64, 64) where none are given.

    >>> mlp_classifier((1, 28, 28), 5)(torch.zeros(3, 1, 28, 28)).shape
    torch.Size([3, 5])

    Source: Santoro et al. 2016, arXiv:1605.06065, as in Finn et al. 2017, arXiv:1703.03400, §5.2; start: its released code.
    """
    layers: OrderedDict[str, nn.Module] = OrderedDict(flat=nn.Flatten())
    sizes = [math.prod(shape), *(hidden or (256, 128, 64, 64))]
    for k, (inputs, outputs) in enumerate(pairwise(sizes)):
        parts = {"linear": nn.Linear(inputs, outputs), "norm": batch_norm(outputs, norm, eps, images=False), "act": nn.ReLU()}
        layers[f"block{k + 1}"] = nn.Sequential(OrderedDict(parts))
    layers["head"] = nn.Linear(sizes[-1], classes)
    net = nn.Sequential(layers)
    for layer in net.modules():
        if isinstance(layer, nn.Linear):
            nn.init.trunc_normal_(layer.weight, std=0.01, a=-0.02, b=0.02, generator=generator)
            nn.init.zeros_(layer.bias)
    return net


class ResNet12(nn.Module):
    """Residual blocks of three 3 × 3 convolutions beside a 1 × 1 shortcut, pooled by two, then a linear layer.

    Args:
        shape: channels, height and width of an image.
        classes: outputs, the ways of a task.
        filters: of each block.
        released: pool after the first three blocks alone, rounding up in the third, and average
            the last map, as L2F's code does; its paper pools in every block and names no average.
        generator: weights start Xavier-uniform from it, biases at 0.

    >>> ResNet12((3, 84, 84), classes=5, filters=(4, 8, 8, 8))(torch.zeros(2, 3, 84, 84)).shape
    torch.Size([2, 5])

    Source: Baik et al. 2020, arXiv:1906.05859, App. B, after Oreshkin et al. 2018, arXiv:1805.10123.
    """

    def __init__(
        self,
        shape: Sequence[int],
        classes: int,
        filters: Sequence[int] = (64, 128, 256, 512),
        released: bool = False,
        generator: torch.Generator | None = None,
    ):
        super().__init__()
        channels, *size = shape
        blocks: OrderedDict[str, nn.Module] = OrderedDict()
        for k, (inputs, outputs) in enumerate(zip([channels, *filters], filters, strict=False)):
            up, pooled = released and k == 2, not (released and k == 3)
            blocks[f"block{k + 1}"] = Residual(inputs, outputs, pool=nn.MaxPool2d(2, padding=int(up)) if pooled else nn.Identity())
            size = [(s + 2 * up) // 2 if pooled else s for s in size]
        if min(size) < 1:
            raise InputError(f"images of {shape[1]} × {shape[2]} are too small to be halved so often")
        self.blocks = nn.Sequential(blocks)
        self.flat = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten()) if released else nn.Flatten()
        self.head = nn.Linear(filters[-1] * (1 if released else size[0] * size[1]), classes)
        _start(self, "xavier", generator)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.flat(self.blocks(x)))


class Residual(nn.Module):
    """A block of ``ResNet12``."""

    def __init__(self, inputs: int, filters: int, pool: nn.Module):
        super().__init__()

        def part(inputs: int, kernel: int, mark: str = "") -> list[tuple[str, nn.Module]]:
            conv = nn.Conv2d(inputs, filters, kernel, padding=kernel // 2, bias=False)
            return [(f"conv{mark}", conv), (f"norm{mark}", batch_norm(filters, "transductive", 1e-5)), (f"act{mark}", nn.ReLU())]

        self.path = nn.Sequential(OrderedDict([*part(inputs, 3, "1"), *part(filters, 3, "2"), *part(filters, 3, "3")[:2]]))
        self.shortcut = nn.Sequential(OrderedDict(part(inputs, 1)[:2]))
        self.end = nn.Sequential(nn.ReLU(), pool)

    def forward(self, x: Tensor) -> Tensor:
        return self.end(self.path(x) + self.shortcut(x))


def batch_norm(features: int, norm: Norm, eps: float = 1e-5, images: bool = True) -> nn.Module:
    """Normalisation by the batch itself, at training and at test; nothing where ``norm`` is ``none``."""
    if norm == "none":
        return nn.Identity()
    layer = (nn.BatchNorm2d if images else nn.BatchNorm1d)(features, eps=eps, track_running_stats=False)
    if norm == "shift":
        layer.register_parameter("weight", None)
    return layer


def _start(net: nn.Module, head: HeadStart, generator: torch.Generator | None) -> None:
    layers = [layer for layer in net.modules() if isinstance(layer, (nn.Conv2d, nn.Linear))]
    for layer in layers:
        nn.init.xavier_uniform_(layer.weight, generator=generator)
        if layer.bias is not None:
            nn.init.zeros_(layer.bias)
    if head == "normal":
        nn.init.normal_(layers[-1].weight, generator=generator)


def _block(inputs: int, outputs: int, strided: bool, slope: float, bias: bool, norm: Norm, eps: float) -> nn.Sequential:
    layers = [("conv", nn.Conv2d(inputs, outputs, 3, stride=2 if strided else 1, padding=1, bias=bias))]
    layers += [("norm", batch_norm(outputs, norm, eps))] if norm != "none" else []
    layers += [("act", nn.LeakyReLU(slope) if slope else nn.ReLU())]
    layers += [("pool", nn.MaxPool2d(2))] if not strided else []
    return nn.Sequential(OrderedDict(layers))
