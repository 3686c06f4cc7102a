"""Multi-layer perceptrons."""

from collections.abc import Callable
from itertools import pairwise
from typing import Literal

import torch
from torch import nn

from innerloop.errors import InputError

Start = Literal["torch", "released", "xavier"]


def mlp(
    *sizes: int, start: Start = "torch", nonlinearity: Callable[[], nn.Module] = nn.ReLU, generator: torch.Generator | None = None
) -> nn.Sequential:
    """Linear layers of the given sizes with a nonlinearity between them.

    >>> [tuple(p.shape) for p in mlp(1, 40, 40, 1).parameters()]
    [(40, 1), (40,), (40, 40), (40,), (1, 40), (1,)]

    Args:
        sizes: inputs, hidden units of each layer, outputs.
        start: ``torch`` for PyTorch's own, weights and biases ~ U(±1/√inputs) of their layer;
            ``released`` for that of MAML's code, weights ~ N(0, 0.01²) cut at two standard
            deviations and biases 0. The paper prints neither; they train differently. ``xavier``
            for rllab's policies, weights ~ U(±√(6 / (inputs + outputs))) and biases 0.
        nonlinearity: makes what stands between them, such as ``nn.Tanh``.
        generator: where the weights are drawn from; by default, torch's global one.

    Source: Finn et al. 2017, arXiv:1703.03400, §5.1; its start: cbfinn/maml, ``utils.py``.
    """
    if len(sizes) < 2 or min(sizes) < 1:
        raise InputError(f"the sizes are {sizes}; give inputs, hidden layers if any, and outputs, each 1 or more")
    layers: list[nn.Module] = []
    for inputs, outputs in pairwise(sizes):
        linear = nn.Linear(inputs, outputs) if generator is None else _unset(inputs, outputs)
        if start == "released":
            nn.init.trunc_normal_(linear.weight, std=0.01, a=-0.02, b=0.02, generator=generator)
            nn.init.zeros_(linear.bias)
        elif start == "xavier":
            nn.init.xavier_uniform_(linear.weight, generator=generator)
            nn.init.zeros_(linear.bias)
        else:
            for p in (linear.weight, linear.bias):
                nn.init.uniform_(p, -(inputs**-0.5), inputs**-0.5, generator=generator)
        layers += [linear, nonlinearity()]
    return nn.Sequential(*layers[:-1])


def _unset(inputs: int, outputs: int) -> nn.Linear:
    """A layer whose weights are yet to be drawn: ``nn.Linear`` alone draws them from the global generator."""
    return nn.Linear(inputs, outputs, device="meta").to_empty(device=torch.get_default_device())
