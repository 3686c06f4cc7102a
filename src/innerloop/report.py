"""Result lines → tables: paper beside ours, in Markdown and as one self-contained page."""

import base64
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from html import escape
from math import inf, isfinite
from pathlib import Path
from statistics import fmean
from typing import Any

import torch

from innerloop.checkpoint import write_whole
from innerloop.errors import InputError, nearest
from innerloop.evaluate import Scores, compare
from innerloop.experiments import RESULT, Experiment
from innerloop.experiments.experiment import MSE, Metric
from innerloop.outer import METRICS

Row = Mapping[str, Any]

BEGIN, END = "<!-- results: written by `innerloop report --readme` -->", "<!-- end of results -->"
MARK = re.compile(r"<!-- results(?: of (?P<names>[^:]+))?: written by `innerloop report --readme` -->")


def read_rows(places: Iterable[Path], quick: bool = False) -> list[Row]:
    """Result lines of files, and of all ``result.json`` and ``*.jsonl`` in folders.

    Of several lines with the same experiment, settings and seed, the last one counts.

    Args:
        places: files and folders.
        quick: those of quick runs alone, which are left out otherwise.

    Raises:
        InputError: a file is not of result lines.
    """
    files: list[Path] = []
    for place in places:
        files += [place] if place.is_file() else sorted([*place.rglob("*.jsonl"), *place.rglob(RESULT)])
    rows: dict[str, Row] = {}
    for file in files:
        if file.name == METRICS:
            continue
        for number, line in enumerate(file.read_text(errors="replace").splitlines(), 1):
            try:
                row = json.loads(line)
                key = json.dumps([row["experiment"], row["settings"]], sort_keys=True)
                was_quick, _, _ = row["quick"], row["cases"], row["claims"]
            except (ValueError, KeyError, TypeError) as problem:
                raise InputError(f"line {number} of {file} is no result line; remove it or name other files") from problem
            if bool(was_quick) == quick:
                rows[key] = row
    return list(rows.values())


def told(scored: int) -> list[int]:
    """The steps that a table tells of so many, where the paper has none: 1, 5, 10 as far as they were taken, and the last.

    >>> told(51), told(4), told(1)
    ([1, 5, 10, 50], [1, 3], [])
    """
    return sorted({step for step in (1, 5, 10, scored - 1) if 0 < step < scored})


@dataclass(frozen=True)
class Entry:
    """Runs of one experiment that differ by seed alone, and one of its cases."""

    experiment: str
    title: str
    changed: str
    case: str
    claim: Mapping[int, float]
    runs: Sequence[Row]
    metric: Metric = MSE
    margin: Mapping[int, float] = field(default_factory=dict)
    comparable: bool = True

    def ours(self, step: int) -> tuple[float, float]:
        """Mean over seeds, and the mean half-width of their 95 % intervals over tasks; step −1 is the last."""
        return self._over_seeds("mean", step), self._over_seeds("interval", step)

    def _over_seeds(self, what: str, step: int) -> float:
        values = [run["cases"][self.case][what][step] for run in self.runs]
        return inf if None in values else fmean(values)

    def median(self, step: int) -> float:
        """Median over tasks, averaged over seeds."""
        return self._over_seeds("median", step)

    @property
    def diverged(self) -> int:
        """How many tasks, over all seeds, have no finite score after some step."""
        return sum(max(run["cases"][self.case]["diverged"]) for run in self.runs)

    def each(self, step: int) -> list[float]:
        """The mean of every seed."""
        means = [run["cases"][self.case]["mean"][step] for run in self.runs]
        return [inf if mean is None else mean for mean in means]

    @property
    def scored(self) -> range:
        """The steps after which tasks were scored, 0 first."""
        return range(len(self.runs[0]["cases"][self.case]["mean"]))

    @property
    def steps(self) -> list[int]:
        """The steps that the paper reports, or else 1, 5, 10 as far as they were taken, and the last."""
        return [s for s in self.claim or told(len(self.scored)) if s in self.scored] or [0]

    @property
    def verdict(self) -> str:
        """Whether ours is as good as the paper's number at every step, and what became of the mean if not."""
        tasks = sum(run["cases"][self.case]["tasks"] for run in self.runs)
        medians = " / ".join(f"{self.median(s):.2f}" for s in self.steps)
        return self._reached + (f"; {self.diverged} of {tasks} tasks diverged, medians {medians}" if self.diverged else "")

    @property
    def _reached(self) -> str:
        if not self.claim:
            return "no number printed"
        if not self.comparable:
            return "not comparable"
        worse = {s: (value - self.ours(s)[0]) if self.metric.higher else (self.ours(s)[0] - value) for s, value in self.claim.items()}
        beyond = [s for s, by in worse.items() if by > 0]
        if not beyond:
            return "met"
        near = [s for s in beyond if worse[s] <= self.ours(s)[1] and not self.diverged]  # a task that diverged makes intervals wide
        said = {"missed": [s for s in beyond if s not in near], "within the interval": near}
        return ", ".join(f"{word} at {_list(steps)}" for word, steps in said.items() if steps)


