"""The ``innerloop`` command: a front on the library, nothing more."""

import csv
import io
import os
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass, field, make_dataclass, replace
from fnmatch import fnmatch
from itertools import pairwise
from pathlib import Path
from typing import Any

import tyro
from rich.console import Console
from rich.table import Column, Table
from rich.text import Text
from tyro.conf import OmitArgPrefixes, Positional

from innerloop import checkpoint, doctor, experiments, report
from innerloop.errors import Diverged, InputError, nearest
from innerloop.evaluate import Scores, compare, predict
from innerloop.experiments.experiment import (
    ACCURACY,
    HELD,
    RESULT,
    RUN,
    SCORES,
    Experiment,
    Metric,
    Options,
    adapts,
    folder_of,
    seeds_of,
    trial_of,
)
from innerloop.folders import input_colours, input_shape, legible, predict_images, shots_in
from innerloop.images.commands import DATA
from innerloop.learner import Learner
from innerloop.outer import Stopped
from innerloop.tasks import check_split

out = Console(highlight=False, markup=False)


@dataclass(frozen=True)
class List:
    """Experiments: what they are, what the paper says, what they cost, whether they are done."""

    pattern: Positional[str] = "*"
    """part of a name, or a pattern with *"""
    results: tuple[Path, ...] = (Path("results"), Path("runs"))
    """where to look for runs that are done"""


LISTED = 240
"""Characters of a line that goes to a file or to another program: all that there is to say."""


def list_(given: List) -> None:
    done = {row["experiment"] for row in report.read_rows(place for place in given.results if place.exists())}
    pattern = given.pattern if "*" in given.pattern else f"*{given.pattern}*"
    found = [e for name, e in experiments.catalogue().items() if fnmatch(name, pattern)]
    if not found:
        raise InputError(f"no experiment matches {given.pattern!r}; {nearest(given.pattern, experiments.catalogue())}")
    heads = {"experiment": max(len(e.name) for e in found), "what": 20, "paper": 20, "cost": 6, "needs": 5, "done": 4}
    table = Table(*(Column(head, no_wrap=True, min_width=least) for head, least in heads.items()), box=None, pad_edge=False)
    for e in found:
        claims = "; ".join(f"{case} {_slashed(claim.values())}" for case, claim in [*e.claims.items()][:3]) or "–"
        claims += f"; … {len(e.claims)} cases" if len(e.claims) > 3 else ""
        needs = ", ".join(e.needs[:2]) + (f" and {len(e.needs) - 2} more" if len(e.needs) > 2 else "")
        table.add_row(e.name, e.title, claims, e.cost, needs or "–", "yes" if e.name in done else "")
    _print(table)


def _print(table: Table) -> None:
    """On a screen as wide as it is; into a file or another program whole."""
    (out if out.is_terminal else Console(width=LISTED, highlight=False, markup=False)).print(table)


def run(arguments: Sequence[str]) -> None:
    """Train an experiment, score it, and print the paper's numbers beside ours."""
    if not arguments or arguments[0].startswith("-"):
        if not {"-h", "--help"} & set(arguments):
            raise InputError("run needs the name of an experiment first; innerloop list shows them")
        arguments = ["maml/sinusoid", *arguments]
    name, *rest = arguments
    planned, ready = [], []
    for experiment in experiments.find(name):
        shape = make_dataclass(
            "Run",
            [
                ("settings", OmitArgPrefixes[type(experiment.settings)], field(default=experiment.settings)),
                ("options", OmitArgPrefixes[Options], field(default=Options())),
            ],
            frozen=True,
        )
        given = parse(shape, rest, f"innerloop run {experiment.name}", f"{experiment.title}. {experiment.source}.")
        if given.options.video and "mujoco" not in experiment.needs:
            raise InputError(f"{experiment.name} has no robot to film; leave --video out")
        planned.append((experiment, given.settings, given.options))
    begun = [folder_of(*plan).joinpath(RUN).exists() for plan in planned]
    for there, (experiment, settings, options) in zip(begun, planned, strict=True):
        if options.resume and any(begun) and not there:
            options = replace(options, resume=False)  # of several cells, one that had not begun
        elif there and not options.resume and not options.overwrite:
            raise InputError(f"{folder_of(experiment, settings, options)} holds a run already; {HELD}")
        ready.append((experiment, settings, options))
    for experiment, settings, options in ready:
        row = experiments.run(experiment, settings, options)
        from innerloop import gallery  # with matplotlib, which training does not wait for

        _show_result(experiment, row)
        folder = folder_of(experiment, settings, options)
        files = [RESULT, *gallery.of_run(folder, row), *([gallery.film(folder)] if options.video else [])]
        print(f"{folder}/ has " + ", ".join(files) + ("; --quick only shows that it runs" if options.quick else ""))


