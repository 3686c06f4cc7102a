"""TorchOpt 0.7.3: ``MetaSGD`` moves the network itself, which is put back after each task."""

from collections.abc import Callable

import torch
import torchopt  # pyright: ignore[reportMissingImports]
from torch import Tensor, nn
from torch.nn import functional

from . import Tasks


def prepare(net: nn.Module, classify: bool, steps: int, rate: float, tasks: Tasks) -> Callable[[], list[Tensor]]:
    """One meta-gradient by a loop over tasks, going backward once from the mean of their losses."""
    compare = functional.cross_entropy if classify else functional.mse_loss
    support, query = tasks
    each = list(zip(*support, *query, strict=True))
    optimizer = torchopt.MetaSGD(net, lr=rate)

    def gradient() -> list[Tensor]:
        net.zero_grad(set_to_none=True)
        start = torchopt.extract_state_dict(net, by="reference", detach_buffers=True)
        optimizer_start = torchopt.extract_state_dict(optimizer, by="reference")
        losses: list[Tensor] = []
        for x, y, query_x, query_y in each:
            for _ in range(steps):
                optimizer.step(compare(net(x), y))
            losses.append(compare(net(query_x), query_y))
            torchopt.recover_state_dict(net, start)
            torchopt.recover_state_dict(optimizer, optimizer_start)
        torch.stack(losses).mean().backward()
        return [p.grad for p in net.parameters() if p.grad is not None]

    return gradient
