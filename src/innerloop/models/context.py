"""Context vector: free inputs beside the data."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn


class WithContext(nn.Module):
    """``net([x, z])``: the same free vector z appended to every point of x.

    Args:
        net: takes ``size`` inputs more than x has.
        size: length of z, which is the parameter ``context`` and starts at 0; or the shape of
            images ``(channels, height, width)``, which are appended as more channels.

    >>> WithContext(nn.Linear(3, 1), size=2)(torch.zeros(5, 1)).shape
    torch.Size([5, 1])

    Source: Finn et al. 2017, arXiv:1703.03400, App. C.2.
    """

    def __init__(self, net: nn.Module, size: int | Sequence[int]):
        super().__init__()
        self.net = net
        self.context = nn.Parameter(torch.zeros(size))

    def forward(self, x: Tensor) -> Tensor:
        own = self.context.ndim
        return self.net(torch.cat([x, self.context.expand(*x.shape[:-own], *self.context.shape)], dim=-own))
