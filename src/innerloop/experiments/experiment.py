"""What an experiment is, and running one: train, choose the rate, score, write the result line."""

import json
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from math import isfinite
from pathlib import Path
from typing import Any, Literal, Self, get_args, get_origin, get_type_hints

from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from innerloop import checkpoint
from innerloop.checkpoint import PRIOR
from innerloop.environment import environment, peak_memory_mb
from innerloop.errors import InputError, nearest, positive
from innerloop.evaluate import Scores, evaluate, trained_prior, tune
from innerloop.images import about
from innerloop.images.fetch import built
from innerloop.learner import Learner
from innerloop.losses import accuracy
from innerloop.outer import CHECKPOINT, Row, adam
from innerloop.params import Params
from innerloop.progress import bar
from innerloop.tasks import Source
from innerloop.train import train

RUN, RESULT, SCORES = "run.json", "result.json", "scores.safetensors"


@dataclass(frozen=True)
class Budget:
    """What is run, of any kind. Each experiment's own settings extend these, and every field is an option of ``innerloop run``."""

    seed: int = 0
    """of the starting weights and of the training tasks; test tasks are the same for all seeds"""
    iterations: int = 70_000
    """outer steps"""
    meta_batch: int = 25
    """tasks of one iteration"""
    test_steps: int = 10
    """steps of adaptation that are scored"""
    test_tasks: int = 600
    """tasks that are scored"""

    def quick(self) -> Self:
        """The same in seconds: to see that it runs, not what it gives."""
        return replace(self, iterations=min(self.iterations, 10), test_tasks=min(self.test_tasks, 20))


@dataclass(frozen=True)
class Settings(Budget):
    """What is run of a learner that is trained by gradients of a loss."""

    outer_rate: float = 1e-3
    """Adam's rate"""
    clip: float = 0.0
    """largest element of the meta-gradient; 0 for any"""
    longest: float = 0.0
    """largest length of the meta-gradient, after clip; 0 for any"""
    precision: str = "float32"
    """float32, tf32 or bfloat16: of products while training"""
    validation_tasks: int = 100
    """tasks whose loss is logged with each checkpoint"""


@dataclass(frozen=True)
class Options:
    """How it is run: none of these but ``quick`` moves a number beyond rounding."""

    out: Path = Path("runs")
    """folder of all runs; this one's is OUT/NAME/seedN"""
    resume: bool = False
    """go on from the last checkpoint"""
    overwrite: bool = False
    """start anew where a run is already"""
    quick: bool = False
    """shrink to seconds"""
    engine: str = "auto"
    """auto, or vmap or loop, with +stepwise or +recompute, and +compile or +compile+record (on NVIDIA GPUs), as wanted"""
    chunk: int | None = None
    """tasks in memory together"""
    device: str = "cpu"
    """cpu, cuda, …"""
    checkpoint_every: int = 5_000
    """iterations between checkpoints"""
    watch: int = 0
    """iterations between measurements of conflict and landscape while training; 0 for the experiment's own, as a rule none"""
    track: bool = False
    """write TensorBoard events too"""
    video: bool = False
    """film a robot before and after adaptation, as film.gif"""
    progress: bool = True
    """show a bar"""


Tasks = Any  # a Source, or what a kind of trial has in its place


@dataclass(frozen=True)
class Trial:
    """An experiment made concrete by its settings.

    Args:
        learner: what is trained, on ``tasks``.
        cases: the tasks that are scored, by name, such as ``5-shot``.
        scored: the trained prior and an inner rate → the learner that adapts to them.
        rates: the inner rate; where there are several, the best one on validation tasks is
            taken for each case.
        finish: makes the prior of the trained parameters.
        by_case: in the place of ``scored``, for cases that adapt in another way.
        pictured: the tasks that figures show, by title.
        phases, schedule: as in ``train``.
    """

    learner: Learner
    tasks: Tasks
    cases: Mapping[str, Tasks]
    scored: Callable[[Params, float], Learner]
    rates: Sequence[float]
    finish: Callable[[Params], Params] = lambda params: params
    by_case: Mapping[str, Callable[[Params, float], Learner]] = field(default_factory=dict)
    pictured: Mapping[str, Source] | None = None
    phases: Mapping[int, Learner] = field(default_factory=dict)
    schedule: Callable[[Optimizer], LRScheduler] | None = None

    def trained(self, settings: Any, options: Options, folder: Path, log: Callable[[Row], None]) -> Learner:
        """The learner with its prior trained, as ``train`` does it."""
        positive(outer_rate=settings.outer_rate)
        return train(
            self.learner,
            self.tasks,
            settings.iterations,
            meta_batch=settings.meta_batch,
            optimizer=adam(settings.outer_rate, settings.clip or None, settings.longest or None),
            schedule=self.schedule,
            phases=self.phases,
            precision=settings.precision,
            engine=options.engine,
            chunk=options.chunk,
            device=options.device,
            out=folder,
            resume=options.resume,
            checkpoint_every=options.checkpoint_every,
            validation_tasks=settings.validation_tasks,
            progress=options.progress,
            track=options.track,
            watch=self._watch(settings, options) if options.watch else None,
            watch_every=max(options.watch, 1),
            log=log,
        )

    def _watch(self, settings: Any, options: Options) -> Callable[[Learner], Row]:
        from innerloop.analysis import watch

        return watch(self.tasks, self.rates[0], settings.outer_rate, device=options.device)

    def taking(self, learner: Learner, steps: int) -> Learner:
        """The learner that takes so many steps on a task of the cases."""
        return learner.taking(steps)

    def scores(self, learner: Learner, tasks: Any, steps: int, n_tasks: int, **how: Any) -> Scores:
        """What is scored of the tasks, as ``evaluate`` does it."""
        return evaluate(learner, tasks, steps, n_tasks, **how)


