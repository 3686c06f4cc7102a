"""The convolutional networks of few-shot learning, and the arithmetic that a meta-gradient of one needs."""

from typing import Any

import torch
from torch import Tensor, nn


def conv64(classes: int) -> nn.Sequential:
    """Omniglot's network: four strided convolutions of 64 filters, for 28 × 28 grey images.

    Source: Finn et al. 2017, arXiv:1703.03400, §5.2; its released code averages the last map, here it is flattened.
    """
    return nn.Sequential(*(_strided(inputs) for inputs in (1, 64, 64, 64)), nn.Flatten(), nn.Linear(64 * 4, classes))


def conv32(classes: int) -> nn.Sequential:
    """Mini-ImageNet's network: four convolutions of 32 filters, each pooled by two, for 84 × 84 colour images.

    Source: Finn et al. 2017, arXiv:1703.03400, §5.2.
    """
    return nn.Sequential(*(_pooled(inputs) for inputs in (3, 32, 32, 32)), nn.Flatten(), nn.Linear(32 * 25, classes))


class ResNet12(nn.Module):
    """Four residual blocks of 64, 128, 256 and 512 filters, the mean over positions, a linear layer.

    Source: Lee et al. 2019, arXiv:1904.03758, §4.1, without DropBlock and with fewer filters.
    """

    def __init__(self, classes: int):
        super().__init__()
        self.blocks = nn.Sequential(Residual(3, 64), Residual(64, 128), Residual(128, 256), Residual(256, 512))
        self.head = nn.Linear(512, classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.blocks(x).mean((2, 3)))


class Residual(nn.Module):
    """Three convolutions beside a shortcut of one by one, then pooled by two."""

    def __init__(self, inputs: int, filters: int):
        super().__init__()
        self.path = nn.Sequential(
            *(nn.Conv2d(inputs, filters, 3, padding=1, bias=False), _norm(filters), nn.LeakyReLU(0.1)),
            *(nn.Conv2d(filters, filters, 3, padding=1, bias=False), _norm(filters), nn.LeakyReLU(0.1)),
            *(nn.Conv2d(filters, filters, 3, padding=1, bias=False), _norm(filters)),
        )
        self.shortcut = nn.Sequential(nn.Conv2d(inputs, filters, 1, bias=False), _norm(filters))
        self.end = nn.Sequential(nn.LeakyReLU(0.1), nn.MaxPool2d(2))

    def forward(self, x: Tensor) -> Tensor:
        return self.end(self.path(x) + self.shortcut(x))


def _norm(filters: int) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(filters, track_running_stats=False)


def _strided(inputs: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(inputs, 64, 3, stride=2, padding=1), _norm(64), nn.ReLU())


def _pooled(inputs: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(inputs, 32, 3, padding=1), _norm(32), nn.ReLU(), nn.MaxPool2d(2))


def useful_flops(net: nn.Module, shape: tuple[int, ...], steps: int, support: int, query: int, tasks: int) -> int:
    """Floating-point operations in the convolutions and linear layers of one MAML meta-gradient.

    Only what any way must compute: no recomputation, and no slope of the loss by the images. With F
    for a layer's forward pass, its gradient takes F for the output, F by the weights and F by the
    input; the product of a step's Hessian with a vector takes 6 F more. A layer that sees the image
    needs no gradient by its input: 2 F and 2 F more.

    Args:
        shape: of one image, without the batch.
        support: images that a task adapts to in each step.
        query: images that a task is judged by.

    >>> useful_flops(nn.Linear(10, 1), (10,), steps=1, support=5, query=3, tasks=2)  # F = 20
    1040
    """
    first, others = 0, 0
    image = torch.zeros(1, *shape)

    def add(layer: nn.Module, inputs: tuple[Any, ...], output: Tensor) -> None:
        nonlocal first, others
        weight = layer.weight
        assert isinstance(weight, Tensor)
        forward = 2 * weight.numel() * (output[0, 0].numel() if isinstance(layer, nn.Conv2d) else 1)
        if inputs[0] is image:
            first += forward
        else:
            others += forward

    hooks = [layer.register_forward_hook(add) for layer in net.modules() if isinstance(layer, (nn.Conv2d, nn.Linear))]
    try:
        with torch.no_grad():
            net(image)
    finally:
        for hook in hooks:
            hook.remove()
    return tasks * (steps * support * (4 * first + 9 * others) + query * (2 * first + 3 * others))
