"""Batch normalisation by the batch itself, with derivatives that can be trusted."""

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm


class BatchStatistics(nn.Module):
    """(x − mean) / √(var + ε) · γ + β over all axes but the second, in plain operations.

    The same as the ``BatchNorm`` layer it is made of, whose parameters it shares. torch's own
    kernel has wrong second derivatives under ``vmap``: a weight whose meta-gradient is 0 got 0.2.

    Args:
        norm: a layer without running statistics.
    """

    weight: nn.Parameter | None
    bias: nn.Parameter | None

    def __init__(self, norm: _BatchNorm):
        super().__init__()
        self.eps = norm.eps
        self.register_parameter("weight", norm.weight)
        self.register_parameter("bias", norm.bias)

    @staticmethod
    def replaces(layer: nn.Module) -> bool:
        """Whether the layer normalises by the batch alone."""
        return isinstance(layer, _BatchNorm) and layer.running_mean is None

    def forward(self, x: Tensor) -> Tensor:
        return normalised(x, self.weight, self.bias, self.eps)


class FirstStatistics(BatchStatistics):
    """The same, with mean and variance of the first ``first`` examples of a batch alone.

    Args:
        norm: a layer without running statistics.
        first: how many count; where a batch has fewer, all of them do.
    """

    def __init__(self, norm: _BatchNorm, first: int):
        super().__init__(norm)
        self.first = first

    def forward(self, x: Tensor) -> Tensor:
        return normalised(x, self.weight, self.bias, self.eps, self.first)


def normalised(x: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float, first: int | None = None) -> Tensor:
    """(x − mean) / √(var + eps) · weight + bias, with mean and variance of the first examples over all axes but the second."""
    axes = [0, *range(2, x.ndim)]
    centred = x - x[:first].mean(axes, keepdim=True)
    x = centred * (centred[:first].square().mean(axes, keepdim=True) + eps).rsqrt()
    shape = (1, -1) + (1,) * (x.ndim - 2)
    x = x if weight is None else x * weight.view(shape)
    return x if bias is None else x + bias.view(shape)
