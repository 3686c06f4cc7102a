"""Returns of every task before and after each step of adaptation."""

from hashlib import blake2b

import torch

from innerloop.batches import onto
from innerloop.errors import at_least_one
from innerloop.evaluate import Scores
from innerloop.learner import Learner
from innerloop.progress import bar
from innerloop.rl.families import FamilyExperience
from innerloop.rl.rollouts import Experience, check_experience, total
from innerloop.rl.worlds import without_telling
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
        Scores ``[tasks, steps + 1]``, more is better; of families ``[families, steps + 1]``, each the mean over its goals, which are
        alike, so that an interval over goals would be too narrow.

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
    check_experience(experience)
    at_least_one(n_tasks=n_tasks, together=together)
    if steps is not None:
        learner, experience = experience.going(learner, steps)
    prior, values = onto(learner.prior, device), []
    with bar("scoring", n_tasks, show=progress) as shown:
        for first in range(0, n_tasks, together):
            n = min(together, n_tasks - first)
            met = experience.points(learner, experience.gather(learner, prior, split, first, n))
            each = [total(rollouts).reshape(n, -1).mean(1) for rollouts in met]
            values.append(torch.stack(each, 1).cpu())
            shown.to(min(first + together, n_tasks))
    digest = blake2b(named_source(without_telling(experience.world)).encode(), digest_size=8)
    digest.update(experience.asked(split, 0, n_tasks).cpu().numpy().tobytes())
    return Scores(torch.cat(values), f"{n_tasks} of {split!r}, {digest.hexdigest()}")