def entries(rows: Iterable[Row], experiments: Mapping[str, Experiment]) -> list[Entry]:
    """Rows grouped over seeds, in the order of the experiments; cases with a claim first."""
    groups: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        if row["experiment"] in experiments:
            groups.setdefault((row["experiment"], _changed(row, experiments[row["experiment"]])), []).append(row)
    order = list(experiments)
    listed = []
    for (name, changed), runs in sorted(groups.items(), key=lambda item: (order.index(item[0][0]), item[0][1])):
        for case in runs[0]["cases"]:
            taken = len(runs[0]["cases"][case]["mean"])
            of = experiments[name]
            claims = runs[0]["claims"].get(case, {}) if of.claimed(runs[0]["settings"]) else {}
            claim = {int(step): value for step, value in claims.items() if int(step) < taken}
            in_order = sorted(runs, key=lambda r: r["settings"]["seed"])
            listed.append(Entry(name, of.title, changed, case, claim, in_order, of.metric, of.margins.get(case, {}), of.comparable))
    return listed


def _changed(row: Row, experiment: Experiment) -> str:
    """How a run's settings differ from the experiment's, the seed apart."""
    standard, own = (json.loads(json.dumps(settings)) for settings in (asdict(experiment.settings), row["settings"]))
    differ = {k: v for k, v in own.items() if k != "seed" and standard.get(k) != v}
    return ", ".join(f"{key} {value}" for key, value in differ.items())


def markdown(listed: Sequence[Entry], longest: bool = False) -> str:
    """A table for each metric, with the paper's number beside ours for every case that it prints, or the first where none.

    Args:
        longest: of each experiment only the run that saw the most tasks, and only of those with a number in their paper.
    """
    tables: dict[str, list[str]] = {}
    for e in _longest(headline(listed)) if longest else headline(listed):
        head = [
            f"| experiment | what | case | steps | paper | ours ± 95 %, {e.metric.name} | seeds, lowest … highest | |",
            "|---|---|---|---|---|---|---|---|",
        ]
        name = f"`{e.experiment}`" + (f" ({e.changed})" if e.changed else "")
        cells = [name, e.title, e.case, _steps(e), claimed(e), _ours(e), _seeds(e), e.verdict]
        tables.setdefault(e.metric.name, head).append("| " + " | ".join(cells) + " |")
    return "\n\n".join("\n".join(lines) for lines in tables.values())


def _longest(listed: Sequence[Entry]) -> list[Entry]:
    def seen(e: Entry) -> int:
        settings = e.runs[0]["settings"]
        return settings["iterations"] * settings["meta_batch"]

    most = {e.experiment: max(seen(o) for o in listed if o.experiment == e.experiment) for e in listed}
    return [e for e in listed if e.claim and seen(e) == most[e.experiment]]