FEW = 5
"""Points of a path that are all listed."""


def _show_result(experiment: Experiment, row: report.Row) -> None:
    table = Table(
        "case", "steps", "paper", "ours ± 95 %", "inner rate", title=f"{experiment.name}: {experiment.title}, {experiment.metric.name}"
    )
    for case, scored in row["cases"].items():
        claim = experiment.claimed(row["settings"]).get(case, {})
        taken = len(scored["mean"])
        steps = sorted({0, *(claim or (range(taken) if taken < FEW else report.told(taken)))})
        for step in (s for s in steps if s < taken):
            paper = report.printed(claim[step], experiment.margins.get(case, {}).get(step)) if step in claim else "–"
            rate = f"{scored['rate']:g}" if len(scored["mean"]) > 1 else "–"
            lost, median = scored["diverged"][step], scored["median"][step]
            ours = report.shown(scored["mean"][step], scored["interval"][step], digits=3)
            if lost:
                ours += f" on {lost} task{'s' * (lost > 1)}" + ("" if median is None else f", median {median:.3f}")
            table.add_row(case, str(step), paper, ours, rate)
        table.add_section()
    table.caption = (
        f"{row['settings']['test_tasks']} test tasks, seed {row['settings']['seed']}, {row['engine']['plan']}, {row['seconds']:.0f} s"
    )
    out.print(table)
    print(f"settings follow: {experiment.follows}")


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


@dataclass(frozen=True)
class Compare:
    """Runs on the same test tasks, task by task: two of them after each step, or more, or several seeds of each, at their last one."""

    first: Positional[Path]
    """a run's folder, or that of an experiment with a folder for each seed"""
    others: Positional[tuple[Path, ...]]
    """one or more to compare it with, of the same kind"""
    figures: Path | None = None
    """draw the first run of each together into this folder: the metric by steps, fitted curves, conflict and landscape if watched"""


def compare_(given: Compare) -> None:
    if not given.others:
        raise InputError(f"there is nothing to compare {given.first} with; name one more run")
    tables = list(_compared(given))
    if given.figures:
        from innerloop import gallery

        gallery.together([given.first, *given.others], given.figures)
    for table in tables:
        print(table)


def _compared(given: Compare) -> Iterator[object]:
    """Two runs' difference in each case, or all runs beside each other."""
    if len(given.others) > 1 or not all((folder / SCORES).exists() for folder in (given.first, *given.others)):
        runs = {str(folder): _scores_by_seed(folder) for folder in (given.first, *given.others)}
        every = [scores for run in runs.values() for scores in run.values()]
        for case in _shared(every):
            yield report.comparison(case, {name: {seed: scores[case] for seed, scores in run.items()} for name, run in runs.items()})
        return
    other = next(iter(given.others))
    a, b = _scores(given.first), _scores(other)
    for case in _shared([a, b]):
        yield f"{case}: {given.first} − {other}\n{compare(a[case], b[case])}"


def _shared(every: Sequence[Mapping[str, Scores]]) -> list[str]:
    """Cases that all have."""
    if not (shared := [case for case in every[0] if all(case in scores for scores in every)]):
        cases = sorted({case for scores in every for case in scores})
        raise InputError(f"the runs share no case: they have {', '.join(cases)}; compare runs of the same tasks")
    return shared


def _scores(folder: Path) -> dict[str, Scores]:
    """Scores by case, in the order of the run."""
    values, tasks = checkpoint.read(folder / SCORES)
    if values.keys() != tasks.keys() or any(value.ndim != 2 for value in values.values()):
        raise InputError(f"{folder / SCORES} is no file of scores; copy it again, or start the run anew")
    result = folder / RESULT
    order = [*(checkpoint.read_json(result).get("cases", ()) if result.exists() else ()), *values]
    return {case: Scores(values[case], tasks[case]) for case in sorted(values, key=order.index)}


