"""A user's network, whose layers and functions run by ours where torch's have wrong or slow higher derivatives."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.backends import cuda, mha

from innerloop.models.conv import convolved, pools, reads_innermost, rectified_pool
from innerloop.models.plain import FUNCTIONS, is_by_batch
from innerloop.models.recurrent import WRITTEN

Forward = Callable[..., Any]


def exchanges(net: nn.Module, innermost: bool = True) -> list[tuple[nn.Module, Forward]]:
    """The layers of a network that run otherwise, each with how: the numbers are the same.

    A square ``Conv2d`` runs by kernels of ours, recurrent layers in plain operations, and in an ``nn.Sequential``
    BatchNorm, ReLU and 2 × 2 max-pooling in a row run as one.

    Args:
        innermost: convolutions leave channels innermost in memory, which a network that calls ``view`` on images does not take.

    >>> net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.Flatten(), nn.Linear(4, 2))
    >>> [type(layer).__name__ for layer, _ in exchanges(net)]
    ['Conv2d']
    """
    return [(layer, forward) for layer in net.modules() if (forward := _forward(layer, innermost))]


@contextmanager
def exchanged(layers: Sequence[tuple[nn.Module, Forward]]) -> Iterator[None]:
    """Within the block the layers run as said, however the network calls them, torch normalises and looks up
    embeddings by plain operations, and attention is of plain products: torch's fused attention has no second derivatives.
    """
    before = [layer.__dict__.get("forward") for layer, _ in layers]
    functions = {name: getattr(torch, name) for name in FUNCTIONS}
    attention = [enabled() for enabled, _ in _FUSED]
    for layer, forward in layers:
        layer.__dict__["forward"] = forward
    for name, own in FUNCTIONS.items():
        setattr(torch, name, own)
    for _, enable in _FUSED:
        enable(False)
    try:
        yield
    finally:
        for (layer, _), forward in zip(layers, before, strict=True):
            if forward is None:
                layer.__dict__.pop("forward", None)
            else:
                layer.__dict__["forward"] = forward
        for name, was in functions.items():
            setattr(torch, name, was)
        for (_, enable), was in zip(_FUSED, attention, strict=True):
            enable(was)


_FUSED: list[tuple[Callable[[], bool], Callable[[bool], None]]] = [
    (cuda.flash_sdp_enabled, cuda.enable_flash_sdp),
    (cuda.mem_efficient_sdp_enabled, cuda.enable_mem_efficient_sdp),
    (cuda.cudnn_sdp_enabled, cuda.enable_cudnn_sdp),
    (mha.get_fastpath_enabled, mha.set_fastpath_enabled),
]


def _forward(layer: nn.Module, innermost: bool) -> Forward | None:
    """How a layer runs, where not by its own forward pass."""
    if "forward" in layer.__dict__:
        return None  # somebody has exchanged it already
    if type(layer) is nn.Sequential:
        row = InTurn.of(layer, innermost)
        return row if any(isinstance(piece, Joined) for piece in row.pieces) else None
    if written := WRITTEN.get(getattr(type(layer), "forward", None)):
        return partial(written, layer)
    if not reads_innermost(layer):
        return None
    run = partial(convolved, layer)
    return run if innermost else partial(_each, [run, Tensor.contiguous])


@dataclass(frozen=True)
class Joined:
    """Layers in a row that run as one, unless somebody has hooks to look between them."""

    layers: Sequence[nn.Module]
    together: Forward

    def __call__(self, x: Tensor) -> Tensor:
        return _each(self.layers, x) if any(map(_hooked, self.layers)) else self.together(x)


@dataclass(frozen=True)
class InTurn:
    """A row of layers, one after the other, some of them joined.

    Args:
        rows: the ``nn.Sequential`` and those within it whose layers these are, each with its layers.
    """

    rows: Sequence[tuple[nn.Sequential, Sequence[nn.Module]]]
    pieces: Sequence[Callable[[Any], Any]]

    @staticmethod
    def of(row: nn.Sequential, innermost: bool = True) -> "InTurn":
        """What runs in the place of the row."""
        rows, layers = list[tuple[nn.Sequential, Sequence[nn.Module]]](), list[nn.Module]()

        def gather(part: nn.Sequential) -> None:
            rows.append((part, [*part]))
            for layer in part:
                if type(layer) is nn.Sequential and not _hooked(layer):
                    gather(layer)
                else:
                    layers.append(layer)

        gather(row)
        pieces, k = list[Callable[[Any], Any]](), 0
        while k < len(layers):
            joined = _joined(layers[k:], innermost)
            pieces.append(joined or layers[k])
            k += len(joined.layers) if joined else 1
        return InTurn(rows, pieces)

    def __call__(self, x: Any) -> Any:
        as_it_was = not any(_hooked(row) or [*row] != layers for row, layers in self.rows)
        return _each(self.pieces if as_it_was else self.rows[0][0], x)


def _joined(layers: Sequence[nn.Module], innermost: bool) -> Joined | None:
    """The first of the layers in a row, where they can be joined."""
    centred = len(layers) > 1 and reads_innermost(layers[0]) and is_by_batch(layers[1])
    norm, activation, pool = (*layers[centred : centred + 3], *[None] * 3)[:3]
    pooled = norm is not None and activation is not None and pool is not None and pools(norm, activation, pool)
    kept = innermost and (pooled or _any_order(layers[2:]))
    # The normalisation takes any bias away again: none is added, and its gradient is 0 instead of what rounding leaves.
    first: list[Forward] = [partial(convolved, layers[0], centred=True, innermost=kept)] if centred else []
    if pooled:
        n = centred + 3
        read = innermost and len(layers) > n and reads_innermost(layers[n])
        return Joined(layers[:n], partial(_each, [*first, partial(rectified_pool, norm, activation, innermost=read)]))
    last = [] if innermost else [Tensor.contiguous]
    return Joined(layers[:2], partial(_each, [*first, layers[1], *last])) if centred else None


def _any_order(layers: Sequence[nn.Module]) -> bool:
    """Whether layers in a row take images whatever their order in memory, up to one that does not hand it on."""
    for layer in layers:
        if reads_innermost(layer) or type(layer) is nn.Flatten:
            return True
        if type(layer) not in (nn.ReLU, nn.LeakyReLU, nn.ELU, nn.GELU, nn.SiLU, nn.Tanh, nn.Sigmoid, nn.Identity):
            return False
    return False


def _each(pieces: Any, x: Any) -> Any:
    for piece in pieces:
        x = piece(x)
    return x


def _hooked(layer: nn.Module) -> bool:
    return bool(layer._forward_hooks or layer._forward_pre_hooks)
