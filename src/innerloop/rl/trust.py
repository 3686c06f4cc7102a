"""TRPO of a learner: its queries' surrogate goes down, while the policies after adaptation stay near what they were."""

import math
from collections.abc import Callable
from typing import Any

from torch import Tensor

from innerloop.batches import map_tensors
from innerloop.errors import InputError
from innerloop.learner import Learner, Task, over_tasks, query_loss
from innerloop.outer.trpo import TrustRegion
from innerloop.params import Params
from innerloop.rl.losses import mean_over_steps
from innerloop.rl.rollouts import Rollouts

ROWS = 20_000
"""Steps of rollouts above which the curvature is taken on a part of the trajectories alone."""
PART = 0.25


def trpo(learner: Learner, limit: float = 0.01, *, part: float | None = None, goal: Learner | None = None, **how: Any) -> TrustRegion:
    """θ ← argmin of the queries' surrogate, with mean KL(π_φ ‖ π_φ′) ≤ limit between the adapted policies before and after.

    Args:
        learner: of a policy, with the surrogate as its loss; any of its meta-parameters are moved.
        limit: of the KL, averaged over all steps of the queries' rollouts.
        part: of the trajectories that the curvature is taken on, above 0 to 1; by default all of
            them, or a quarter where there are more than 20,000 steps of them.
        goal: what adapts to a family's goal tasks, where the learner is ``maltml(…)``.
        how: further arguments of ``TrustRegion``.

    Raises:
        InputError: part is out of its range, or the learner is not of a policy.

    Source: Schulman et al. 2015, arXiv:1502.05477; Finn et al. 2017, arXiv:1703.03400, §5.3.
    """
    if (goal or learner).model is None:
        raise InputError("the learner has no model to act with; build it from a policy, and give maltml's base as goal")
    if part is not None and not 0 < part <= 1:
        raise InputError(f"part is {part}; give a part of the trajectories above 0, or 1 for all of them")
    of_task = _of_family(learner, goal) if goal else _of_task(learner)

    def judge(params: Params, tasks: Task) -> tuple[Tensor, Any]:
        losses, policies = over_tasks(of_task, params, tasks)
        return losses.mean(), policies

    def divergence(old: Any, new: Any, tasks: Task) -> Tensor:
        return mean_over_steps(old.kl(new), _asked(tasks).alive)

    def fewer(tasks: Task) -> Task:
        asked = _asked(tasks).alive
        share, axis = part or (PART if asked.numel() > ROWS else 1.0), asked.ndim - 2  # […, trajectories, time]
        return tasks if share == 1 else map_tensors(lambda t: t.narrow(axis, 0, math.ceil(share * t.shape[axis])), tasks)

    return TrustRegion(judge, divergence, limit, fewer=fewer, **how)


def _asked(tasks: Task) -> Rollouts:
    """The rollouts that are asked for in the end."""
    return _asked(tasks.query) if isinstance(tasks.query, Task) else tasks.query


def _of_task(learner: Learner) -> Callable[[Params, Task], tuple[Tensor, Any]]:
    def judged(params: Params, task: Task) -> tuple[Tensor, Any]:
        path = learner.adapt(params, task.support)
        assert learner.model is not None
        return query_loss(learner, path, task.query), learner.model(path[-1], task.query.observations)

    return judged


def _of_family(learner: Learner, goal: Learner) -> Callable[[Params, Task], tuple[Tensor, Any]]:
    def judged(params: Params, family: Task) -> tuple[Tensor, Any]:
        losses, policies = over_tasks(_of_task(goal), learner.adapt(params, family.support)[-1], family.query)
        return losses.mean(), policies

    return judged
