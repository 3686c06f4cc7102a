"""A function of every task of a source, with derivatives where it takes them itself."""

import time
from collections.abc import Callable

import torch
from torch import Tensor

from innerloop.batches import count, one, onto, some
from innerloop.errors import at_least_one
from innerloop.learner import Task, over_tasks
from innerloop.params import Params
from innerloop.tasks import Source, most_together, on

SOON = 2.0
"""Seconds: tasks that take no longer one by one are done at once, and hold no more memory than there is."""


def of_each(f: Callable[[Params, Task], Tensor], prior: Params, tasks: Source, n: int, split: str, device: str) -> Tensor:
    """``f(prior, task)`` of tasks 0 … n − 1 of a split, stacked.

    Raises:
        InputError: there are no tasks.
    """
    at_least_one(n_tasks=n)
    there, here = on(tasks, device), onto(prior, device)
    size, parts = most_together(there) or n, []
    with torch.no_grad():
        for first in range(0, n, size):
            drawn = onto(there.draw(split, first, min(size, n - first)), device)
            started, m = time.perf_counter(), count(drawn)
            parts.append(f(here, one(drawn, 0))[None])
            if m > 1 and (m - 1) * (time.perf_counter() - started) < SOON:
                parts.append(over_tasks(f, here, some(drawn, 1, m)))
            else:
                parts += [f(here, one(drawn, k))[None] for k in range(1, m)]
    return torch.cat(parts)
