"""Running an experiment: train, choose the rate, score, write the result line."""

import json
import time
from collections.abc import Iterable
from dataclasses import asdict, replace
from math import isfinite
from pathlib import Path

from innerloop import checkpoint
from innerloop.checkpoint import PRIOR
from innerloop.environment import environment, peak_memory_mb
from innerloop.errors import InputError
from innerloop.evaluate import Scores, tune
from innerloop.experiments.experiment import Budget, Experiment, Metric, Options, Trial, plain
from innerloop.experiments.kept import RESULT, RUN, SCORES, about_run, adapts
from innerloop.learner import Learner
from innerloop.outer import CHECKPOINT, Row
from innerloop.params import Params
from innerloop.progress import bar


def folder_of(experiment: Experiment, settings: Budget, options: Options) -> Path:
    """Where a run is kept."""
    return options.out / experiment.name / f"seed{settings.seed}"


HELD = "go on with --resume, start anew with --overwrite, or choose another --out"
"""What to do about a folder that holds a run."""


def run(experiment: Experiment, settings: Budget, options: Options) -> Row:
    """Train, score and write everything into the run's folder; the result line is returned.

    Raises:
        InputError: there is a run already, or none to resume; the folder is not writable;
            a setting cannot be used.
    """
    if options.quick:
        settings = settings.quick()
    if experiment.watch and not options.watch:
        options = replace(options, watch=experiment.watch)
    if options.engine == "auto":
        options = replace(options, engine=experiment.engine)
    if settings.test_tasks < 1 or settings.test_steps < 0:
        raise InputError(
            f"test_tasks is {settings.test_tasks} and test_steps {settings.test_steps}; score at least 1 task, after 0 steps or more"
        )
    trial = experiment.build(settings)
    folder = folder_of(experiment, settings, options)
    about = {"experiment": experiment.name, "settings": asdict(settings), "quick": options.quick}
    if not trial.cases:
        raise InputError("there is no case to score; name at least one, as with --test-shots 5")
    if options.resume and options.overwrite:
        raise InputError("resume goes on with a run and overwrite starts it anew; give one of the two")
    if options.watch < 0:
        raise InputError(f"watch is {options.watch}; give the iterations between measurements, or 0 for none")
    if (folder / RUN).exists() and not options.overwrite:
        if not options.resume:
            raise InputError(f"{folder} holds a run already; {HELD}")
        before = about_run(folder)["settings"]
        if changed := [k for k, v in before.items() if k != "iterations" and about["settings"].get(k) != plain(v)]:
            raise InputError(f"{folder} was run with {changed[0]} {before[changed[0]]}; resume it with the same")
    elif options.resume:
        raise InputError(f"there is no run to resume in {folder}; leave --resume out to start one")
    _see_tests(trial)
    trained, rows = _trained(trial, settings, options, folder, about)
    started = time.perf_counter()
    prior = trial.finish(trained.prior)
    checkpoint.save(folder / PRIOR, prior, about)
    cases, scores = _scored(trial, prior, settings, options, experiment.metric)
    engine, *later = (row for row in rows if "engine" in row)
    lacking = experiment.lacking(asdict(settings))
    result = {
        **about,
        "source": experiment.source,
        "follows": experiment.follows,
        "metric": experiment.metric.name,
        **({"lacking": lacking} if lacking else {}),
        "claims": {} if lacking else {case: dict(claim) for case, claim in experiment.claimed(asdict(settings)).items()},
        "cases": cases,
        "engine": _engine(engine) | ({"later": [_engine(row) for row in later]} if later else {}),  # a phase has its own
        **({"part": rows[-1]["part"]} if "part" in rows[-1] else {}),  # of the rollouts, that a trust region's curvature was taken on
        "seconds": round(rows[-1]["seconds"] + time.perf_counter() - started, 1),
        "peak_memory_mb": peak_memory_mb(),
        **environment(options.device),
    }
    checkpoint.save(folder / SCORES, {case: s.values for case, s in scores.items()}, {case: s.tasks for case, s in scores.items()})
    checkpoint.write_whole(folder / RESULT, json.dumps(result) + "\n")
    return result


def _see_tests(trial: Trial) -> None:
    """Refuse before the training what could not be scored after it."""
    if not hasattr(trial.tasks, "draw"):
        return  # rollouts are made, not drawn
    trial.tasks.draw("train", 0, 1)
    for case, tasks in trial.cases.items():
        try:
            tasks.draw("test", 0, 1)
        except InputError as problem:
            raise InputError(f"of the tasks to score ({case}): {problem}") from problem


def _engine(row: Row) -> Row:
    return {"plan": row["engine"], "seconds": row["measured"], "from_iteration": row["iteration"]}


def _trained(trial: Trial, settings: Budget, options: Options, folder: Path, about: Row) -> tuple[Learner, list[Row]]:
    rows: list[Row] = []

    def started(row: Row) -> None:
        # Only with the first line of metrics is it known that the data and settings can be used.
        if not rows:
            _begin(folder, about, options.resume)
        rows.append(row)

    made = [f for f in (folder, *folder.parents) if not f.exists()]
    try:
        checkpoint.writable(folder)
        trained = trial.trained(settings, options, folder, started)
    except InputError:
        for empty in made:  # folders of a run that never began
            if empty.is_dir() and not any(empty.iterdir()):
                empty.rmdir()
        raise
    return trained, rows


def _begin(folder: Path, about: Row, resume: bool) -> None:
    """Say what the folder is of; what an earlier run left there goes."""
    for stale in (PRIOR, SCORES, RESULT, *(() if resume else (CHECKPOINT,))):
        (folder / stale).unlink(missing_ok=True)
    for figure in folder.glob("*.png"):
        figure.unlink()
    checkpoint.write_whole(folder / RUN, json.dumps(about, indent=1) + "\n")


def _scored(trial: Trial, prior: Params, settings: Budget, options: Options, metric: Metric) -> tuple[Row, dict[str, Scores]]:
    cases, scores = {}, {}
    with bar("scoring", len(trial.cases), show=options.progress) as shown:
        for done, (case, tasks) in enumerate(trial.cases.items(), 1):
            rate, tried, scored = trial.rates[0], {}, trial.by_case.get(case, trial.scored)
            if len(trial.rates) > 1 and settings.test_steps:
                build = lambda r, scored=scored: scored(prior, r)  # noqa: E731
                among = (settings.test_steps, settings.test_tasks, options.device, metric.of, metric.higher)
                rate, tried = tune(build, trial.rates, tasks, *among, score=trial.scores)
            learner = scored(prior, rate)
            steps = settings.test_steps if adapts(learner) else 0
            s = scores[case] = trial.scores(learner, tasks, steps, settings.test_tasks, metric=metric.of, device=options.device)
            listed = {"mean": s.mean, "interval": s.interval, "sd": s.sd, "median": s.median}
            cases[case] = {key: _rounded(value.tolist()) for key, value in listed.items()}
            cases[case] |= {"diverged": s.diverged.tolist(), "tasks": len(s.values), "rate": rate}
            if tried:
                cases[case]["tried"] = dict(zip(map(str, tried), _rounded(tried.values()), strict=True))
            shown.to(done)
    return cases, scores


def _rounded(values: Iterable[float]) -> list[float | None]:
    """Six significant digits; None for what is infinite, which JSON has no word for."""
    return [float(f"{value:.6g}") if isfinite(value) else None for value in values]
