"""Batches of tasks are nested tuples, lists and dicts of tensors: map, stack, cut and join them."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from innerloop.errors import InputError


def map_tensors(f: Callable[..., Any], tree: Any, *others: Any) -> Any:
    """``f`` of every tensor in nested tuples, lists and dicts, with its twins in ``others``.

    >>> map_tensors(torch.add, {"x": [torch.tensor(1)]}, {"x": [torch.tensor(2)]})
    {'x': [tensor(3)]}

    Raises:
        InputError: a part is no tensor, and so could not differ between tasks.
    """
    if isinstance(tree, Tensor):
        return f(tree, *others)
    if isinstance(tree, dict):
        return {key: map_tensors(f, value, *(o[key] for o in others)) for key, value in tree.items()}
    if isinstance(tree, (tuple, list)):
        parts = [map_tensors(f, *twins) for twins in zip(tree, *others, strict=True)]
        return type(tree)(*parts) if hasattr(tree, "_fields") else type(tree)(parts)
    raise InputError(f"a task holds a {type(tree).__name__}; make it a tensor (torch.as_tensor)")


def tensors(tree: Any) -> list[Tensor]:
    """All tensors of a nested structure, in order."""
    found: list[Tensor] = []
    map_tensors(found.append, tree)
    return found


def in_bytes(t: Tensor) -> bytes:
    """Kind, shape and numbers of a tensor, equal for equal ones: for digests."""
    return f"{t.dtype}{list(t.shape)}".encode() + t.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes()


def onto(tree: Any, device: str | torch.device) -> Any:
    """The same on a device; itself where it is there already. The host does not wait for a GPU to have it.

    Raises:
        InputError: this machine has no such device.
    """

    def moved(t: Tensor, goal: torch.device) -> Tensor:
        if goal.type == "cuda" and t.device.type == "cpu":
            t = t.pin_memory()  # else the copy would begin when the GPU has done all that it was asked before
        return t.to(goal, non_blocking=goal.type != "cpu")

    try:
        goal = torch.device(device)
        return map_tensors(lambda t: moved(t, goal), tree)
    except (RuntimeError, AssertionError) as problem:
        raise InputError(f"device {device!r} cannot be used here ({str(problem).splitlines()[0]}); cpu would do") from problem


def count(tasks: Any) -> int:
    """How many tasks a batch stacks.

    Raises:
        InputError: its tensors stack different numbers.
    """
    numbers = {len(t) for t in tensors(tasks)}
    if len(numbers) > 1:
        raise InputError(f"a batch stacks {' and '.join(map(str, sorted(numbers)))} tasks; support and query must have as many")
    return numbers.pop()


def some(tasks: Any, first: int, last: int) -> Any:
    """The tasks from ``first`` up to ``last``, as views."""
    return map_tensors(lambda t: t[first:last], tasks)


def one(tasks: Any, index: int) -> Any:
    """A single task of a batch."""
    return map_tensors(lambda t: t[index], tasks)


def stack(tasks: Sequence[Any]) -> Any:
    """Single tasks of equal shapes as one batch."""
    return map_tensors(lambda *each: torch.stack(each), *tasks)


def join(batches: Sequence[Any]) -> Any:
    """Several batches as one."""
    return batches[0] if len(batches) == 1 else map_tensors(lambda *each: torch.cat(each), *batches)


def chunks(tasks: Any, size: int | None) -> list[Any]:
    """A batch in pieces of at most ``size`` tasks; whole where ``size`` is None."""
    n = count(tasks)
    if size is None or size >= n:
        return [tasks]
    return [some(tasks, k, k + size) for k in range(0, n, size)]
