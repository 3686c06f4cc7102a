"""A user's network with layers whose higher derivatives are right, and fast, in the place of torch's."""

from copy import copy
from itertools import pairwise

from torch import nn

from innerloop.models.conv import Convolution, NormalisedPool
from innerloop.models.norm import BatchStatistics


def for_inner_loops(net: nn.Module) -> nn.Module:
    """The network with our layers where they compute the same; itself where there are none.

    ``BatchNorm`` without running statistics becomes ``BatchStatistics``, ``Conv2d`` becomes
    ``Convolution``, and in an ``nn.Sequential`` BatchNorm, ReLU and 2 × 2 max-pooling in a row
    become ``NormalisedPool``. Names, parameters and all other layers are
    those of the network, which stays as it is; a layer with hooks is left alone.

    >>> net = nn.Sequential(nn.Linear(1, 4), nn.BatchNorm1d(4, track_running_stats=False))
    >>> [type(layer).__name__ for layer in for_inner_loops(net).children()]
    ['Linear', 'BatchStatistics']
    """
    return _rewritten(net, None, {})


Seen = dict[tuple[nn.Module, bool], nn.Module]


def _rewritten(net: nn.Module, after: nn.Module | None, seen: Seen) -> nn.Module:
    """The network, whose output is the input of layer ``after``."""
    key = net, _reads_innermost(after)
    if key not in seen:
        seen[key] = _replaced(net)
        if seen[key] is net:
            row = [(name, child) for name, child in net._modules.items() if child is not None]
            in_turn = type(net) is nn.Sequential
            following = [_first(child) for _, child in row[1:]] + [after] if in_turn else [None] * len(row)
            children = {name: _rewritten(child, then, seen) for (name, child), then in zip(row, following, strict=True)}
            if in_turn:
                children |= _fused(row, after)
            changed = {name: child for name, child in children.items() if child is not getattr(net, name)}
            if changed:
                seen[key] = copy(net)
                seen[key]._modules = {**net._modules, **changed}
    return seen[key]


def _first(net: nn.Module) -> nn.Module | None:
    """The layer that a network's input comes to."""
    while type(net) is nn.Sequential and not _hooked(net) and len(net):
        net = net[0]
    return net


def _reads_innermost(layer: nn.Module | None) -> bool:
    return isinstance(layer, nn.Conv2d) and Convolution.replaces(layer) and not _hooked(layer)


def _replaced(layer: nn.Module) -> nn.Module:
    if _hooked(layer):
        return layer
    if BatchStatistics.replaces(layer):
        return BatchStatistics(layer)  # pyright: ignore[reportArgumentType]
    return Convolution(layer) if isinstance(layer, nn.Conv2d) and Convolution.replaces(layer) else layer


def _fused(row: list[tuple[str, nn.Module]], after: nn.Module | None) -> dict[str, nn.Module]:
    """What stands in for neighbours in a row, whose output is the input of layer ``after``."""
    found: dict[str, nn.Module] = {}
    for (first, conv), (_, norm) in pairwise(row):
        centred = BatchStatistics.replaces(norm) and not _hooked(conv) and not _hooked(norm)
        if centred and isinstance(conv, nn.Conv2d) and Convolution.replaces(conv):
            found[first] = Convolution(conv, centred=True)
    for k, ((first, norm), (second, activation), (third, pool)) in enumerate(zip(row, row[1:], row[2:], strict=False)):
        if NormalisedPool.replaces(norm, activation, pool) and not any(map(_hooked, (norm, activation, pool))):
            # One of the three does the work, the others nothing.
            innermost = _reads_innermost(_first(row[k + 3][1]) if k + 3 < len(row) else after)
            found |= {first: NormalisedPool(norm, activation, innermost), second: nn.Identity(), third: nn.Identity()}  # pyright: ignore[reportArgumentType]
    return found


def _hooked(layer: nn.Module) -> bool:
    return bool(layer._forward_hooks or layer._forward_pre_hooks)
