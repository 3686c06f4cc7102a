"""Networks that tell a task by its support: ``(x, y) → embedding``, for one task."""

from collections.abc import Callable, Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from innerloop.errors import InputError
from innerloop.models.convnets import convnet
from innerloop.models.recurrent import States, gru, in_turn, lstm

Cell = Literal["gru", "lstm"]


class Recurrent(nn.Module):
    """Points read in their order by a recurrent network from both ends: its two last states are the embedding.

    The same as ``nn.GRU`` or ``nn.LSTM`` with ``bidirectional=True``, with weights drawn from a generator of one's own.

    Args:
        inputs: numbers of a point, x and y together.
        hidden: units of each state.
        cell: ``gru``, or ``lstm`` as in the released code.
        layers: each reads the states of the one before.
        generator: where the weights are drawn from, as PyTorch draws those of recurrent networks.

    >>> Recurrent(inputs=2, hidden=40)(torch.zeros(5, 1), torch.zeros(5, 1)).shape
    torch.Size([80])

    Raises:
        InputError: there is no such cell, or no layer.

    Source: Vuorio et al. 2018, arXiv:1812.07172 (MuMoMAML), §4.3 and App. A.1.
    """

    def __init__(self, inputs: int, hidden: int = 40, cell: Cell = "gru", layers: int = 1, generator: torch.Generator | None = None):
        super().__init__()
        if cell not in CELLS or layers < 1:
            raise InputError(f"cell is {cell!r} with {layers} layers; give 'gru' or 'lstm', and 1 layer or more")
        self.size = 2 * hidden
        widths = [inputs] + [2 * hidden] * (layers - 1)
        self.onward, self.backward = (nn.ModuleList(_Reader(width, hidden, cell, generator) for width in widths) for _ in range(2))

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        points = last = torch.cat([x, y], dim=-1)
        for onward, backward in zip(self.onward, self.backward, strict=True):
            there, back = onward(points), backward(points.flip(0))
            points, last = torch.cat([there, back.flip(0)], dim=-1), torch.cat([there[-1], back[-1]])
        return last


class _Reader(nn.Module):
    """A cell that reads points in turn: its states after each, ``[points, hidden]``."""

    def __init__(self, inputs: int, hidden: int, cell: Cell, generator: torch.Generator | None):
        super().__init__()
        self.cell = cell
        self.of_point, self.of_state = (nn.Linear(width, CELLS[cell][1] * hidden) for width in (inputs, hidden))
        for p in self.parameters():
            nn.init.uniform_(p, -(hidden**-0.5), hidden**-0.5, generator=generator)

    def forward(self, points: Tensor) -> Tensor:
        goes_on, _, remembered = CELLS[self.cell]
        begin = (points.new_zeros(self.of_state.in_features),) * remembered
        return torch.stack([after[0] for after in in_turn(goes_on, self.of_point(points), self.of_state, begin)])


CELLS: dict[str, tuple[Callable[..., States], int, int]] = {"gru": (gru, 3, 1), "lstm": (lstm, 4, 2)}
"""Of each cell, how it goes on, its gates, and how many states it remembers."""


class OfTrajectory(nn.Module):
    """A policy's first trajectory read by a GRU: observation, action and reward of each time step. Its state at the end is the embedding.

    Args:
        inputs: numbers of an observation, of an action (how many there are, where they are discrete) and 1 for the reward, together.
        hidden: units of the state.
        generator: where the weights are drawn from, as PyTorch draws those of recurrent networks.

    >>> OfTrajectory(inputs=2 + 2 + 1, hidden=8)(torch.zeros(20, 100, 2), torch.zeros(20, 100, 2), torch.zeros(20, 100)).shape
    torch.Size([8])

    Source: Vuorio et al. 2018, arXiv:1812.07172 (MuMoMAML), §5.3 and App. A.3.
    """

    def __init__(self, inputs: int, hidden: int = 8, generator: torch.Generator | None = None):
        super().__init__()
        self.size = hidden
        self.reader = _Reader(inputs, hidden, "gru", generator)

    def forward(self, observations: Tensor, actions: Tensor, rewards: Tensor, alive: Tensor | None = None, *others: Tensor) -> Tensor:
        seen, acted = observations[0], actions[0]
        if acted.ndim < seen.ndim:  # numbers of actions; by comparison, as one_hot reads values
            known = self.reader.of_point.in_features - seen.shape[-1] - 1
            acted = (acted.unsqueeze(-1) == torch.arange(known, device=seen.device)).to(seen)
        states = self.reader(torch.cat([seen, acted, rewards[0].unsqueeze(-1)], -1))
        if alive is None:
            return states[-1]
        steps = torch.arange(len(states), device=states.device)
        return (states * (steps == alive[0].sum() - 1).unsqueeze(-1)).sum(0)  # by comparison, as an index cannot differ between tasks


class OfImages(nn.Module):
    """Strided convolutions of every image of the support, a linear layer and ReLU, then the mean over images.

    Told labels, the linear layer sees each image's class beside its features: then the embedding
    knows which classes' images are alike. The released code's does not.

    Args:
        shape: channels, height and width of an image.
        size: numbers of the embedding.
        ways: classes, where the embedding is told labels; None for images alone.
        filters: of each convolution.
        generator: where the weights are drawn from.

    >>> OfImages((1, 28, 28), size=128, ways=5)(torch.zeros(5, 1, 28, 28), torch.arange(5)).shape
    torch.Size([128])

    Source: Vuorio et al. 2018, arXiv:1812.07172 (MuMoMAML), §4.3; its convolutions: Vuorio et al. 2019, arXiv:1910.13616, released code.
    """

    def __init__(
        self,
        shape: Sequence[int],
        size: int = 128,
        ways: int | None = None,
        filters: Sequence[int] = (32, 64, 128, 256),
        generator: torch.Generator | None = None,
    ):
        super().__init__()
        self.size, self.ways = size, ways
        body = convnet(shape, 1, filters, strided=True, mean=True, generator=generator)
        body.set_submodule("head", nn.Identity())
        self.body = body
        self.out = nn.Linear(filters[-1] + (ways or 0), size)
        for p in self.out.parameters():
            nn.init.uniform_(p, -(self.out.in_features**-0.5), self.out.in_features**-0.5, generator=generator)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        features = self.body(x)
        if self.ways:
            label = (y[:, None] == torch.arange(self.ways, device=y.device)).to(features)
            features = torch.cat([features, label], dim=-1)
        return torch.relu(self.out(features)).mean(0)
