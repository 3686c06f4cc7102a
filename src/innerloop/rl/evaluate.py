"""Returns of every task before and after each step of adaptation."""

from hashlib import blake2b

import torch

from innerloop.batches import onto
from innerloop.errors import at_least_one
from innerloop.evaluate import Scores
from innerloop.learner import Learner
from innerloop.progress import bar
from innerloop.rl.families import FamilyExperience
from innerloop.rl.rollouts import Experience, total
from innerloop.rl.worlds import Told
from innerloop.tasks import check_split, named_source


def evaluate_policy(
    learner: Learner,
    experience: Experience | FamilyExperience,
    steps: int | None = None,
    n_tasks: int = 40,
    *,
    split: str = "test",
    together: int = 20,
    device: str = "cpu",
    progress: bool = False,
) -> Scores:
    """Mean undiscounted return of the rollouts gathered after 0, 1, … steps of adaptation, for every task.

    Those after k steps are what step k + 1 learns from, so no rollouts are drawn but what adaptation takes; the query's
    come after the last one. Rollouts of steps that only prepare are not listed.

    Args:
        learner: of a policy; adapts from its prior.
        experience: world, rollouts of each step, returns.
        steps: how far to go, by default as many as the learner takes; its last step is repeated where more are wanted.
        n_tasks: tasks 0 … n_tasks − 1 of the split.
        split: ``test``, ``val`` or ``train``.
        together: tasks that are rolled out side by side.
        device: such as ``cpu`` or ``cuda``.
        progress: show a bar.

    Returns:
        Scores ``[tasks, steps + 1]``, more is better; of families ``[families · goals, steps + 1]``.

    Raises:
        InputError: no such split, no tasks are asked for, or the world gives NaN.
        Diverged: adaptation made parameters NaN or infinite.

    >>> from innerloop.methods import maml
    >>> from innerloop.rl import Navigation, gaussian_mlp, score
    >>> policy = gaussian_mlp(2, 8, 2)
    >>> learner = maml(policy, score(policy), steps=1, rate=0.1)
    >>> evaluate_policy(learner, Experience(Navigation(horizon=5), 4), steps=3, n_tasks=3).values.shape
    torch.Size([3, 4])

    Source: Finn et al. 2017, arXiv:1703.03400, §5.3.
    """
    check_split(split)
    at_least_one(n_tasks=n_tasks, together=together)
    if steps is not None:
        learner, experience = experience.going(learner, steps)
    prior, world, values = onto(learner.prior, device), experience.world, []
    with bar("scoring", n_tasks, show=progress) as shown:
        for first in range(0, n_tasks, together):
            tasks = experience.gather(learner, prior, split, first, min(together, n_tasks - first))
            values.append(torch.stack([total(rollouts) for rollouts in experience.points(learner, tasks)], 1).cpu())
            shown.to(min(first + together, n_tasks))
    while isinstance(world, Told):  # what an oracle is told is no part of the task
        world = world.world
    digest = blake2b(named_source(world).encode(), digest_size=8)
    digest.update(experience.asked(split, 0, n_tasks).cpu().numpy().tobytes())
    return Scores(torch.cat(values), f"{n_tasks} of {split!r}, {digest.hexdigest()}")
