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

    def forward(self, x: Tensor) -> Tensor:
        axes = [0, *range(2, x.ndim)]
        centred = x - x.mean(axes, keepdim=True)
        x = centred * (centred.square().mean(axes, keepdim=True) + self.eps).rsqrt()
        if self.weight is None or self.bias is None:
            return x
        shape = (1, -1) + (1,) * (x.ndim - 2)
        return x * self.weight.view(shape) + self.bias.view(shape)