def _scores_by_seed(folder: Path) -> dict[str, dict[str, Scores]]:
    """Scores by case, by the name of the seed's folder."""
    seeds = [seed for seed in seeds_of(folder) if (seed / SCORES).exists()]
    if not seeds:
        raise InputError(f"{folder} holds no scores; give a run's folder, or that of an experiment with a folder for each seed")
    return {seed.name: _scores(seed) for seed in seeds}


@dataclass(frozen=True)
class Adapt:
    """Adapt a trained run to labelled examples and predict: CSV in, CSV out, or folders of images."""

    run: Positional[Path]
    """the run's folder"""
    support: Path
    """CSV of examples: inputs, then the outputs in the last columns; a line of names may come first.
    Or a folder of class folders of images"""
    query: Path
    """CSV of inputs to predict at, or a folder of images"""
    steps: int | None = None
    """steps of adaptation; as many as the run scored by default"""
    out: Path | None = None
    """write the predictions into this CSV file; for images, with the probability of every class"""
    size: int | None = None
    """of images: height and width that the network takes, where the run does not tell"""
    invert: bool = False
    """of images: make dark bright, for dark ink on light paper where training had bright ink on black"""


def adapt_(given: Adapt) -> None:
    _check_file(given.out, "--out")
    if given.support.is_dir():
        _adapt_to_images(given)
        return
    if given.invert or given.size is not None:
        raise InputError(f"--size and --invert are of images, but {given.support} is no folder of them; leave them out")
    support, query = _numbers(given.support), _numbers(given.query)
    inputs = len(query[0])
    if inputs >= len(support[0]):
        raise InputError(
            f"{given.support} has {len(support[0])} columns and {given.query} {inputs}; the support needs its outputs behind the inputs"
        )
    x, y = [row[:inputs] for row in support], [row[inputs:] for row in support]
    learner, metric = _adaptable(given.run)
    if metric == ACCURACY:
        raise InputError(
            f"{given.run} is a classifier, and {given.support} is for regression; give --support and --query folders of images"
        )
    rows = predict(learner, (x, y), query, given.steps).tolist()
    lines = "".join(",".join(f"{value:.6g}" for value in row) + "\n" for row in rows)
    if given.out:
        _write(given.out, lines)
    else:
        print(lines, end="")


def _adapt_to_images(given: Adapt) -> None:
    if given.size is not None and given.size < 1:
        raise InputError(f"size is {given.size}; give the height and width in pixels, 1 or more")
    learner, _ = _adaptable(given.run, given.support)
    shape, (mean, sd) = input_shape(given.run, given.size), input_colours(given.run)
    found = predict_images(learner, given.support, given.query, shape, invert=given.invert, mean=mean, sd=sd, steps=given.steps)
    table = Table("file", "prediction", Column("probability", justify="right"), box=None, pad_edge=False)
    for file, (name, probability) in zip(found.files, found.best, strict=True):
        table.add_row(legible(file), legible(name), f"{probability:.3f}")
    _print(table)
    if given.out:
        _write(given.out, found.csv())


def _adaptable(run: Path, support: Path | None = None) -> tuple[Learner, Metric]:
    """A run's learner for as many images as a folder has, and what it is scored by, once it is known that it adapts to examples."""
    trial, about = trial_of(run)
    if not hasattr(trial.tasks, "draw"):
        raise InputError(f"{run} is of policies, which adapt to rollouts of their own, not to examples; score it with innerloop evaluate")
    shots = shots_in(support) if support else None
    return experiments.load(run, shots=shots), experiments.catalogue()[about["experiment"]].metric


def _check_file(file: Path | None, option: str) -> None:
    if file and file.is_dir():
        raise InputError(f"{file} is a folder; give {option} the name of a file")


def _write(file: Path, text: str) -> None:
    """Write a file whole; its folder is made where it is missing."""
    checkpoint.writable(file.resolve().parent)
    checkpoint.write_whole(file, text)