def comparison(case: str, runs: Mapping[str, Mapping[str, Scores]]) -> str:
    """A table of paired differences from the first run, each at its last step, over the seeds that both have.

    A difference is first averaged over seeds, task by task; its interval is over tasks. Each
    seed's own mean stands beside it.

    Args:
        case: which the scores are of.
        runs: scores by seed, by the name of the run.

    Raises:
        InputError: the scores are of different tasks, or a run shares no seed with the first.
    """
    (base, first), *_ = runs.items()
    one, scored = next(iter(first.items()))
    lines = [f"| {case} | mean ± 95 % | less {base} ± 95 % | by seed |", "|---|---|---|---|"]
    for name, run in runs.items():
        seeds = [seed for seed in first if seed in run]
        if not seeds:
            raise InputError(f"{name} has no seed that {base} has: {', '.join(run)} and {', '.join(first)}; run the same ones")
        for seed in seeds:
            if run[seed].tasks != scored.tasks or len(run[seed].values) != len(scored.values):
                raise InputError(
                    f"the scores are of different tasks: {run[seed].tasks} for {seed} in {name}, {scored.tasks} for {one} in {base}; "
                    "run both with the same settings of tests, or leave one out"
                )
        last = [replace(run[seed], values=run[seed].values[:, -1:]) for seed in seeds]
        apart = [compare(s, replace(first[seed], values=first[seed].values[:, -1:])) for seed, s in zip(seeds, last, strict=True)]
        own, difference = (replace(scores[0], values=torch.stack([s.values for s in scores]).mean(0)) for scores in (last, apart))
        by_seed = ", ".join(f"{float(s.mean[0]):+.2f}" for s in apart)
        cells = [shown(float(own.mean[0]), float(own.interval[0]))]
        cells += ["", ""] if name == base else [shown(float(difference.mean[0]), float(difference.interval[0])), by_seed]
        lines.append("| " + " | ".join([f"`{name}`", *cells]) + " |")
    return "\n".join(lines)


def claimed(e: Entry) -> str:
    """The paper's numbers, with its intervals where it prints them."""
    return " / ".join(printed(e.claim[s], e.margin.get(s)) for s in e.steps) if e.claim else "–"


def printed(value: float, margin: float | None) -> str:
    """A number of a paper, with its interval where it has one."""
    return f"{value:.2f}" + ("" if margin is None else f" ± {margin:.2f}")


def headline(listed: Sequence[Entry]) -> list[Entry]:
    """The cases that the paper prints a number for; of an experiment without any, the first."""
    shown: list[Entry] = []
    for e in listed:
        first = not any((s.experiment, s.changed) == (e.experiment, e.changed) for s in shown)
        if e.claim or (first and not any(o.claim for o in listed if o.experiment == e.experiment)):
            shown.append(e)
    return shown


def _steps(e: Entry) -> str:
    return " / ".join(map(str, e.steps)) if e.steps != [0] else "none"


def _ours(e: Entry) -> str:
    return " / ".join(shown(*e.ours(step)) for step in e.steps)


def _seeds(e: Entry) -> str:
    """How many; of several also their lowest and highest mean after each step, as they may differ by more than tasks do."""
    if len(e.runs) == 1:
        return "1"
    ranges = (f"{_brief(min(each))} … {_brief(max(each))}" for each in map(e.each, e.steps))
    return f"{len(e.runs)}: {' / '.join(ranges)}"


def _brief(value: float, digits: int = 2) -> str:
    return "diverged" if not isfinite(value) else f"{value:.{digits}f}" if abs(value) < 1e6 else f"{value:.0e}"


def shown(mean: float | None, interval: float | None, digits: int = 2) -> str:
    """Mean ± half-width, or that the mean is infinite."""
    if mean is None or interval is None or not (isfinite(mean) and isfinite(interval)):
        return "diverged"
    return f"{_brief(mean, digits)} ± {_brief(interval, digits)}"


def _list(steps: Sequence[int]) -> str:
    return f"step {steps[0]}" if len(steps) == 1 else f"steps {', '.join(map(str, steps))}"


def into_readme(path: Path, listed: Sequence[Entry]) -> None:
    """Put a table of the longest runs between the two marks of a file, of the experiments that the first one names, or of all.

    Raises:
        InputError: the file lacks them, or an experiment that is named has no run.
    """
    text = path.read_text() if path.is_file() else ""
    found = MARK.search(text)
    if not found or END not in text[found.end() :]:
        raise InputError(f"{path} has no place for the table; add the lines {BEGIN} and {END}")
    if found["names"]:
        runs = {e.experiment for e in listed}
        for name in (names := found["names"].split()):
            if name not in runs:
                raise InputError(f"{path} shows {name}, of which there is no run; {nearest(name, runs)}")
        listed = [e for e in listed if e.experiment in names]
    after = text[found.end() :].split(END, 1)[1]
    write_whole(path, f"{text[: found.end()]}\n{markdown(listed, longest=True)}\n{END}{after}")


STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 90em; margin: 2em auto; padding: 0 1em; color: #222; background: #fff }
table { border-collapse: collapse; margin: 1em 0; font-variant-numeric: tabular-nums }
th, td { border-bottom: 1px solid #ddd; padding: .3em .7em; text-align: left; vertical-align: top }
th { border-bottom: 2px solid #888 }
figure { margin: 2em 0 } img { max-width: 100% } figcaption { color: #555 } code { font-size: .92em }
.summary td:nth-child(n+3):nth-child(-n+7) { white-space: nowrap }
.met { color: #17692f } .missed { color: #a3261b }
"""


def page(listed: Sequence[Entry], figures: Mapping[str, bytes]) -> str:
    """One HTML page with tables and figures inside it: it can be sent as it is.

    Args:
        figures: PNG by caption.
    """
    parts = [
        "<!doctype html><html lang=en><meta charset=utf-8><meta name=viewport content='width=device-width'>",
        f"<title>innerloop: results</title><style>{STYLE}</style><h1>Results</h1>",
        "<p>Paper's numbers beside ours. ± is the half-width of the 95 % interval over tasks, 1.96 · sd / √tasks; with several seeds, "
        "mean and half-width are averaged over them and each seed stands below.</p>",
        _table(headline(listed)),
    ]
    for caption, png in figures.items():
        data = base64.b64encode(png).decode()
        parts.append(
            f"<figure><img alt='{escape(caption)}' src='data:image/png;base64,{data}'><figcaption>{escape(caption)}</figcaption></figure>"
        )
    parts += ["<h2>After every step</h2>", *(_path(e) for e in listed), "<h2>How they were run</h2>", _runs(listed)]
    return "\n".join(parts) + "\n"


def _html_table(head: Sequence[str], rows: Iterable[Sequence[str]], kind: str = "") -> str:
    body = "".join("<tr>" + "".join(f"<td>{cell}</td>" for cell in row) + "</tr>" for row in rows)
    return f"<table class='{kind}'><tr>" + "".join(f"<th>{cell}</th>" for cell in head) + f"</tr>{body}</table>"


def _table(listed: Sequence[Entry]) -> str:
    rows = []
    for e in listed:
        seeds = "<br>".join(" / ".join(f"{e.each(s)[k]:.3f}" for s in e.steps) for k in range(len(e.runs)))
        verdict = f"<span class='{'met' if e.verdict == 'met' else 'missed' if 'missed' in e.verdict else ''}'>{escape(e.verdict)}</span>"
        name = f"<code>{escape(e.experiment)}</code>" + (f"<br>{escape(e.changed)}" if e.changed else "")
        rows.append(
            [name, escape(e.title), escape(e.case), _steps(e), claimed(e), f"{_ours(e)}<br>{escape(e.metric.name)}", seeds, verdict]
        )
    return _html_table(["experiment", "what", "case", "steps", "paper", "ours ± 95 %", "each seed", ""], rows, kind="summary")


def _path(e: Entry) -> str:
    steps = e.scored
    head = [f"<code>{escape(e.experiment)}</code> {escape(e.changed)}, {escape(e.case)}", *map(str, steps)]
    return _html_table(head, [["mean ± 95 %", *(shown(*e.ours(step), digits=3).replace(" ± ", "<br>± ") for step in steps)]])


def _runs(listed: Sequence[Entry]) -> str:
    rows = {}
    for e in listed:
        for run in e.runs:
            rates = ", ".join(f"{case}: {c['rate']:g}" for case, c in run["cases"].items())
            rows[e.experiment, e.changed, run["settings"]["seed"]] = [
                f"<code>{escape(e.experiment)}</code> {escape(e.changed)}",
                str(run["settings"]["seed"]),
                f"{run['settings']['iterations']:,}",
                rates,
                str(run["cases"][e.case]["tasks"]),
                escape(run["engine"]["plan"]),
                f"{run['seconds']:.0f} s",
                f"{run['peak_memory_mb']} MB",
                escape(f"torch {run['versions']['torch']}, {run['machine']['cpu']}, {run['machine']['threads']} threads"),
                escape(str(run["commit"])),
            ]
    head = ["experiment", "seed", "iterations", "inner rate", "test tasks", "engine", "time", "memory", "with", "commit"]
    return _html_table(head, rows.values())