@dataclass(frozen=True)
class Metric:
    """What is scored on a task's query.

    Args:
        name: and its unit.
        of: ``(prediction, y) → scalar``; the learner's loss where None.
        higher: whether more is better.
    """

    name: str
    of: Callable[[Any, Any], Tensor] | None = None
    higher: bool = False


MSE = Metric("MSE")
ACCURACY = Metric("accuracy, %", lambda prediction, y: 100 * accuracy(prediction, y), higher=True)


@dataclass(frozen=True)
class Experiment:
    """A row of a paper's table: its name, what the paper says, what is run.

    Args:
        name: ``paper/experiment[-cell][@variant]``.
        title: what it is, in a few words.
        source: paper and place.
        follows: which of paper and released code the settings follow where they differ.
        metric: what is scored.
        claims: the paper's numbers: case → step → value.
        margins: the paper's ± of them, where it prints one.
        comparable: whether the paper says enough of its tasks for ours to be the same.
        watch: iterations between measurements of conflict and landscape, where the experiment is about these.
        engine: in the place of ``auto``, where what that would try to compile takes too long.
        cost: time on two cores.
    """

    name: str
    title: str
    source: str
    settings: Budget
    build: Callable[[Any], Trial]
    claims: Mapping[str, Mapping[int, float]]
    follows: str
    metric: Metric = MSE
    margins: Mapping[str, Mapping[int, float]] = field(default_factory=dict)
    comparable: bool = True
    watch: int = 0
    engine: str = "auto"
    cost: str = "2 min"
    needs: tuple[str, ...] = ()

    def claimed(self, settings: Row) -> Mapping[str, Mapping[int, float]]:
        """The paper's numbers that a run of these settings may stand beside: none where its data are others."""
        own = asdict(self.settings)
        others = (name for name in DATA if name in own and not _alike(_plain(settings.get(name, own[name])), own[name]))
        return {} if any(others) else self.claims

    def lacking(self, settings: Row) -> list[str]:
        """The sets of images of a run of these settings that are here a part of what they are named after."""
        named = {settings.get("data"), *self.needs} & {*built()}
        return sorted(name for name in named if about(name).get("missing") == "drop")


DATA = (
    *("data", "split", "size", "trained_on", "prefix"),
    *("modes", "waves", "noise"),
    *("robot", "goal", "dynamics", "horizon", "reward", "bound", "scaled", "stop", "spread"),
)
"""Settings that say what a run's tasks are: of images, of curves, of worlds."""
ALIKE = (
    *({"omniglot", "omniglot-release"}, {"omniglot-release", "omniglot-1200"}),
    *({"parts", split} for split in ("ravi", "tiered", "cifar-fs", "fc100")),
)
"""Sets, and splits, of which one is the paper's and the other its code's, or that of the pickles that come in its parts."""


def _alike(one: Any, other: Any) -> bool:
    return one == other or any({one, other} <= kind for kind in ALIKE)


def folder_of(experiment: Experiment, settings: Budget, options: Options) -> Path:
    """Where a run is kept."""
    return options.out / experiment.name / f"seed{settings.seed}"


HELD = "go on with --resume, start anew with --overwrite, or choose another --out"
"""What to do about a folder that holds a run."""


def seeds_of(folder: Path) -> list[Path]:
    """The runs in an experiment's folder, one a seed; the folder itself where it is a run's."""
    return sorted(folder.glob("seed*")) or [folder]


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
        before = _about(folder)["settings"]
        if changed := [k for k, v in before.items() if k != "iterations" and about["settings"].get(k) != _plain(v)]:
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


def _plain(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


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
    about = _about(Path(folder))
    [experiment] = find(str(about.get("experiment")))
    given, kinds = {k: _plain(v) for k, v in about["settings"].items()}, get_type_hints(type(experiment.settings))
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


def _about(folder: Path) -> Row:
    """What ``run.json`` says, once it is known to have settings."""
    about = checkpoint.read_json(folder / RUN)
    if not isinstance(about.get("settings"), dict):
        raise InputError(f"{folder / RUN} is damaged (it has no settings); copy it again, or start the run anew with --overwrite")
    return about