def _numbers(path: Path) -> list[list[float]]:
    if not path.is_file():
        raise InputError(f"there is no file {path}; check its name")
    rows = [row for row in csv.reader(path.read_text("utf-8-sig", errors="replace").splitlines()) if row]
    if rows and not any(map(_is_number, rows[0])):
        rows = rows[1:]
    if not rows or len({len(row) for row in rows}) > 1:
        raise InputError(f"{path} has {'rows of different lengths' if rows else 'no rows'}; give one example a line")
    try:
        return [[float(cell) for cell in row] for row in rows]
    except ValueError as problem:
        raise InputError(f"{path} holds what is no number ({problem}); give numbers only") from problem


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True


@dataclass(frozen=True)
class Report:
    """All result lines as a table: paper beside ours. Markdown on the screen, a page with figures as HTML."""

    results: tuple[Path, ...] = (Path("results"), Path("runs"))
    """files of result lines, or folders of them"""
    html: Path | None = None
    """write one self-contained page here"""
    readme: tuple[Path, ...] = ()
    """put a table of the longest runs, with what the paper says, between the marks of these files"""
    figures: Path | None = None
    """write the figure over all experiments into this folder, one a metric"""


def report_(given: Report) -> None:
    _check_file(given.html, "--html")
    places = [place for place in given.results if place.exists()]
    absent = [str(place) for place in given.results if place not in places]
    if places and absent and given.results != Report().results:
        raise InputError(f"there is no {', '.join(absent)}; check the names of --results")
    listed = report.entries(report.read_rows(places), experiments.catalogue())
    if not listed:
        quick = len(report.read_rows(places, quick=True))
        raise InputError(
            f"no result lines in {', '.join(map(str, given.results))}"
            + (f" but of {quick} quick run{'s' * (quick > 1)}, left out as they only show that it runs" if quick else "")
            + f"; innerloop run {'without --quick ' * (quick > 0)}makes some, or name a folder with --results"
        )
    table = report.markdown(listed)
    print(table)
    for file in given.readme:
        report.into_readme(file, listed)
    if not (given.html or given.figures):
        return
    from innerloop import plots

    of = {e.metric.name: [other for other in listed if other.metric == e.metric] for e in listed}
    curves = {name: plots.png(plots.curves(shown)) for name, shown in of.items()}
    if given.figures:
        for name, figure in curves.items():
            checkpoint.write_whole(checkpoint.writable(given.figures) / f"curves-{name.split(',')[0].lower()}.png", figure)
    if given.html:
        figures = {
            f"{name} against gradient steps, with 95 % intervals over tasks; crosses are the paper's numbers": figure
            for name, figure in curves.items()
        }
        for place in places:
            for kind, pattern in (("Training", "training.png"), ("Fits", "*fits*.png")):
                for file in sorted(place.rglob(pattern)) if place.is_dir() else []:
                    figures[f"{kind}: {file.relative_to(place)}"] = file.read_bytes()
        _write(given.html, report.page(listed, figures))
        print(f"\n{given.html} is written")


@dataclass(frozen=True)
class Doctor:
    """Try out what runs need on this machine."""


def doctor_(given: Doctor) -> None:
    table = Table(box=None, show_header=False, pad_edge=False)
    broken = []
    for name, right, line in doctor.checks():
        table.add_row(Text(*{True: ("ok", "green"), False: ("no", "red"), None: ("–", "yellow")}[right]), Text(name), Text(line))
        broken += [] if right in (True, None) else [name]
    out.print(table)
    if broken:
        raise InputError(f"{', '.join(broken)}: mend {'it' if len(broken) == 1 else 'them'} as said above")


def data(arguments: Sequence[str]) -> None:
    """Sets of images: list, get, check, build."""
    if not arguments or arguments[0] in ("-h", "--help"):
        print(usage(DATA, "innerloop data"))
        return
    name, *rest = arguments
    if name not in DATA:
        raise InputError(f"no command 'data {name}'; {nearest(name, DATA)}")
    shape, command = DATA[name]
    command(parse(shape, rest, f"innerloop data {name}"))


