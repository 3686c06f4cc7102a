"""The state of optimisers and schedules as JSON, with its tensors beside it."""

from collections import Counter
from collections.abc import Mapping
from functools import partial
from inspect import isroutine
from typing import Any

from torch import Tensor

from innerloop.errors import InputError
from innerloop.params import Params


def encoded(value: Any, tensors: Params, name: str) -> Any:
    """The value as JSON has it, with the tensors in it put among ``tensors`` by names that begin with ``name``.

    Functions and classes in a dict are left out: they are no state but how a thing was made.

    >>> import torch
    >>> beside = {}
    >>> encoded({"lr": torch.ones(1), "at": Counter([3, 3])}, beside, "rate")
    {'lr': {'__tensor__': 'rate.lr'}, 'at': {'__counter__': [[3, 2]]}}
    >>> list(beside)
    ['rate.lr']

    Raises:
        InputError: something in it cannot be kept in a checkpoint.
    """
    if isinstance(value, Tensor):
        tensors[name] = value
        return {"__tensor__": name}
    if isinstance(value, dict):
        items = [[key, encoded(of, tensors, f"{name}.{key}")] for key, of in value.items() if not _is_made_of(of)]
        if isinstance(value, Counter):
            return {"__counter__": items}
        return dict(items) if all(isinstance(key, str) for key in value) else {"__pairs__": items}
    if isinstance(value, (list, tuple)):
        items = [encoded(of, tensors, f"{name}.{k}") for k, of in enumerate(value)]
        return items if isinstance(value, list) else {"__tuple__": items}
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    kind = type(value).__qualname__
    raise InputError(
        f"{name} is of the kind {kind}, which checkpoints cannot keep; keep numbers, tensors, lists and dicts there, or train without out"
    )


def decoded(value: Any, tensors: Mapping[str, Tensor]) -> Any:
    """What ``encoded`` was given."""
    if isinstance(value, list):
        return [decoded(of, tensors) for of in value]
    match value:
        case {"__tensor__": name}:
            return tensors[name]
        case {"__counter__": items}:
            return Counter(dict(items))
        case {"__pairs__": items}:
            return {key: decoded(of, tensors) for key, of in items}
        case {"__tuple__": items}:
            return tuple(decoded(items, tensors))
        case dict():
            return {key: decoded(of, tensors) for key, of in value.items()}
    return value


def _is_made_of(value: object) -> bool:
    return isroutine(value) or isinstance(value, (type, partial))
