"""``innerloop adapt``: a trained run, a few labelled examples, predictions."""

import csv
from dataclasses import dataclass
from pathlib import Path

from rich.table import Column, Table
from tyro.conf import Positional

from innerloop import experiments
from innerloop.commands.words import check_file, print_table, write
from innerloop.errors import InputError
from innerloop.evaluate import predict
from innerloop.experiments.experiment import ACCURACY, Metric
from innerloop.experiments.kept import trial_of
from innerloop.folders import input_colours, input_shape, legible, predict_images, shots_in
from innerloop.learner import Learner


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
    check_file(given.out, "--out")
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
    if metric.name == ACCURACY.name:
        raise InputError(
            f"{given.run} is a classifier, and {given.support} is for regression; give --support and --query folders of images"
        )
    rows = predict(learner, (x, y), query, given.steps).tolist()
    lines = "".join(",".join(f"{value:.6g}" for value in row) + "\n" for row in rows)
    if given.out:
        write(given.out, lines)
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
    print_table(table)
    if given.out:
        write(given.out, found.csv())


def _adaptable(run: Path, support: Path | None = None) -> tuple[Learner, Metric]:
    """A run's learner for as many images as a folder has, and what it is scored by, once it is known that it adapts to examples."""
    trial, about = trial_of(run)
    if not hasattr(trial.tasks, "draw"):
        raise InputError(f"{run} is of policies, which adapt to rollouts of their own, not to examples; score it with innerloop evaluate")
    shots = shots_in(support) if support else None
    return experiments.load(run, shots=shots), experiments.catalogue()[about["experiment"]].metric


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
