"""A user's network, whose layers run by forward passes of ours where torch's have wrong or slow higher derivatives."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

from torch import Tensor, nn
from torch.backends import cuda, mha
from torch.nn.modules.instancenorm import _InstanceNorm

from innerloop.models.conv import convolved, pools, reads_innermost, rectified_pool
from innerloop.models.norm import by_batch, by_example, by_image, is_by_batch

Forward = Callable[[Tensor], Tensor]


def exchanges(net: nn.Module) -> list[tuple[nn.Module, Forward]]:
    """The layers of a network that run otherwise, each with how.

    Normalisations by what they are given (``BatchNorm`` and ``InstanceNorm`` without running statistics,
    ``LayerNorm``) run in plain operations, a square ``Conv2d`` by kernels of ours, and in an ``nn.Sequential``
    BatchNorm, ReLU and 2 × 2 max-pooling in a row run as one. The numbers are the same.

    >>> net = nn.Sequential(nn.Linear(1, 4), nn.BatchNorm1d(4, track_running_stats=False))
    >>> [type(layer).__name__ for layer, _ in exchanges(net)]
    ['BatchNorm1d']
    """
    return [(layer, forward) for layer in net.modules() if (forward := _forward(layer))]


@contextmanager
def exchanged(layers: Sequence[tuple[nn.Module, Forward]]) -> Iterator[None]:
    """Within the block the layers run as said, however the network calls them, and attention by plain products.

    torch's fused attention has no second derivatives. A layer with hooks is left alone.
    """
    before = [layer.__dict__.get("forward") for layer, _ in layers]
    attention = [enabled() for enabled, _ in _FUSED]
    for layer, forward in layers:
        if not _hooked(layer):
            layer.__dict__["forward"] = forward
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
        for (_, enable), was in zip(_FUSED, attention, strict=True):
            enable(was)


_FUSED: list[tuple[Callable[[], bool], Callable[[bool], None]]] = [
    (cuda.flash_sdp_enabled, cuda.enable_flash_sdp),
    (cuda.mem_efficient_sdp_enabled, cuda.enable_mem_efficient_sdp),
    (cuda.cudnn_sdp_enabled, cuda.enable_cudnn_sdp),
    (mha.get_fastpath_enabled, mha.set_fastpath_enabled),
]


def _forward(layer: nn.Module) -> Forward | None:
    """How a layer runs, where not by its own forward pass."""
    its_own = type(layer).forward
    if "forward" in layer.__dict__:
        return None  # somebody has exchanged it already
    if type(layer) is nn.Sequential:
        row = InTurn.of(layer)
        return row if any(isinstance(piece, Joined) for piece in row.pieces) else None
    if is_by_batch(layer):
        return partial(by_batch, layer)
    if its_own is _InstanceNorm.forward and layer.running_mean is None:
        return partial(by_image, layer)
    if its_own is nn.LayerNorm.forward:
        return partial(by_example, layer)
    return partial(convolved, layer) if reads_innermost(layer) else None


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
        rows: the ``nn.Sequential`` and those within it whose layers these are.
    """

    rows: Sequence[nn.Sequential]
    pieces: Sequence[Callable[[Any], Any]]

    @staticmethod
    def of(row: nn.Sequential) -> "InTurn":
        """What runs in the place of the row."""
        rows, layers = [row], list[nn.Module]()

        def gather(part: nn.Sequential) -> None:
            for layer in part:
                if type(layer) is nn.Sequential and not _hooked(layer):
                    rows.append(layer)
                    gather(layer)
                else:
                    layers.append(layer)

        gather(row)
        pieces, k = list[Callable[[Any], Any]](), 0
        while k < len(layers):
            joined = _joined(layers[k:])
            pieces.append(joined or layers[k])
            k += len(joined.layers) if joined else 1
        return InTurn(rows, pieces)

    def __call__(self, x: Any) -> Any:
        return _each(self.rows[0], x) if any(map(_hooked, self.rows)) else _each(self.pieces, x)


def _joined(layers: Sequence[nn.Module]) -> Joined | None:
    """The first of the layers in a row, where they can be joined."""
    centred = len(layers) > 1 and reads_innermost(layers[0]) and is_by_batch(layers[1])
    # The normalisation takes any bias away again: none is added, and its gradient is 0 instead of what rounding leaves.
    first: list[Forward] = [partial(convolved, layers[0], centred=True)] if centred else []
    norm, activation, pool = (*layers[centred : centred + 3], *[None] * 3)[:3]
    if norm is not None and activation is not None and pool is not None and pools(norm, activation, pool):
        n = centred + 3
        innermost = len(layers) > n and reads_innermost(layers[n])
        return Joined(layers[:n], partial(_each, [*first, partial(rectified_pool, norm, activation, innermost=innermost)]))
    return Joined(layers[:2], partial(_each, [*first, layers[1]])) if centred else None


def _each(pieces: Any, x: Any) -> Any:
    for piece in pieces:
        x = piece(x)
    return x


def _hooked(layer: nn.Module) -> bool:
    return bool(layer._forward_hooks or layer._forward_pre_hooks)
