"""The idea: adaptation is a fold of pure steps, and a learner over tasks is again a loss."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from torch import Tensor
from torch.func import vmap

from innerloop.errors import InputError, whole
from innerloop.params import Params

Batch = Any  # what a loss understands: (x, y) for the supervised ones
Loss = Callable[[Params, Batch], Tensor]  # one task's batch → a scalar
Step = Callable[[Params, Batch], Params]  # the same names or more, never in place


class Task(NamedTuple):
    """What a task shows and what it asks; stacked tensors make a batch of tasks.

    A *list* as support holds one batch for every step, in the order of the steps.
    """

    support: Batch | list[Batch]
    query: Batch


@dataclass(frozen=True)
class Learner:
    """A prior, and how it becomes a task's own parameters: φ₀ = prior, φₖ₊₁ = stepₖ(φₖ, support).

    Args:
        prior: all that the outer loop trains.
        steps: what adaptation does, in order.
        loss: judges adapted parameters on the query.
        model: ``(params, x) → prediction``, where the learner is one of a network.
        prepared: how many of the first steps only prepare; those after them are counted as
            *the* steps wherever results are listed by step.
        weights: of the query loss at the last points of the path, here at its end alone;
            ``(1 / K,) * K`` is MAML++'s multi-step loss of K steps.
    """

    prior: Params
    steps: tuple[Step, ...]
    loss: Loss
    model: Callable[[Params, Any], Any] | None = None
    prepared: int = 0
    weights: Sequence[float] = (1.0,)

    def __post_init__(self) -> None:
        points = len(self.steps) - self.prepared + 1
        if not 1 <= len(self.weights) <= points:
            raise InputError(f"{len(self.weights)} weights for a path of {points} points; give one for each of the last points")

    def adapt(self, params: Params, support: Batch | list[Batch]) -> list[Params]:
        """The whole path: ``params``, then the parameters after each step."""
        batches = support if isinstance(support, list) else [support] * len(self.steps)
        if len(batches) != len(self.steps):
            raise InputError(
                f"the learner takes {len(self.steps)} steps but support lists {len(batches)} batches; "
                "give one batch per step, or one alone for all of them, such as a tuple (x, y)"
            )
        path = [params]
        for step, batch in zip(self.steps, batches, strict=True):
            path.append(step(path[-1], batch))
        return path

    def taking(self, steps: int) -> "Learner":
        """The same learner with so many steps after preparation: cut, or its last step repeated."""
        wanted = self.prepared + steps
        if steps < 0 or (wanted > len(self.steps) == self.prepared):
            raise InputError(f"cannot take {steps} steps with a learner of {len(self.steps) - self.prepared}; 0 would do")
        whole(steps=steps)
        return replace(self, steps=(self.steps + self.steps[-1:] * steps)[:wanted], weights=self.weights[-steps - 1 :])


def task_loss(learner: Learner) -> Loss:
    """Loss of one ``Task``: that on the query, at the points of the path that the learner weighs."""

    def loss(params: Params, task: Task) -> Tensor:
        return query_loss(learner, learner.adapt(params, task.support), task.query)

    return loss


def query_loss(learner: Learner, path: list[Params], query: Batch) -> Tensor:
    """Loss on a task's query, at the points of its path that the learner weighs."""
    points = path[-len(learner.weights) :]
    losses = [w * learner.loss(p, query) for w, p in zip(learner.weights, points, strict=True)]
    if losses[0].ndim:
        raise InputError(f"the loss of one task must be a scalar, not of shape {list(losses[0].shape)}; reduce it to its mean")
    return sum(losses[1:], losses[0])


def over_tasks(f: Callable[[Params, Any], Any], params: Params, tasks: Any) -> Any:
    """``f(params, task)`` for every task of a batch at once, stacked."""
    return vmap(f, in_dims=(None, 0), randomness="different")(params, tasks)


def meta_loss(learner: Learner) -> Loss:
    """Loss of a batch of tasks: the mean of ``task_loss``; again a ``Loss``, so a step may descend it."""
    return lambda params, tasks: over_tasks(task_loss(learner), params, tasks).mean()
