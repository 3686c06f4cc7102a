"""``innerloop evaluate``: score a trained run again."""

from dataclasses import dataclass
from pathlib import Path

from tyro.conf import Positional

from innerloop import experiments
from innerloop.commands.words import out
from innerloop.experiments.kept import RESULT, adapts, trial_of
from innerloop.tasks import check_split


@dataclass(frozen=True)
class Evaluate:
    """Score a trained run again, on other tasks or for more steps."""

    run: Positional[Path]
    """the run's folder"""
    steps: int | None = None
    """steps of adaptation; as many as the run scored by default"""
    tasks: int = 600
    """number of tasks"""
    split: str = "test"
    """test, val or train"""
    device: str = "cpu"
    """cpu, cuda, …"""
    progress: bool = True
    """show a bar"""


def evaluate_(given: Evaluate) -> None:
    check_split(given.split)
    trial, about = trial_of(given.run)
    metric = experiments.catalogue()[about["experiment"]].metric
    wanted = about["settings"]["test_steps"] if given.steps is None else given.steps
    how = {"split": given.split, "metric": metric.of, "device": given.device, "progress": given.progress}
    for case, tasks in trial.cases.items():
        learner = experiments.load(given.run, case=case if (given.run / RESULT).exists() else None)
        scores = trial.scores(learner, tasks, wanted if adapts(learner) else 0, given.tasks, **how)
        out.print(f"{case}, {given.split} tasks, {metric.name}")
        print(scores)
