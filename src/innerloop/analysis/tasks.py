"""A function of every task of a source, with derivatives where it takes them itself."""

from collections.abc import Callable

import torch
from torch import Tensor

from innerloop.batches import onto
from innerloop.errors import InputError
from innerloop.learner import Task, over_tasks
from innerloop.params import Params
from innerloop.tasks import Source, most_together, on


def of_each(f: Callable[[Params, Task], Tensor], prior: Params, tasks: Source, n: int, split: str, device: str) -> Tensor:
    """``f(prior, task)`` of tasks 0 … n − 1 of a split, stacked: all at once where they are of one shape.

    Raises:
        InputError: there are no tasks.
    """
    if n < 1:
        raise InputError(f"n_tasks is {n}; give 1 or more")
    there, here = on(tasks, device), onto(prior, device)
    size = most_together(there) or n
    with torch.no_grad():
        parts = [over_tasks(f, here, onto(there.draw(split, k, min(size, n - k)), device)) for k in range(0, n, size)]
    return torch.cat(parts)
