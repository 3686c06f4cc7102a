"""higher 0.2.1: ``innerloop_ctx`` makes a network and ``torch.optim.SGD`` functional, task by task."""

from collections.abc import Callable

import higher  # pyright: ignore[reportMissingImports]
import torch
from torch import Tensor, nn
from torch.nn import functional

from . import Tasks


def prepare(net: nn.Module, classify: bool, steps: int, rate: float, tasks: Tasks) -> Callable[[], list[Tensor]]:
    """One meta-gradient by a loop over tasks, each going backward by itself."""
    compare = functional.cross_entropy if classify else functional.mse_loss
    support, query = tasks
    each = list(zip(*support, *query, strict=True))
    optimizer = torch.optim.SGD(net.parameters(), lr=rate)

    def gradient() -> list[Tensor]:
        net.zero_grad(set_to_none=True)
        for x, y, query_x, query_y in each:
            with higher.innerloop_ctx(net, optimizer, copy_initial_weights=False) as (fast, descent):
                for _ in range(steps):
                    descent.step(compare(fast(x), y))
                loss = compare(fast(query_x), query_y)
                (loss / len(each)).backward()
        return [p.grad for p in net.parameters() if p.grad is not None]

    return gradient
