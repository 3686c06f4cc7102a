"""A run's folder: its files, what was run, the prior, and the learner that adapts from it."""

from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

from innerloop import checkpoint
from innerloop.errors import InputError, nearest
from innerloop.evaluate import trained_prior
from innerloop.experiments.experiment import Trial, plain
from innerloop.learner import Learner
from innerloop.outer import Row
from innerloop.params import Params

RUN, RESULT, SCORES = "run.json", "result.json", "scores.safetensors"


def seeds_of(folder: Path) -> list[Path]:
    """The runs in an experiment's folder, one a seed; the folder itself where it is a run's."""
    return sorted(folder.glob("seed*")) or [folder]


def load(folder: str | Path, learner: Learner | None = None, case: str | None = None, shots: int | None = None) -> Learner:
    """A trained learner from the folder of its run, ready to adapt.

    Args:
        folder: what ``innerloop run`` or ``train(out=…)`` wrote.
        learner: what was trained, where it was no listed experiment.
        case: which case's inner rate to take, where it was chosen for each; the first by default.
        shots: examples of each class that it will adapt to, where they are not as many as in training: MAML's loss on images
            is a sum divided by them, so that the same inner rate would be too long a step for more.

    Raises:
        InputError: there is no run, it is damaged, or of another learner.
    """
    if learner is not None:
        return trained_prior(learner, folder)
    trial, about = trial_of(folder, otherwise="give load the learner too", shots=shots)
    prior = prior_of(folder, trial)
    result = Path(folder) / RESULT
    cases = checkpoint.read_json(result).get("cases", {}) if result.exists() else {}
    if case is not None and case not in cases:
        raise InputError(f"the run in {folder} has no case {case!r}; it has {', '.join(cases) or 'none yet'}")
    chosen = case or next(iter(cases), "")
    rate = cases[chosen]["rate"] if cases else trial.rates[0]
    built = trial.by_case.get(chosen, trial.scored)(prior, rate)
    return trial.taking(built, about["settings"]["test_steps"]) if adapts(built) else built


def adapts(learner: Learner) -> bool:
    """Whether the learner has steps beyond those that prepare, so that scores can be listed by step."""
    return len(learner.steps) > learner.prepared


def trial_of(folder: str | Path, otherwise: str = "check its name", shots: int | None = None) -> tuple[Trial, Row]:
    """The trial that a folder's run was of, and what ``run.json`` says of it; of so many shots, where its experiment knows of any.

    Raises:
        InputError: there is no run, and ``otherwise`` is what would do; or it is damaged.
    """
    from innerloop.experiments.catalogue import find

    path = Path(folder) / RUN
    if not path.is_file():
        if seeds := [str(seed) for seed in seeds_of(Path(folder)) if (seed / RUN).is_file()]:
            raise InputError(f"{folder} holds a folder for each seed; give the run of one: {', '.join(seeds)}")
        raise InputError(f"{folder} holds no run of a listed experiment: there is no {RUN}; {otherwise}")
    about = about_run(Path(folder))
    [experiment] = find(str(about.get("experiment")))
    given, kinds = {k: plain(v) for k, v in about["settings"].items()}, get_type_hints(type(experiment.settings))
    for name, value in given.items():
        if name not in kinds:
            raise InputError(f"{path} has a setting {name!r} that {experiment.name} has not; {nearest(name, kinds)}")
        if not _is_of(value, kinds[name]):
            usual = getattr(experiment.settings, name)
            raise InputError(f"{path} is damaged ({name} is {value!r}, not such as {usual!r}); copy it again, or start the run anew")
    settings: Any = replace(experiment.settings, **given)
    if shots is not None and hasattr(settings, "shots"):
        settings = replace(settings, shots=shots)
    return experiment.build(settings), about


def _is_of(value: Any, kind: Any) -> bool:
    """Whether a value of JSON is of a setting's kind: bool, int, float, str, a tuple of one of these, or a choice."""
    parts = get_args(kind)
    if get_origin(kind) is Literal:
        return value in parts
    if parts:
        return isinstance(value, tuple) and all(_is_of(part, parts[0]) for part in value)
    return type(value) in ((int, float) if kind is float else (kind,))


def prior_of(folder: str | Path, trial: Trial) -> Params:
    """The prior that a run left in its folder, once it is known to be of the trial's network.

    Raises:
        InputError: it is not there yet, missing, damaged, or of another network.
    """
    return checkpoint.read_prior(Path(folder), trial.finish(trial.learner.prior), going_on="innerloop run … --resume")[0]


def about_run(folder: Path) -> Row:
    """What ``run.json`` says, once it is known to have settings."""
    about = checkpoint.read_json(folder / RUN)
    if not isinstance(about.get("settings"), dict):
        raise InputError(f"{folder / RUN} is damaged (it has no settings); copy it again, or start the run anew with --overwrite")
    return about
