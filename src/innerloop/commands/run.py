"""``innerloop run``: train an experiment, score it, and print the paper's numbers beside ours."""

from collections.abc import Sequence
from dataclasses import field, make_dataclass, replace
from typing import Any

from rich.table import Table
from tyro.conf import OmitArgPrefixes

from innerloop import experiments, report
from innerloop.commands.words import out, parse
from innerloop.errors import InputError
from innerloop.experiments.experiment import Experiment, Options
from innerloop.experiments.kept import RESULT, RUN
from innerloop.experiments.running import HELD, folder_of
from innerloop.rl import Experience


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
        if given.options.video and not _can_be_filmed(experiment, given.settings):
            raise InputError(f"{experiment.name} has no robot that can be filmed; leave --video out")
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


def _can_be_filmed(experiment: Experiment, settings: Any) -> bool:
    if "mujoco" not in experiment.needs:
        return False
    met = next(iter(experiment.build(settings).cases.values()))
    return isinstance(met, Experience) and getattr(met.world, "filmed", None) is not None


FEW = 5
"""Points of a path that are all listed."""


def _show_result(experiment: Experiment, row: report.Row) -> None:
    table = Table(
        "case", "steps", "paper", "ours ± 95 %", "inner rate", title=f"{experiment.name}: {experiment.title}, {experiment.metric.name}"
    )
    for case, scored in row["cases"].items():
        claim = row["claims"].get(case, {})
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