COMMANDS: dict[str, tuple[type | None, Callable[..., None]]] = {
    "list": (List, list_),
    "run": (None, run),
    "evaluate": (Evaluate, evaluate_),
    "analyse": (Analyse, analyse_),
    "compare": (Compare, compare_),
    "report": (Report, report_),
    "adapt": (Adapt, adapt_),
    "data": (None, data),
    "doctor": (Doctor, doctor_),
}


def parse(shape: Any, arguments: Sequence[str], prog: str, description: str | None = None) -> Any:
    """Options from the words of a command line.

    Raises:
        InputError: in one line, what tyro says in a box.
    """
    said = io.StringIO()
    try:
        with redirect_stderr(said), redirect_stdout(said), _wide(not {"-h", "--help"} & set(arguments)):
            return tyro.cli(shape, args=list(arguments), prog=prog, description=description)
    except SystemExit as stop:
        if not stop.code:
            print(said.getvalue())
            raise
    lines = [line.strip() for line in said.getvalue().splitlines()]
    body = [line for line in lines[2:] if line and not set(line) <= set("-─│╭╮╰╯ ")]
    message = body[0] if body else "the options cannot be read"
    if message.startswith("Missing from"):
        message += " " + ", ".join(_missing(body[1:]))
    hints = [re.split(r"\s{2,}", body[k + 1])[0] for k, line in enumerate(body[:-1]) if line.startswith("Perhaps you meant")]
    does = f"did you mean {hints[0]}?" if hints else f"see {prog} --help"
    raise InputError(f"{message.rstrip('.')}; {does}")


def _missing(lines: Sequence[str]) -> Iterator[str]:
    """What tyro lists as missing, each above its help, which says what those without a name of their own are."""
    for line, under in pairwise([*lines, ""]):
        if line.startswith("Unrecognized"):
            return
        if line.startswith("--"):
            yield line
        elif line.isupper():
            yield f"{line} ({under.removesuffix(' (required)')})"


@contextmanager
def _wide(wanted: bool) -> Iterator[None]:
    """A terminal so wide that tyro cuts no message, which becomes one line here; help keeps the real one."""
    before = os.environ.get("COLUMNS")
    if wanted:
        os.environ["COLUMNS"] = "400"
    try:
        yield
    finally:
        if before is None:
            os.environ.pop("COLUMNS", None)
        else:
            os.environ["COLUMNS"] = before


def usage(commands: Mapping[str, tuple[type | None, Callable[..., None]]], prog: str = "innerloop") -> str:
    lines = [f"usage: {prog} COMMAND …", ""]
    for name, (shape, command) in commands.items():
        lines.append(f"  {name:<9} {((shape or command).__doc__ or '').splitlines()[0]}")
    return "\n".join([*lines, "", f"{prog} COMMAND --help says more."])


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; the exit code is 0, 2 for bad input, 1 for a run that diverged, 128 + n for signal n."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    try:
        if not words or words[0] in ("-h", "--help", "help"):
            print(usage(COMMANDS))
            return 0
        if words[0] == "--version":
            from innerloop import __version__

            print(__version__)
            return 0
        if words[0] not in COMMANDS:
            raise InputError(f"no command {words[0]!r}; {nearest(words[0], COMMANDS)}")
        shape, command = COMMANDS[words[0]]
        command(words[1:] if shape is None else parse(shape, words[1:], f"innerloop {words[0]}"))
    except InputError as problem:
        print(f"innerloop: {_one_line(problem)}", file=sys.stderr)
        return 2
    except Diverged as problem:
        print(f"innerloop: {_one_line(problem)}", file=sys.stderr)
        return 1
    except Stopped as stop:
        print(f"innerloop: {_one_line(stop)}", file=sys.stderr)
        return 128 + stop.signal_number
    except OSError as problem:
        print(f"innerloop: {_one_line(problem)}; name a file that can be read and written", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("innerloop: stopped; what was saved stays, and a run that began goes on with --resume", file=sys.stderr)
        return 130
    except SystemExit as stop:
        return int(stop.code or 0)
    return 0


def _one_line(problem: BaseException) -> str:
    return " ".join(str(problem).split())


def _slashed(values: Any) -> str:
    return " / ".join(f"{value:.2f}" for value in values)


def console() -> None:
    """Entry point of the installed command."""
    sys.exit(main())
