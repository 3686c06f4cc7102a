"""Parameters are flat dicts of tensors by dotted name; names carry the structure.

``net.0.weight`` is the network's, ``rate.net.0.weight`` a learned inner rate for it. Masks
are patterns over names, checkpoints are the dict itself, optimisers take its values.
"""

from collections.abc import Sequence

from torch import Tensor, nn

from innerloop.errors import InputError, nearest

Params = dict[str, Tensor]
Patterns = str | Sequence[str]


def named(prefix: str, net: nn.Module) -> Params:
    """The network's parameters as a fresh dict, each name under ``prefix``; without those that require no gradient, which stay as they are.

    >>> list(named("net", nn.Linear(2, 1)))
    ['net.weight', 'net.bias']

    Raises:
        InputError: it is no module.
    """
    if not isinstance(net, nn.Module):
        raise InputError(f"a network is a {type(net).__name__}; give an nn.Module, and its loss behind it")
    return {f"{prefix}.{name}": p.detach().clone() for name, p in net.named_parameters() if p.requires_grad}


def under(params: Params, prefix: str) -> Params:
    """The parameters below ``prefix``, with the prefix taken off their names."""
    start = prefix + "."
    return {name[len(start) :]: p for name, p in params.items() if name.startswith(start)}


def finite(params: Params) -> bool:
    """Whether no parameter is NaN or infinite."""
    return all(bool(p.isfinite().all()) for p in params.values())


def within(params: Params, only: Patterns) -> Params:
    """The parameters that match any of the patterns and none of those that begin with ``-``.

    A pattern is a dotted name, a leading part of one, or either with ``*``.

    >>> import torch
    >>> net = dict.fromkeys(["net.body.weight", "net.body.bias", "net.head.weight"], torch.zeros(1))
    >>> list(within(net, "net.head"))
    ['net.head.weight']
    >>> list(within(net, ["net", "-*.bias"]))
    ['net.body.weight', 'net.head.weight']

    Raises:
        InputError: a pattern matches nothing, or no parameter is left.
    """
    if not isinstance(only, Sequence):
        raise InputError(f"patterns are a {type(only).__name__}; give names or parts of names, such as 'net.head' or ['net', '-net.head']")
    patterns = [only] if isinstance(only, str) else list(only)
    found = {}
    for pattern in patterns:
        bare = pattern.removeprefix("-")
        found[pattern] = {name for name in params if _matches(name, bare)}
        if not found[pattern]:
            leading = {n.rsplit(".", k)[0] for n in params for k in range(n.count(".") + 1)}
            raise InputError(f"pattern {bare!r} matches no parameter; {nearest(bare, sorted(leading))}")
    kept = set().union(*(found[p] for p in patterns if not p.startswith("-")))
    kept -= set().union(*(found[p] for p in patterns if p.startswith("-")))
    if not kept:
        raise InputError(f"patterns {patterns} leave no parameter; name at least one that may move")
    return {name: p for name, p in params.items() if name in kept}


def _matches(name: str, pattern: str) -> bool:
    # By hand, because torch.compile traces through it and cannot see into fnmatch or re.
    start, star, rest = pattern.partition("*")
    if not star:
        return name == start or name.startswith(start + ".")
    return name.startswith(start) and any(_matches(name[k:], rest) for k in range(len(start), len(name) + 1))
