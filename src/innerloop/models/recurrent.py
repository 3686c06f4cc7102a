"""Recurrent cells and layers in plain operations: torch's own have no rule for ``vmap``, and no second derivatives on some devices."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

States = tuple[Tensor, ...]
"""What a cell remembers: its state, and of an LSTM its memory too."""


def gru(of_input: Tensor, of_state: Tensor, h: Tensor) -> States:
    """h ← (1 − z) ∘ tanh(n + r ∘ n′) + z ∘ h of what input and state say of r, z and n, ``[…, 3 · hidden]``."""
    (r, z, n), (r_, z_, n_) = of_input.chunk(3, -1), of_state.chunk(3, -1)
    update = torch.sigmoid(z + z_)
    proposed = torch.tanh(n + torch.sigmoid(r + r_) * n_)
    return ((1 - update) * proposed + update * h,)


def lstm(of_input: Tensor, of_state: Tensor, h: Tensor, memory: Tensor) -> States:
    """c ← f ∘ c + i ∘ g, h ← o ∘ tanh(c) of what input and state say of i, f, g and o, ``[…, 4 · hidden]``."""
    take, keep, proposed, show = (of_input + of_state).chunk(4, -1)
    memory = torch.sigmoid(keep) * memory + torch.sigmoid(take) * torch.tanh(proposed)
    return torch.sigmoid(show) * torch.tanh(memory), memory


def in_turn(cell: Callable[..., States], of_input: Tensor, of_state: Callable[[Tensor], Tensor], states: States) -> list[States]:
    """States after each point, of what is made of all points, ``[time, …]``."""
    found = []
    for own in of_input.unbind():
        states = cell(own, of_state(states[0]), *states)
        found.append(states)
    return found


def _cell(layer: Any, at: str = "") -> Callable[..., States]:
    """How a layer's state goes on."""
    if isinstance(layer, (nn.LSTM, nn.LSTMCell)):
        shorter = getattr(layer, f"weight_hr{at}", None)
        return lstm if shorter is None else partial(_shorter, shorter)
    if isinstance(layer, (nn.GRU, nn.GRUCell)):
        return gru
    bent = {"tanh": torch.tanh, "relu": torch.relu}[layer.nonlinearity]
    return lambda of_input, of_state, h: (bent(of_input + of_state),)


def _shorter(weight: Tensor, *of: Tensor) -> States:
    h, memory = lstm(*of)
    return functional.linear(h, weight), memory


def read(layer: Any, x: Any, hx: Any = None) -> tuple[Any, Any]:
    """What ``nn.RNN``, ``nn.GRU`` or ``nn.LSTM`` gives: states of the last layer at every time, and the last states of all layers."""
    if not isinstance(x, Tensor):  # a packed sequence, which only torch reads
        return type(layer).forward(layer, x, hx)
    alone = x.ndim == 2
    points = x.unsqueeze(1) if alone else x.transpose(0, 1) if layer.batch_first else x  # [time, batch, numbers]
    begins = None if hx is None else tuple(h.unsqueeze(1) if alone else h for h in (hx if isinstance(hx, tuple) else (hx,)))
    ends: list[States] = []
    for k in range(layer.num_layers):
        if k and layer.dropout and layer.training:
            points = functional.dropout(points, layer.dropout)
        ways = []
        for way in ("", "_reverse") if layer.bidirectional else ("",):
            at, own = f"_l{k}{way}", points.flip(0) if way else points
            begin = _zeros(layer, points.shape[1:2], points) if begins is None else tuple(h[len(ends)] for h in begins)
            states = in_turn(_cell(layer, at), _linear(layer, "ih", at)(own), _linear(layer, "hh", at), begin)
            seen = torch.stack([after[0] for after in states])
            ways.append(seen.flip(0) if way else seen)
            ends.append(states[-1])
        points = torch.cat(ways, -1)
    last = tuple(torch.stack(part) for part in zip(*ends, strict=True))
    if alone:
        points, last = points.squeeze(1), tuple(part.squeeze(1) for part in last)
    return points.transpose(0, 1) if layer.batch_first and not alone else points, _given(last)


def _linear(layer: Any, of: str, at: str = "") -> Callable[[Tensor], Tensor]:
    """What a layer makes of inputs (``ih``) or of states (``hh``)."""
    return partial(functional.linear, weight=getattr(layer, f"weight_{of}{at}"), bias=getattr(layer, f"bias_{of}{at}", None))


def _zeros(layer: Any, batch: Sequence[int], like: Tensor) -> States:
    """A state, and a memory where there is one, that nothing has been read into."""
    sizes = (getattr(layer, "proj_size", 0) or layer.hidden_size, layer.hidden_size)
    return tuple(like.new_zeros(*batch, size) for size in sizes[: 1 + isinstance(layer, (nn.LSTM, nn.LSTMCell))])


def step(layer: Any, x: Tensor, hx: Any = None) -> Any:
    """What ``nn.RNNCell``, ``nn.GRUCell`` or ``nn.LSTMCell`` gives: the state after an input."""
    states = _zeros(layer, x.shape[:-1], x) if hx is None else hx if isinstance(hx, tuple) else (hx,)
    return _given(_cell(layer)(_linear(layer, "ih")(x), _linear(layer, "hh")(states[0]), *states))


def _given(states: States) -> Any:
    """As torch gives them: one without a tuple."""
    return states[0] if len(states) == 1 else states


WRITTEN: Mapping[Any, Callable[..., Any]] = {
    **{layer.forward: read for layer in (nn.RNN, nn.GRU, nn.LSTM)},
    **{cell.forward: step for cell in (nn.RNNCell, nn.GRUCell, nn.LSTMCell)},
}
"""What runs in the place of each forward pass of torch's."""
