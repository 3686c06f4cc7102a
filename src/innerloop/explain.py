"""Why something cannot be computed: network, loss and tasks that do not fit, or numbers that are none."""

from collections.abc import Iterator, Sequence
from typing import Any

import torch

from innerloop.batches import count, one, tensors
from innerloop.device import device_of, undrawn
from innerloop.errors import Diverged, InputError
from innerloop.learner import Learner, Task, task_loss
from innerloop.params import Params, finite


def try_one(learner: Learner, params: Params, batch: Task) -> None:
    """Run one task in the open, so that a mistake in it shows its own message and not the compiler's.

    Raises:
        InputError: network, loss and task do not fit each other.
    """
    for name, p in params.items():
        if not p.isfinite().all():
            raise InputError(f"the prior's {name} holds NaN or infinity; start from a fresh network")
    task = one(batch, 0)
    for part, content in task._asdict().items():
        if (parts := tensors(content)) and not any(t.numel() for t in parts) and (part == "query" or learner.steps):
            raise InputError(f"the {part} of a task has no examples (tensors of shapes {_shapes(content)}); give one or more")
    try:
        with torch.no_grad(), undrawn(device_of(params)):
            task_loss(learner)(params, task)
    except InputError:
        raise
    except (RuntimeError, TypeError, IndexError, KeyError, AttributeError, ValueError) as problem:
        first, *rest = (line.strip() for line in str(problem).strip().splitlines() or [type(problem).__name__])
        line = f"{first} {rest[0]}" if first.endswith(":") and rest else first
        would_do = "see that they fit network and loss"
        if "mutate a captured Tensor" in line:
            would_do = "the network writes into a tensor of its own as it runs, which all tasks share; call net.eval(), or leave that out"
        raise InputError(f"the loss of a task with tensors of shapes {_shapes(task)} cannot be computed: {line}; {would_do}") from problem


def _shapes(tree: Any) -> str:
    return ", ".join(str(list(t.shape)) for t in tensors(tree))


def diverged(learner: Learner, params: Params, pieces: Sequence[Task], iteration: int, number: int) -> Exception:
    """Why the loss of a meta-batch is not a number: the data, or which task after which step."""
    if not finite(params):
        return Diverged(f"iteration {iteration}: the prior itself is NaN or infinite; lower the outer rate")
    every: Iterator[Task] = (one(piece, k) for piece in pieces for k in range(count(piece)))
    for k, task in enumerate(every):
        where = f"iteration {iteration}: task {number + k} of 'train'"
        for part, content in task._asdict().items():
            if not all(t.isfinite().all() for t in tensors(content)):
                return InputError(f"{where} holds NaN or infinity in its {part}; clean the data or leave the task out")
        with torch.no_grad():
            path = learner.adapt(params, task.support)
            for step, moved in enumerate(path):
                if not finite(moved):
                    return Diverged(f"{where} has NaN or infinite parameters after step {step}; lower the inner rate")
            if not learner.loss(path[-1], task.query).isfinite():
                return Diverged(f"{where} has a NaN or infinite loss after step {len(path) - 1}; lower the inner or the outer rate")
    return Diverged(f"iteration {iteration}: the mean loss of the tasks from {number} on is NaN or infinite; lower the outer rate")
