"""A user's network with layers whose higher derivatives are right, and fast, in the place of torch's."""

from copy import copy
from itertools import pairwise

from torch import nn

from innerloop.models.conv import Convolution, NormalisedPool
from innerloop.models.norm import BatchStatistics


def for_inner_loops(net: nn.Module, seen: dict[nn.Module, nn.Module] | None = None) -> nn.Module:
    """The network with our layers where they compute the same; itself where there are none.

    ``BatchNorm`` without running statistics becomes ``BatchStatistics``, ``Conv2d`` becomes
    ``Convolution``, and in an ``nn.Sequential`` BatchNorm, ReLU and 2 × 2 max-pooling in a row
    become ``NormalisedPool``. Names, parameters and all other layers are
    those of the network, which stays as it is; a layer with hooks is left alone.

    >>> net = nn.Sequential(nn.Linear(1, 4), nn.BatchNorm1d(4, track_running_stats=False))
    >>> [type(layer).__name__ for layer in for_inner_loops(net).children()]
    ['Linear', 'BatchStatistics']
    """
    seen = {} if seen is None else seen
    if net not in seen:
        seen[net] = _replaced(net)
        if seen[net] is net:
            children = {name: for_inner_loops(child, seen) for name, child in net.named_children()}
            if type(net) is nn.Sequential:
                children |= _fused(list(net.named_children()))
            changed = {name: child for name, child in children.items() if child is not getattr(net, name)}
            if changed:
                seen[net] = copy(net)
                seen[net]._modules = {**net._modules, **changed}
    return seen[net]


def _replaced(layer: nn.Module) -> nn.Module:
    if _hooked(layer):
        return layer
    if BatchStatistics.replaces(layer):
        return BatchStatistics(layer)  # pyright: ignore[reportArgumentType]
    return Convolution(layer) if isinstance(layer, nn.Conv2d) and Convolution.replaces(layer) else layer


def _fused(row: list[tuple[str, nn.Module]]) -> dict[str, nn.Module]:
    """What stands in for neighbours in a row."""
    found: dict[str, nn.Module] = {}
    for (first, conv), (_, norm) in pairwise(row):
        centred = BatchStatistics.replaces(norm) and not _hooked(conv) and not _hooked(norm)
        if centred and isinstance(conv, nn.Conv2d) and Convolution.replaces(conv):
            found[first] = Convolution(conv, centred=True)
    for k, ((first, norm), (second, activation), (third, pool)) in enumerate(zip(row, row[1:], row[2:], strict=False)):
        if NormalisedPool.replaces(norm, activation, pool) and not any(map(_hooked, (norm, activation, pool))):
            # One of the three does the work, the others nothing.
            after = row[k + 3][1] if k + 3 < len(row) else None
            innermost = isinstance(after, nn.Conv2d) and Convolution.replaces(after) and not _hooked(after)
            found |= {first: NormalisedPool(norm, activation, innermost), second: nn.Identity(), third: nn.Identity()}  # pyright: ignore[reportArgumentType]
    return found


def _hooked(layer: nn.Module) -> bool:
    return bool(layer._forward_hooks or layer._forward_pre_hooks)
