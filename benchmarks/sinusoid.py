"""How fast the sinusoid runs are: one command, one table.

    python benchmarks/sinusoid.py

writes ``benchmarks/sinusoid.json`` and the table in ``benchmarks/README.md``. Ways to compute the
same meta-gradient take turns in one process, A B C A B C …, and medians are compared, so that
whatever else the machine does falls on all alike. Leave the machine alone meanwhile.
"""

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from tables import measured_on, put
from torch import Tensor, nn

import innerloop as il
from innerloop.batches import count, one
from innerloop.engine import Plan, meta_gradient
from innerloop.environment import environment
from innerloop.outer import logged

HERE = Path(__file__).parent
BEGIN, END = "<!-- table: written by sinusoid.py -->", "<!-- end of table -->"


def plain_loop(net: nn.Sequential, steps: int, rate: float) -> Callable[[il.Task], list[Tensor]]:
    """MAML as one would write it by hand: a loop over tasks, autograd.grad with a graph kept."""
    params = [p.detach().clone().requires_grad_() for p in net.parameters()]

    def forward(weights: list[Tensor], x: Tensor) -> Tensor:
        for k in range(0, len(weights), 2):
            x = nn.functional.linear(x, weights[k], weights[k + 1])
            x = x.relu() if k + 2 < len(weights) else x
        return x

    def gradient(tasks: il.Task) -> list[Tensor]:
        losses = []
        for k in range(count(tasks)):
            (x, y), (query, target) = one(tasks, k)
            fast = params
            for _ in range(steps):
                slopes = torch.autograd.grad(nn.functional.mse_loss(forward(fast, x), y), fast, create_graph=True)
                fast = [p - rate * g for p, g in zip(fast, slopes, strict=True)]
            losses.append(nn.functional.mse_loss(forward(fast, query), target))
        return list(torch.autograd.grad(torch.stack(losses).mean(), params))

    return gradient


def in_turns(ways: dict[str, Callable[[], object]], seconds: float = 12.0) -> dict[str, float]:
    """Median milliseconds of each way, measured in turns."""
    for way in ways.values():
        for _ in range(3):
            way()
    taken: dict[str, list[float]] = {name: [] for name in ways}
    stop = time.perf_counter() + seconds
    while time.perf_counter() < stop:
        for name, way in ways.items():
            start = time.perf_counter()
            for _ in range(5):
                way()
            taken[name].append((time.perf_counter() - start) / 5)
    return {name: 1e3 * statistics.median(times) for name, times in taken.items()}


def meta_gradients(steps: int, tasks: int) -> dict[str, float]:
    """Milliseconds of one meta-gradient, by hand and by plans; that they agree is checked."""
    net = il.mlp(1, 40, 40, 1)
    learner = il.maml(net, il.mse(net), steps, 0.01)
    batch = il.Sinusoids().draw("train", 0, tasks)
    by_hand = plain_loop(net, steps, 0.01)
    plans = {str(plan): meta_gradient(learner, plan) for plan in (Plan(), Plan(compiled=True))}
    for gradient in plans.values():
        for a, b in zip(gradient(learner.prior, batch)[0].values(), by_hand(batch), strict=True):
            torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-5)
    ways: dict[str, Callable[[], object]] = {"loop by hand": lambda: by_hand(batch)}
    ways |= {name: lambda gradient=gradient: gradient(learner.prior, batch) for name, gradient in plans.items()}
    return in_turns(ways)


def whole_run() -> dict[str, float]:
    """``innerloop run maml/sinusoid`` as a process of its own with an empty compile cache, and a shorter one after it."""
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        result, rows = run_in(Path(folder), "first")
        seconds = time.perf_counter() - start
        again, _ = run_in(Path(folder), "second", "--iterations", "20000")
    first, last = rows[0], rows[-1]
    return {
        "seconds in all": seconds,
        "seconds to compile": compiling(result),
        "seconds to compile, second run": compiling(again),
        "iterations per second, once compiled": (last["iteration"] - first["iteration"]) / (last["seconds"] - first["seconds"]),
        "peak memory, MB": result["peak_memory_mb"],
    }


def run_in(folder: Path, name: str, *options: str) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """The result line and the metrics of a run whose compile cache lies in the folder."""
    command = [sys.executable, "-m", "innerloop", "run", "maml/sinusoid", "--out", str(folder / name), "--no-progress", *options]
    subprocess.run(command, check=True, env={**os.environ, "TORCHINDUCTOR_CACHE_DIR": str(folder / "cache")}, stdout=subprocess.DEVNULL)
    run = folder / name / "maml/sinusoid/seed0"
    return json.loads((run / "result.json").read_text()), logged(run)


def compiling(result: dict[str, Any]) -> float:
    return sum(seconds for what, seconds in result["engine"]["seconds"].items() if what.startswith("compiling"))


def import_time(repeats: int = 7) -> float:
    """Seconds that ``import innerloop`` takes beyond ``import torch, numpy``."""
    code = "import torch, numpy, time; t = time.perf_counter(); import innerloop; print(time.perf_counter() - t)"
    done = [subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True) for _ in range(repeats)]
    return statistics.median(float(d.stdout) for d in done)


def drawing() -> float:
    """Milliseconds to draw 25 tasks, on average over 2,000 draws in a row."""
    source = il.Sinusoids(seed=12345)
    start = time.perf_counter()
    for k in range(2000):
        source.draw("train", 25 * k, 25)
    return 1e3 * (time.perf_counter() - start) / 2000


def main() -> None:
    gradients = {f"{tasks} tasks, {steps} steps": meta_gradients(steps, tasks) for tasks, steps in ((25, 1), (25, 5), (100, 1))}
    found = {
        "meta-gradient, ms": gradients,
        "draw 25 tasks, ms": drawing(),
        "import, s": import_time(),
        "run": whole_run(),
        **environment(),
    }
    (HERE / "sinusoid.json").write_text(json.dumps(found, indent=1) + "\n")

    lines = ["| one meta-gradient, 1–40–40–1 network, 10 + 10 points | loop by hand | vmap | vmap+compile |", "|---|---|---|---|"]
    for name, ways in gradients.items():
        base = ways["loop by hand"]
        lines.append(f"| {name} | " + " | ".join(f"{ms:.2f} ms ({base / ms:.1f} ×)" for ms in ways.values()) + " |")
    lines += ["", "| `innerloop run maml/sinusoid`, cold | |", "|---|---|"]
    lines += [f"| {name} | {value:,.{int(value < 10)}f} |" for name, value in found["run"].items()]
    lines += [
        f"| drawing 25 tasks, ms | {found['draw 25 tasks, ms']:.3f} |",
        f"| `import innerloop` beyond torch's own time, s | {found['import, s']:.3f} |",
    ]
    table = "\n".join([*lines, "", measured_on(found)])
    put(BEGIN, table, END)
    print(table)


if __name__ == "__main__":
    main()
