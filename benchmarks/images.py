"""How fast sets of images are opened and tasks are drawn from them, and what memory that takes.

    python benchmarks/images.py

writes ``benchmarks/images.json`` and the table in ``benchmarks/README.md``. The sets are noise of the sizes of Omniglot
and of mini-ImageNet, made in a folder that is removed again (1.3 GB); what is in a pixel does not matter here.
"""

import json
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from itertools import count
from math import prod
from pathlib import Path

import numpy
from tables import measured_on, put

from innerloop.environment import environment
from innerloop.images import Class, open_images, write
from innerloop.tasks import ImageTasks

BEGIN, END = "<!-- table: written by images.py -->", "<!-- end of images -->"
SETS = {"Omniglot's size": (1623, 20, (28, 28, 1)), "mini-ImageNet's size": (100, 600, (84, 84, 3))}
"""Classes, images of each, and their shape."""


def noise(classes: int, each: int, shape: tuple[int, int, int]) -> Iterator[Class]:
    generator = numpy.random.default_rng(0)
    return (Class(f"{k:04}", generator.integers(256, size=(each, *shape), dtype=numpy.uint8)) for k in range(classes))


def milliseconds(what: Callable[[], object], repeats: int) -> float:
    """Median of so many calls."""
    taken = []
    for _ in range(repeats):
        start = time.perf_counter()
        what()
        taken.append(1e3 * (time.perf_counter() - start))
    return statistics.median(taken)


def resident() -> dict[str, int]:
    """Bytes of the process in memory: of its own, and pages of files that it has touched."""
    kinds = {"RssAnon:": "own", "RssFile:": "map"}
    rows = [line.split() for line in Path("/proc/self/status").read_text().splitlines()]
    return {kinds[row[0]]: 1024 * int(row[1]) for row in rows if row and row[0] in kinds}


def measured(classes: int, each: int, shape: tuple[int, int, int]) -> dict[str, float]:
    with tempfile.TemporaryDirectory() as folder:
        write("noise", noise(classes, each, shape), folder)

        def opened(queries: int = 15) -> ImageTasks:
            return ImageTasks(open_images(folder), {"train": range(classes)}, ways=5, shots=1, queries=queries)

        opened(1).draw("train", 0, 1)  # what is imported and set up once
        before = resident()
        tasks = opened()
        tasks.draw("train", 0, 32)
        after, number = resident(), count(1)
        few = opened(1)
        return {
            "images": classes * each,
            "on disk, MB": classes * each * prod(shape) / 1e6,
            "open, ms": milliseconds(opened, 20),
            "draw 32 tasks of 5 ways, 1 support and 1 query image a class, ms": milliseconds(
                lambda: few.draw("train", 32 * next(number), 32), 200
            ),
            "the same with 15 query images, ms": milliseconds(lambda: tasks.draw("train", 32 * next(number), 32), 200),
            "pixels of 32 tasks with 15 query images, MB": 32 * 5 * 16 * prod(shape) / 1e6,
            "memory of its own that is more after these, MB": (after["own"] - before["own"]) / 1e6,
            "pages of the map that are in memory after these, MB": (after["map"] - before["map"]) / 1e6,
        }


def main() -> None:
    found = {name: measured(*of) for name, of in SETS.items()}
    about = environment()
    Path(__file__).with_suffix(".json").write_text(json.dumps({"sets": found, **about}, indent=1) + "\n")
    lines = ["| sets of images | " + " | ".join(found) + " |", "|---" * (1 + len(found)) + "|"]
    for what in next(iter(found.values())):
        cells = (f"{own[what]:,.0f}" if own[what] >= 100 else f"{own[what]:.2f}" for own in found.values())
        lines.append(f"| {what} | " + " | ".join(cells) + " |")
    table = "\n".join([*lines, "", measured_on(about)])
    put(BEGIN, table, END)
    print(table)


if __name__ == "__main__":
    main()
