"""TRPO of a learner: its queries' surrogate goes down, while the policies after adaptation stay near what they were."""

import math
from collections.abc import Callable
from typing import Any

from torch import Tensor

from innerloop.batches import map_tensors
from innerloop.errors import InputError
from innerloop.learner import Learner, Task, over_tasks
from innerloop.outer.trpo import TrustRegion
from innerloop.params import Params
from innerloop.rl.losses import mean_over_steps

ROWS = 20_000
"""Steps of rollouts above which the curvature is taken on a part of the trajectories alone."""
PART = 0.25


def trpo(learner: Learner, limit: float = 0.01, *, part: float | None = None, **how: Any) -> TrustRegion:
    """θ ← argmin of the queries' surrogate, with mean KL(π_φ ‖ π_φ′) ≤ limit between the adapted policies before and after.

    Args:
        learner: of a policy, with the surrogate as its loss; any of its meta-parameters are moved.
        limit: of the KL, averaged over all steps of the queries' rollouts.
        part: of the trajectories that the curvature is taken on, above 0 to 1; by default all of
            them, or a quarter where there are more than 20,000 steps of them.
        how: further arguments of ``TrustRegion``.

    Raises:
        InputError: part is out of its range, or the learner is not of a policy.

    Source: Schulman et al. 2015, arXiv:1502.05477; Finn et al. 2017, arXiv:1703.03400, §5.3.
    """
    if learner.model is None:
        raise InputError("the learner has no model to act with; build it from a policy")
    if part is not None and not 0 < part <= 1:
        raise InputError(f"part is {part}; give a part of the trajectories above 0, or 1 for all of them")

    def judge(params: Params, tasks: Task) -> tuple[Tensor, Any]:
        losses, policies = over_tasks(_judged(learner), params, tasks)
        return losses.mean(), policies

    def divergence(old: Any, new: Any, tasks: Task) -> Tensor:
        return mean_over_steps(old.kl(new), tasks.query.alive)

    def fewer(tasks: Task) -> Task:
        rows = tasks.query.alive.numel()
        share = part or (PART if rows > ROWS else 1.0)
        return tasks if share == 1 else map_tensors(lambda t: t[:, : math.ceil(share * t.shape[1])], tasks)

    return TrustRegion(judge, divergence, limit, fewer=fewer, **how)


def _judged(learner: Learner) -> Callable[[Params, Task], tuple[Tensor, Any]]:
    def one(params: Params, task: Task) -> tuple[Tensor, Any]:
        end = learner.adapt(params, task.support)[-1]
        assert learner.model is not None
        return learner.loss(end, task.query), learner.model(end, task.query.observations)

    return one
