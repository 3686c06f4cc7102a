"""What the experiments of few-task few-shot learning share: settings, and a trial that is scored on goals of families."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

from innerloop.experiments.experiment import Settings, Trial
from innerloop.learner import Learner
from innerloop.methods import maltml, meta_finetuned
from innerloop.params import Params, Patterns
from innerloop.steps import Rate
from innerloop.tasks import Source

Build = Callable[[int, float], Learner]
"""Steps and an inner rate → the learner that adapts to one task."""

AFTER, WITHOUT = "after the meta-update", "without it"
"""The same goal tasks, scored with and without a meta-update of the prior on their family's related tasks."""

SOURCE = "Devos & Dandi 2020, Model-Agnostic Learning to Meta-Learn, "


@dataclass(frozen=True)
class FewTask(Settings):
    """Options of few-task few-shot learning."""

    related: int = 5
    """related tasks of a family"""
    goals: int = 2
    """goal tasks of a family"""
    meta_steps: int = 1
    """steps on the related tasks while training"""
    meta_rate: float = 0.01
    """β, on the sum over related tasks"""
    test_related: int = 5
    """related tasks of a family that is scored"""
    test_meta_steps: int = 1
    """steps on them"""
    test_meta_rate: float = 0.01
    """β of these"""


def few_task(
    settings: FewTask,
    learner: Learner,
    tasks: Source,
    build: Build,
    asked: Source,
    steps: int,
    rate: float,
    only: Patterns = "net",
    goal: Build | None = None,
    meta_rate: Rate | None = None,
) -> Trial:
    """A trial of what is trained on ``tasks``.

    Args:
        build: adapts to a related task and to a goal.
        asked: goals that are scored, such as ``Goals(…)``.
        steps, rate: of the adaptation to a related task, and the rate to a goal.
        only: patterns of the names that move in meta-steps.
        goal: adapts to a goal, where that is another learner.
        meta_rate: β where it is learned, in the place of the settings'.
    """

    def scored(prior: Params, rate: float, meta_steps: int = settings.test_meta_steps) -> Learner:
        own, its = (replace(made(steps, rate), prior=prior) for made in (build, goal or build))
        built = meta_finetuned(maltml(own, meta_steps, meta_rate or settings.test_meta_rate, only=only), its)
        return built.taking(max(settings.test_steps, 1)) if own.steps else built

    return Trial(
        learner=learner,
        tasks=tasks,
        cases={AFTER: asked, WITHOUT: asked},
        scored=scored,
        by_case={WITHOUT: partial(scored, meta_steps=0)},
        rates=(rate,),
    )
