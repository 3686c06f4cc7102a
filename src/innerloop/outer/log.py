"""The log of a run: one JSON line for every hundred iterations or so, and TensorBoard's events on wish."""

import json
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any, TextIO

from innerloop import checkpoint
from innerloop.errors import InputError

METRICS = "metrics.jsonl"

Row = dict[str, Any]


def logged(folder: Path) -> list[Row]:
    """The lines that a run has logged; none where it was not trained.

    Raises:
        InputError: a line is damaged.
    """
    file, rows = folder / METRICS, []
    for number, line in enumerate(file.read_text(errors="replace").splitlines() if file.exists() else (), 1):
        try:
            rows.append(dict(json.loads(line)))
        except (ValueError, TypeError) as problem:
            raise InputError(f"line {number} of {file} is no line of metrics; remove it, or copy the file again") from problem
    return rows


@contextmanager
def open_log(
    folder: Path | None, first: int, clock: Callable[[], float], track: bool, also: Callable[[Row], None]
) -> Iterator[Callable[[Row], None]]:
    """A function that writes a line of metrics with the time; lines after iteration ``first`` of an earlier start are dropped.

    Args:
        clock: seconds that the run has taken.
        track: write TensorBoard events too.
        also: is called with every line.
    """
    with _board(folder if track else None) as board, _lines(folder / METRICS if folder else None, first) as file:

        def write(row: Row) -> None:
            row = {**row, "seconds": round(clock(), 3)}
            if file:
                file.write(json.dumps(row) + "\n")
            for key in row.keys() & {"loss", "val", "return"}:
                board(key, row[key], row["iteration"])
            also(row)

        yield write


def _lines(path: Path | None, first: int) -> AbstractContextManager[TextIO | None]:
    """The file of metrics, open behind its lines up to iteration ``first``; what a kill left half-written goes."""
    if path is None:
        return nullcontext()
    kept = []
    for line in path.read_text(errors="replace").splitlines() if first and path.exists() else ():
        try:
            kept += [line + "\n"] if json.loads(line)["iteration"] <= first else []
        except (ValueError, KeyError, TypeError):
            continue
    checkpoint.write_whole(path, "".join(kept))
    return path.open("a", buffering=1)


@contextmanager
def _board(folder: Path | None) -> Iterator[Callable[[str, float, int], None]]:
    if folder is None:
        yield lambda key, value, iteration: None
        return
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as problem:
        raise InputError("track needs TensorBoard; install innerloop[track]") from problem
    with SummaryWriter(str(folder)) as writer:
        yield writer.add_scalar
