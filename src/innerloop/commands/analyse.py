"""``innerloop analyse``: what the papers measure of a trained prior beside its score."""

from dataclasses import dataclass, replace
from pathlib import Path

from tyro.conf import Positional

from innerloop import experiments
from innerloop.errors import InputError
from innerloop.experiments.kept import trial_of
from innerloop.tasks import check_split


@dataclass(frozen=True)
class Analyse:
    """Conflict between tasks, what they keep of a trained prior, and attenuation by hand; figures go into the run's folder."""

    run: Positional[Path]
    """the run's folder"""
    group: int = 10
    """training tasks whose conflict is measured, and examples of each task"""
    tasks: int = 50
    """tasks of the first case that are scored for each factor, and whose factors are looked at"""
    factors: int = 6
    """factors from 0 to 1 that each layer of weights is attenuated by"""
    split: str = "test"
    """test, val or train: of these tasks"""
    only: tuple[str, ...] = ("net",)
    """patterns of the names that are looked at"""
    device: str = "cpu"
    """cpu, cuda, …"""


def analyse_(given: Analyse) -> None:
    from innerloop import analysis, gallery

    if given.factors < 2:
        raise InputError(f"factors is {given.factors}; give 2 or more, from 0 to 1")
    check_split(given.split)
    trial, about = trial_of(given.run)
    if not hasattr(trial.tasks, "draw"):
        raise InputError(
            f"{given.run} is of policies, whose tasks are rollouts of their own; conflict and attenuation are of tasks with data"
        )
    experiment, learner = experiments.catalogue()[about["experiment"]], experiments.load(given.run)
    case, tasks = next(iter(trial.cases.items()))
    found = analysis.measure(
        learner,
        tasks,
        trained=replace(trial.learner, prior=learner.prior) if learner.prior.keys() == trial.learner.prior.keys() else None,
        trained_on=trial.tasks,
        group=given.group,
        n_tasks=given.tasks,
        factors=given.factors,
        split=given.split,
        only=list(given.only),
        metric=experiment.metric.of,
        higher=experiment.metric.higher,
        device=given.device,
        progress=True,
    )
    print(found)
    print(
        f"{experiment.name}, {case}. Degree of conflict, in radians, between {given.group} training tasks and within them between "
        f"{given.group} examples; part of the prior that {given.tasks} {given.split} tasks keep, median and range; the factor that is "
        f"best for this tensor alone, and the {experiment.metric.name} there, at 0 and at 1."
    )
    print(f"{given.run}/ has " + ", ".join(gallery.of_measures(given.run, found, experiment)))
