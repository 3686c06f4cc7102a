"""The papers' figures, as PNG."""

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import isfinite
from typing import Any

import torch
from matplotlib.figure import Figure
from torch import Tensor

from innerloop.analysis import embeds, in_the_plane, probe
from innerloop.batches import one
from innerloop.experiments import Trial
from innerloop.learner import Learner
from innerloop.params import Params
from innerloop.report import Entry
from innerloop.tasks import Curves, Goals, Mixture, Source

COLOURS = ("#1b6ca8", "#c8553d", "#4c956c", "#8e5ea2", "#c99a2e", "#5c677d", "#2a9d8f", "#b5838d", "#3d405b", "#e07a5f")


def png(figure: Figure) -> bytes:
    """The figure as the bytes of a PNG."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110, metadata={"Software": None})
    return buffer.getvalue()


WIDE = 20
"""How many times the lowest error the highest one must be, for their logarithms to be drawn."""


def curves(listed: Sequence[Entry]) -> Figure:
    """A metric against steps, one panel a case, one line an experiment, with bands of 95 %.

    The paper's numbers are crosses in the colour of their line. Fig. 3 and 6 of Finn et al. 2017.
    """
    cases = list(dict.fromkeys(e.case for e in listed))
    labels = list(dict.fromkeys(_label(e) for e in listed))
    figure = Figure(figsize=(4.6 * len(cases), 4.2), layout="constrained")
    panels = figure.subplots(1, len(cases), squeeze=False, sharey=True)[0]
    # A mean that diverges leaves the panel through the top, and the others stay readable.
    tops = [1.1 * value for e in listed for value in e.claim.values()] + [1.2 * e.ours(0)[0] for e in listed]
    tops += [1.05 * e.ours(step)[0] for e in listed if e.metric.higher for step in e.steps]
    highest = max(filter(isfinite, tops), default=0.0)
    lowest = min((mean for e in listed for step in e.scored if isfinite(mean := e.ours(step)[0])), default=0.0)
    for panel, case in zip(panels, cases, strict=True):
        longest = max(len(e.scored) for e in listed)
        for e in (e for e in listed if e.case == case):
            colour = COLOURS[labels.index(_label(e)) % len(COLOURS)]
            alone = len(e.scored) == 1
            points = [e.ours(step) for step in e.scored] * (longest if alone else 1)
            mean, half = torch.tensor(points).T
            x = list(range(len(points)))
            panel.plot(x, mean, color=colour, label=_label(e), ls="--" if alone else "-", marker="" if alone else "o", ms=3)
            panel.fill_between(x, mean - half, mean + half, color=colour, alpha=0.18, lw=0)
            if e.diverged:
                panel.plot(
                    x, [e.median(step) for step in e.scored], ":", color=colour, label=f"{_label(e)}: median, where the mean diverges"
                )
            panel.plot(list(e.claim), list(e.claim.values()), "x", color=colour, ms=7, mew=1.8)
        panel.set(title=case, xlabel="gradient steps")
        if 0 < WIDE * lowest < highest and not listed[0].metric.higher:
            panel.set(yscale="log", ylim=(0.7 * lowest, highest))
        elif highest > 0 and lowest >= 0:
            panel.set_ylim(0, highest)  # returns may be below 0
        panel.grid(alpha=0.25)
    panels[0].set_ylabel(listed[0].metric.name + "  (× the paper's number)" * any(e.claim for e in listed))
    shown = {label: handle for panel in panels for handle, label in zip(*panel.get_legend_handles_labels(), strict=True)}
    widest = 0.5 + 0.07 * max(map(len, shown))  # inches of a label and its line
    columns = max(1, min(len(shown), 4, int(figure.get_figwidth() / widest)))
    figure.legend(shown.values(), shown.keys(), fontsize=8, loc="outside lower center", ncols=columns)
    return figure


def training(rows: Sequence[Mapping[str, Any]], title: str) -> Figure:
    """Loss against iterations, of the meta-batches and of the validation tasks: the lines that ``train`` logs."""
    figure = Figure(figsize=(5.2, 3.6), layout="constrained")
    panel = figure.subplots()
    panel.set_title(title, fontsize=10)
    for key, label, colour, width in (("loss", "meta-batches", "#9aa5b1", 1.0), ("val", "validation tasks", COLOURS[0], 1.8)):
        at = [(row["iteration"], row[key]) for row in rows if key in row]
        if at:
            panel.plot(*zip(*at, strict=True), color=colour, lw=width, label=label, marker="o" if len(at) < 30 else "", ms=3)
    panel.set(xlabel="iterations", ylabel="loss", yscale="log")
    panel.grid(alpha=0.25, which="both")
    panel.legend(fontsize=8)
    return figure


def conflicts(runs: Mapping[str, Sequence[Mapping[str, Any]]]) -> Figure:
    """Degree of conflict of each tensor against iterations, one column a run; below it that within tasks.

    Fig. 3a and L of Baik et al. 2020.

    Args:
        runs: the lines that ``train(watch=…)`` logs, by title.
    """
    kinds = {"conflict": "between tasks", "conflict_within": "within a task"}
    shown = [key for key in kinds if any(key in row for rows in runs.values() for row in rows)]
    figure = Figure(figsize=(5.6 * len(runs), 0.6 + 3.4 * len(shown)), layout="constrained")
    grid = figure.subplots(len(shown), len(runs), squeeze=False, sharey=True, sharex="col")
    for panels, key in zip(grid, shown, strict=True):
        for panel, (title, rows) in zip(panels, runs.items(), strict=True):
            watched = [row for row in rows if key in row]
            names = list(watched[0][key]) if watched else []
            for k, name in enumerate(names):
                at = [(row["iteration"], row[key][name]) for row in watched if row[key][name] is not None]
                if at:
                    panel.plot(*zip(*at, strict=True), lw=1.6, label=name.removeprefix("net."), **_by_depth(name, k, len(names)))
            panel.set_title(f"{title}, {kinds[key]}")
            panel.grid(alpha=0.25)
        panels[0].set_ylabel("degree of conflict, radians")
    for panel in grid[-1]:
        panel.set_xlabel("iterations")
    grid[0][0].legend(fontsize=6, ncols=2)
    return figure


def _by_depth(name: str, k: int, of: int) -> dict[str, Any]:
    """The deeper, the darker; biases in a colour of their own."""
    return {"color": COLOURS["bias" in name], "alpha": 0.25 + 0.75 * k / max(of - 1, 1)}


def landscapes(runs: Mapping[str, Sequence[Mapping[str, Any]]]) -> Figure:
    """Range of the loss, differences of slopes and smoothness against iterations: Fig. 2, F, G and H of Baik et al. 2020.

    One row for the inner loop on training tasks, on validation tasks, and the outer loop.

    Args:
        runs: the lines that ``train(watch=…)`` logs, by title.
    """
    rows_of = {"inner": "inner loop", "inner_val": "inner loop, validation tasks", "outer": "outer loop"}
    shown = [key for key in rows_of if any(key in row for rows in runs.values() for row in rows)]
    figure = Figure(figsize=(12.0, 3.0 * len(shown)), layout="constrained")
    grid = figure.subplots(len(shown), 3, squeeze=False, sharex=True)
    for panels, key in zip(grid, shown, strict=True):
        for (title, rows), colour in zip(runs.items(), COLOURS, strict=False):
            watched = [row for row in rows if key in row]
            x = [row["iteration"] for row in watched]
            for panel, what in zip(panels, ("loss", "difference"), strict=False):
                ends = [[f(row[key][what]) for row in watched] for f in (min, max)]
                panel.fill_between(x, *ends, color=colour, alpha=0.3, lw=0, label=title)
                panel.plot(x, ends[1], color=colour, lw=0.8)
            panels[2].plot(x, [row[key]["smoothness"] for row in watched], color=colour, lw=1.6, label=title)
        panels[0].set_ylabel(rows_of[key])
        for panel, what in zip(panels, ("loss", "difference of slopes", "effective β"), strict=True):
            panel.set(yscale="log")
            panel.grid(alpha=0.25)
            if key == shown[0]:
                panel.set_title(what)
    for panel in grid[-1]:
        panel.set_xlabel("iterations")
    grid[0][0].legend(fontsize=8)
    return figure


def spread(values: Params, title: str, what: str) -> Figure:
    """Values of many tasks for each tensor, a box a tensor, 5 to 95 %: Fig. 3c and 3d of Baik et al. 2020.

    Args:
        values: by tensor, such as ``analysis.conflict`` and ``analysis.kept`` give.
        what: they are, with their unit.
    """
    figure = Figure(figsize=(1.6 + 0.6 * len(values), 3.8), layout="constrained")
    panel = figure.subplots()
    panel.boxplot([value[value.isfinite()].tolist() for value in values.values()], whis=(5, 95), showfliers=False)
    panel.set_xticks(range(1, len(values) + 1), [name.removeprefix("net.") for name in values], rotation=60, fontsize=7)
    panel.set(title=title, ylabel=what)
    panel.grid(alpha=0.25, axis="y")
    return figure


def attenuated(scores: Params, factors: Sequence[float], title: str, what: str) -> Figure:
    """Score against the factor that one layer is attenuated by, a line a layer: Fig. 3b of Baik et al. 2020.

    Args:
        scores: by layer, a score for each factor: rows of ``analysis.sweep``.
        factors: γ.
        what: is scored, with its unit.
    """
    figure = Figure(figsize=(5.6, 3.8), layout="constrained")
    panel = figure.subplots()
    for k, (name, line) in enumerate(scores.items()):
        panel.plot(factors, line, marker="o", ms=3, lw=1.6, label=name.removeprefix("net."), **_by_depth(name, k, len(scores)))
    panel.set(title=title, xlabel="γ of this layer alone", ylabel=what)
    panel.grid(alpha=0.25)
    panel.legend(fontsize=7)
    return figure


def _label(e: Entry) -> str:
    return e.title + (f" ({e.changed})" if e.changed else "")


@dataclass(frozen=True)
class Fit:
    """A line of a panel: what a learner predicts at a point of its path."""

    label: str
    learner: Learner
    tasks: Source
    point: int
    style: str = "-"
    colour: str = "#444444"


Run = tuple[Trial, Params, Mapping[str, float]]
"""A trial, its trained prior, and the inner rate of each case."""


def fits(run: Run, title: str, rows: int = 3, steps: Sequence[int] = (0, 1, 10)) -> Figure:
    """Curves fitted from a few points by one learner after several steps: one row a curve, one column a choice of points.

    Where an encoder modulates the prior, the prior itself is drawn too. Fig. 2 and 7 of Finn et
    al. 2017, Fig. 3b of Vuorio et al. 2018.
    """
    styles = {0: (":", "#9aa5b1"), 1: ("--", "#6aa84f"), 10: ("-", "#1b6ca8")}
    columns = {}
    for name, source in pictured(run[0]).items():
        learner = _scored(run, source).taking(max(steps))
        start, before = (
            learner.prepared,
            "modulated" if embeds(learner) else "after the meta-update" if isinstance(source, Goals) else "before",
        )
        found = [Fit("the prior itself", learner, source, 0, "-.", "#c99a2e")] if before != "before" else []
        for step in steps:
            label = f"after {step} step{'s' * (step > 1)}" if step else before
            found.append(Fit(label, learner, source, start + step, *styles.get(step, ("-.", "#444444"))))
        columns[name] = found
    return _fitted(columns, title, rows)


def fits_compared(runs: Mapping[str, Run], step: int, rows: int = 3) -> Figure:
    """The same curves fitted by several learners after so many steps, 0 for what they begin with.

    Fig. 2, 7 and 8 of Vuorio et al. 2018.
    """
    columns: dict[str, list[Fit]] = {}
    for (label, run), colour in zip(runs.items(), COLOURS, strict=False):
        for name, source in pictured(run[0]).items():
            learner = _scored(run, source)
            learner = learner.taking(step) if step else learner
            columns.setdefault(name, []).append(Fit(label, learner, source, learner.prepared + step, colour=colour))
    return _fitted(columns, f"after {step} step{'s' * (step > 1)}" if step else "before the first step", rows)


def pictured(trial: Trial) -> dict[str, Source]:
    """The tasks that figures show, as far as they are curves."""
    shown = trial.pictured or {}
    return {name: source for name, source in shown.items() if isinstance(_one_kind(source), (Curves, Goals))}


def _fitted(columns: Mapping[str, Sequence[Fit]], title: str, rows: int) -> Figure:
    figure = Figure(figsize=(4.2 * len(columns), 2.6 * rows), layout="constrained")
    figure.suptitle(title)
    panels = figure.subplots(rows, len(columns), squeeze=False, sharex=True)
    for column, (name, lines) in enumerate(columns.items()):
        source = _one_kind(lines[0].tasks)
        assert isinstance(source, (Curves, Goals)), "nothing else is pictured"
        shown, x = source.draw("test", 0, rows), torch.linspace(*source.x, 201)
        for row in range(rows):
            panel, support = panels[row][column], one(shown, row).support
            given_x, given_y = getattr(support, "batch", support)
            panel.plot(x, source.curve(source.coefficients("test", row, 1)[0], x), color="black", lw=1.2, ls="--", label="the curve")
            for line in lines:
                assert line.learner.model is not None, "a learner of a network has its model"
                with torch.no_grad():
                    path = line.learner.adapt(line.learner.prior, one(line.tasks.draw("test", row, 1), 0).support)
                    y = line.learner.model(path[line.point], x[:, None])[:, 0]
                panel.plot(x, y, line.style, color=line.colour, lw=1.6, label=line.label)
            panel.plot(given_x[:, 0], given_y[:, 0], "^", color="#6a3d9a", ms=6, label="given points")
            panel.grid(alpha=0.25)
            if row == 0:
                panel.set_title(name)
    panels[0][-1].legend(fontsize=7)
    return figure


def _scored(run: Run, source: Source) -> Learner:
    trial, prior, rates = run
    shots = getattr(_one_kind(source), "shots", None)
    return trial.scored(prior, rates.get(f"{shots}-shot", next(iter(rates.values()))))


def _one_kind(source: Source) -> Source:
    """The source itself, or the only one of a mixture."""
    if isinstance(source, Mixture):
        shares = source.shares or [1] * len(source.sources)
        drawn = [each for each, share in zip(source.sources.values(), shares, strict=True) if share]
        return drawn[0] if len(drawn) == 1 else source
    return source


def modes(embedding: Tensor, of: Tensor, names: Sequence[str], title: str) -> Figure:
    """What an encoder tells of tasks, laid out in the plane and coloured by their true mode.

    The title has the part of the tasks whose mode a linear classifier reads off the embedding.
    Fig. 4 of Vuorio et al. 2018.
    """
    figure = Figure(figsize=(5.4, 4.8), layout="constrained")
    panel, places = figure.subplots(), in_the_plane(embedding)
    for mode, name in enumerate(names):
        panel.scatter(*places[of == mode].T, s=6, color=COLOURS[mode % len(COLOURS)], label=name, alpha=0.7)
    panel.set(xticks=[], yticks=[])
    panel.set_title(f"{title}\na linear probe tells {100 * probe(embedding, of):.1f} % of modes", fontsize=9)
    panel.legend(fontsize=8)
    return figure
