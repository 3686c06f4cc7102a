"""A function of every task, when no meta-gradient is wanted: scores and validation."""

import time
from collections.abc import Callable

import torch
from torch import Tensor

from innerloop.batches import count, one, some
from innerloop.device import device_of, finish, undrawn
from innerloop.engine.memory import keep_freed_memory
from innerloop.learner import Task, over_tasks
from innerloop.params import Params

MOMENT, SPELL, FEWEST, MOST = 0.2, 2.0, 8, 100
"""Seconds and tasks: together go as many as take a moment one by one, 8 at least if these take no more than a spell, 100 at most."""


def each_task(
    f: Callable[[Params, Task], Tensor], params: Params, draw: Callable[[int, int], Task], n: int, chunk: int | None = None
) -> Tensor:
    """``f(params, task)`` of tasks 0 … n − 1, stacked and on the host.

    Tasks are drawn in chunks, so memory does not grow with their number. A chunk is done at once
    by ``vmap``, or task by task where the first chunk shows that to be faster, or ``vmap`` has no rule for it.

    Args:
        draw: ``(first, count) → tasks``, is asked for each task once, in order.
        chunk: tasks that are in memory together, chosen by the time of the first one where None.
    """
    keep_freed_memory()

    def looped(tasks: Task) -> Tensor:
        return torch.stack([f(params, one(tasks, k)) for k in range(count(tasks))])

    def together(tasks: Task) -> Tensor:
        return over_tasks(f, params, tasks)

    with torch.no_grad():
        tasks = draw(0, min(chunk or 1, n))
        with undrawn(device_of(params)):  # these calls only show what a task takes
            alone, _ = _timed(looped, some(tasks, 0, 1))
            if alone < SPELL:  # the first call takes longer
                alone, _ = _timed(looped, some(tasks, 0, 1))
        size = chunk or max(1, min(MOST, max(int(MOMENT / alone), min(FEWEST, int(SPELL / alone)))))
        way, parts, done = together if size > 1 else looped, [], 0
        while True:
            try:
                taken, found = _timed(way, tasks)
            except RuntimeError:
                if way is looped:
                    raise
                way = looped
                taken, found = _timed(way, tasks)
            parts.append(found.cpu())
            done += count(tasks)
            if done >= n:
                break
            if way is together and count(tasks) > 1 and taken > alone * count(tasks):
                way = looped
            tasks = draw(done, min(size, n - done))
    return torch.cat(parts)


def _timed(f: Callable[[Task], Tensor], tasks: Task) -> tuple[float, Tensor]:
    start = time.perf_counter()
    found = f(tasks)
    finish(found.device)
    return time.perf_counter() - start, found
