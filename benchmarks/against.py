"""How fast meta-gradients are here and in other libraries: one command, one table, one plot.

    python benchmarks/against.py

writes ``benchmarks/against.json``, ``benchmarks/against.png`` and the tables in ``benchmarks/README.md``.
Every way to compute a meta-gradient runs in a process of its own, as threads, allocator and peak memory
belong to a process; the processes of a workload take turns, A B C A B C …, so that only one computes at a
time and whatever else the machine does falls on all alike. Parts can be run alone (``--race``,
``--scaling``, ``--compile``, ``--memory``, ``--only PATTERN``): what they find replaces only their own
part of the JSON, a workload's row as a whole. Leave the machine alone meanwhile.
"""

import argparse
import importlib
import json
import math
import os
import re
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, replace
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy
import torch
from networks import ResNet12, conv32, conv64, useful_flops
from numpy.linalg import norm
from tables import measured_on, put
from torch import Tensor, nn

import innerloop as il
from innerloop.engine import ENGINES, Plan, choose, meta_gradient
from innerloop.engine.memory import peak_memory
from innerloop.environment import environment
from innerloop.params import Params

HERE = Path(__file__).parent
BEGIN, END = "<!-- table: written by against.py -->", "<!-- end of against -->"

RATE = 0.01
RELATED = 5  # tasks of a family that a meta-step descends on; two others judge it
WRONG = 5e-2  # relative error of the gradient from which a way is called wrong; ReLUs that flip in float32 alone make 1e-2
DEEP = 0.3  # the same on ResNet-12, where flips alone make 0.15 after 5 steps; in float64 all agree to 1e-13
SLOW = 20.0  # seconds of a call from which a way is not asked for heavier workloads of the same network
PATIENCE = 300.0  # seconds after which a call is given up
LONG = 10.0  # seconds from which a first call is as good as the later ones, where nothing is compiled

KEPT = {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": "-1"}  # for the C library, as innerloop asks it

TITLES = {
    "l2l": "learn2learn",
    "l2l kept": "learn2learn, kept memory",
    "higher_": "higher",
    "torchopt_": "TorchOpt",
    "jax_": "JAX",
    "plain_vmap": "torch.func",
    "by_hand": "by hand",
}
IMAGES = {"conv64": (1, 28, 28), "conv32": (3, 84, 84), "resnet12": (3, 84, 84)}
DATA = {
    "sinusoid": "sinusoid",
    "conv64": "Omniglot",
    "conv32": "mini-ImageNet",
    "resnet12": "mini-ImageNet",
    "modulated": "sinusoid and lines",
    "third order": "sinusoid",
}

Way = str | Plan  # a file of peers/, or a plan of innerloop
Row = dict[str, Any]


@dataclass(frozen=True)
class Workload:
    """One meta-gradient to compute.

    Args:
        network: a key of ``DATA``.
        tasks: in a meta-batch; families of tasks where it is of third order.
        classes, shots, queries: of an image task, images per class; a sinusoid has 10 and 10 points.
        width: of the sinusoid's two hidden layers.
    """

    network: str
    tasks: int
    steps: int
    classes: int = 5
    shots: int = 1
    queries: int = 1
    width: int = 40

    def __str__(self) -> str:
        if self.network == "third order":
            return f"{DATA[self.network]} third order, {self.tasks} families"
        if self.network == "modulated":
            return f"{DATA[self.network]} MuMoMAML, {_many(self.tasks, 'task')}, {_many(self.steps, 'step')}"
        kind = "" if self.network == "sinusoid" else f" {self.network} {self.classes}-way"
        return f"{DATA[self.network]}{kind}, {_many(self.tasks, 'task')}, {_many(self.steps, 'step')}"


# Of each network the light ones first: a way that took too long on one is not asked for the heavier ones.
WORKLOADS = [
    *(Workload("sinusoid", 25, steps) for steps in (1, 5, 10)),
    *(Workload("sinusoid", tasks, 1) for tasks in (4, 100, 1000)),
    Workload("conv64", 32, 1),
    Workload("conv64", 16, 1, classes=20),
    Workload("conv64", 32, 5),
    *(Workload("conv32", 4, steps, queries=15) for steps in (1, 5, 10, 20)),
    Workload("resnet12", 1, 5, queries=5),
    Workload("modulated", 50, 5),
    *(Workload("third order", families, 1) for families in (2, 10)),
]


def network(load: Workload) -> nn.Module:
    """The workload's network, started the same each time."""
    torch.manual_seed(0)
    made = {"conv64": conv64, "conv32": conv32, "resnet12": ResNet12}
    if load.network == "modulated":
        return il.with_film(il.mlp(1, 100, 100, 100, 1))
    return made[load.network](load.classes) if load.network in made else il.mlp(1, load.width, load.width, 1)


def drawn(load: Workload) -> il.Task:
    """Its tasks: sine waves, or images of normal noise, whose arithmetic is that of photographs."""
    if load.network == "sinusoid":
        return il.Sinusoids().draw("train", 0, load.tasks)
    if load.network == "modulated":
        return il.Mixture({"waves": il.Sinusoids(5), "lines": il.tasks.Lines(5)}).draw("train", 0, load.tasks)
    if load.network == "third order":
        seen, unseen = (il.Sinusoids(seed=seed).draw("train", 0, load.tasks * each) for seed, each in ((0, RELATED), (1, 2)))
        return il.Task(*(il.batches.map_tensors(lambda t: t.unflatten(0, (load.tasks, -1)), part) for part in (seen, unseen)))
    generator = torch.Generator().manual_seed(0)

    def part(images: int) -> tuple[Tensor, Tensor]:
        x = torch.randn(load.tasks, load.classes * images, *IMAGES[load.network], generator=generator)
        return x, torch.arange(load.classes).repeat_interleave(images).repeat(load.tasks, 1)

    return il.Task(part(load.shots), part(load.queries))


def learner_of(load: Workload, net: nn.Module) -> il.Learner:
    """MAML; MuMoMAML where it is modulated; MALTML where it is of third order."""
    if load.network == "third order":
        return il.maltml(il.maml(net, il.mse(net), 1, RATE), 1, RATE / RELATED)  # its rate is on the sum over related tasks
    if load.network == "modulated":
        encoder = il.Recurrent(2, hidden=40, generator=torch.Generator().manual_seed(1))
        return il.mumomaml(net, il.mse(net), load.steps, RATE / 10, encoder=encoder, generator=torch.Generator().manual_seed(2))
    return il.maml(net, il.cross_entropy(net) if load.network in IMAGES else il.mse(net), load.steps, RATE)


def flops(load: Workload) -> int | None:
    """Useful floating-point operations of one meta-gradient of MAML."""
    if load.network == "sinusoid":
        support = query = 10
    elif load.network in IMAGES:
        support, query = load.classes * load.shots, load.classes * load.queries
    else:
        return None
    return useful_flops(network(load), IMAGES.get(load.network, (1,)), load.steps, support, query, load.tasks)


def learned(prior: Params) -> Params:
    """The parameters that a gradient is wanted of: not the scales and shifts that modulation puts others in the place of."""
    return {name: p for name, p in prior.items() if not name.endswith((".scale", ".shift"))}


def prepared(load: Workload, way: Way) -> Callable[[], list[Tensor]]:
    """The function to be timed: one meta-gradient at each call."""
    net, tasks = network(load), drawn(load)
    if isinstance(way, Plan):
        learner = learner_of(load, net)
        gradient = meta_gradient(learner, way)
        names = list(learned(learner.prior))
        return lambda: list(map(gradient(learner.prior, tasks)[0].__getitem__, names))
    peer = importlib.import_module(f"peers.{way.removesuffix(' kept')}")
    if load.network == "third order":
        return peer.prepare_third_order(net, RATE, tasks)
    if load.network == "modulated":
        return peer.prepare_modulated(learned(learner_of(load, net).prior), load.steps, RATE / 10, tasks)
    return peer.prepare(net, load.network in IMAGES, load.steps, RATE, tasks)


# What runs in a process of its own. A string as an answer is what went wrong, in one line.


def compute(pipe: Connection, load: Workload, way: Way) -> None:
    """One way: makes ready, then calls for as many seconds as each message says, at least once, until one is None."""
    warnings.simplefilter("ignore")
    try:
        call, gradient = prepared(load, way), list[Tensor]()
        before = _peak_mb()
        pipe.send(None)
        while (seconds := pipe.recv()) is not None:
            taken: list[float] = []
            while not taken or sum(taken) < seconds:
                start = time.perf_counter()
                gradient = call()
                taken.append(time.perf_counter() - start)
            pipe.send(taken)
        pipe.send((before, _peak_mb(), _flat(gradient)))
    except EOFError:
        pass  # nobody asks any more
    except Exception as problem:
        pipe.send(_line(problem))


def expect(pipe: Connection, load: Workload, engine: str) -> None:
    """The gradient to be found, by ``loop``, the plan of the engine, and the seconds that choosing it took."""
    try:
        learner, tasks = learner_of(load, network(load)), drawn(load)
        expected = _flat(list(learned(meta_gradient(learner, Plan(loop=True))(learner.prior, tasks)[0]).values()))
        start, plan = time.perf_counter(), Plan.named(engine)
        if plan is None:
            plan = choose(learner, learner.prior, tasks, iterations=10**6)[0]
        pipe.send((expected, plan, time.perf_counter() - start))
    except Exception as problem:
        pipe.send(_line(problem))


class Failed(Exception):
    """A process could not do what it was asked for; the message says why in one line."""


Ask = Callable[..., Any]


@contextmanager
def process(target: Callable[..., None], *args: Any, own: dict[str, str] | None = None, patience: float = PATIENCE) -> Iterator[Ask]:
    """A fresh process, as a function: what is given to it is sent there, its answer comes back.

    Args:
        own: its own environment variables, beyond those of this process.
        patience: seconds after which an answer is not waited for any longer.
    """
    context = get_context("spawn")
    ours, theirs = context.Pipe()
    worker = context.Process(target=target, args=(theirs, *args), daemon=True)
    before = dict(os.environ)
    os.environ.update(own or {})
    worker.start()
    os.environ.clear()
    os.environ.update(before)
    theirs.close()

    def ask(*message: Any) -> Any:
        try:
            for part in message:
                ours.send(part)
            if not ours.poll(patience):
                worker.kill()
                raise Failed(f"gave up after {patience:.0f} s")
            answer = ours.recv()
        except (EOFError, OSError):
            worker.join(5)
            raise Failed(f"its process ended by itself, exit code {worker.exitcode}; was there memory enough?") from None
        if isinstance(answer, str):
            raise Failed(answer)
        return answer

    try:
        yield ask
    finally:
        ours.close()
        worker.join(3)
        worker.kill()
        worker.join()


# What the parts are made of.


def race(load: Workload, ways: dict[str, Way], seconds: float, rounds: int, peaks: list[float], own: dict[str, str]) -> dict[str, Row]:
    """What each way took, measured in turns; ``seconds`` is for one way, all rounds together.

    Nothing is called again whose first call took ``LONG`` and more than all its seconds without compiling anything.
    """
    rows: dict[str, Row] = {name: {} for name in ways}
    taken: dict[str, list[float]] = {}
    with ExitStack() as stack:
        asks: dict[str, Ask] = {}

        def each(request: Callable[[str], None]) -> None:
            for name in list(asks):
                try:
                    request(name)
                except Failed as problem:
                    rows[name] = {"error": str(problem)}
                    del asks[name]
                    taken.pop(name, None)

        def first(name: str) -> None:
            way = ways[name]
            [once] = asks[name](0.0)
            rows[name]["first call, s"] = once
            compiles = way.compiled if isinstance(way, Plan) else way == "jax_"
            taken[name] = [once] if once > max(seconds, LONG) and not compiles else []

        def turn(name: str) -> None:
            if sum(taken[name]) < seconds:
                taken[name] += asks[name](seconds / rounds)

        def end(name: str) -> None:
            before, peak, gradient = asks[name](None)
            rows[name] |= {"peak memory, MB": peak, "memory of its own, MB": peak - before, "gradient": gradient}

        for name, way in ways.items():
            kept = KEPT if isinstance(way, str) and way.endswith(" kept") else {}
            asks[name] = stack.enter_context(process(compute, load, way, own=own | kept))
        each(lambda name: asks[name]())  # all are ready before any computes
        each(first)
        for _ in range(rounds):
            peaks.append(matmul_peak())
            each(turn)
        each(end)
    for name, times in taken.items():
        low, middle, high = statistics.quantiles(times, n=4, method="inclusive") if len(times) > 1 else times * 3
        rows[name] |= {"calls": len(times), "seconds": middle, "quartiles, s": [low, high], "meta-iterations/s": 1 / middle}
    return rows


def matmul_peak(size: int = 2048) -> float:
    """GFLOP/s of a float32 matrix product."""
    a, times = torch.ones(size, size), list[float]()
    for _ in range(3):
        start = time.perf_counter()
        torch.mm(a, a)
        times.append(time.perf_counter() - start)
    return 2 * size**3 / statistics.median(times) / 1e9


def compared(load: Workload, args: argparse.Namespace, given_up: set[tuple[str, str]]) -> Row:
    """All ways on one workload: their speed, memory and error, and what the workload is.

    Args:
        given_up: pairs of network and way that took too long before; new ones are added.
    """
    peaks: list[float] = []
    with tempfile.TemporaryDirectory() as cache:
        own = {"TORCHINDUCTOR_CACHE_DIR": cache}
        # auto tries plans of much memory, so it chooses in a process that is not measured. ResNet-12 is
        # given what it would take, since trying the others takes minutes.
        engine = "loop+stepwise+compile" if load.network == "resnet12" else "auto"
        with process(expect, load, engine, own=own, patience=4 * PATIENCE) as ask:
            expected, plan, choosing = ask()
        every: dict[str, Way] = {"innerloop": plan} | ways_of(load, args)
        skipped = {name for name in every if (load.network, name) in given_up}
        rows = race(load, {n: w for n, w in every.items() if n not in skipped}, args.seconds, args.rounds, peaks, own)
    rows |= {name: {"error": "too slow on a lighter workload"} for name in skipped}
    work, peak = flops(load), statistics.median(peaks)
    for name, row in rows.items():
        if "error" in row:
            given_up |= {(load.network, name)} if "gave up" in row["error"] else set()
            print(f"  {name}: {row['error']}")
            continue
        row["relative error"] = float(norm(row.pop("gradient") - expected) / norm(expected))
        row["allowed error"] = DEEP if load.network == "resnet12" else WRONG
        if row["seconds"] > SLOW and name != "innerloop":
            given_up.add((load.network, name))
        if load.network in IMAGES and name == TITLES["plain_vmap"]:
            row["known to be wrong"] = "second derivatives of torch's batch normalisation under vmap"
        if work is not None:
            row["useful GFLOP/s"] = work / row["seconds"] / 1e9
            row["fraction of peak"] = row["useful GFLOP/s"] / peak
        print(f"  {name}: {row['seconds']:.4g} s, {row['peak memory, MB']:.0f} MB, error {row['relative error']:.1e}", flush=True)
    rows["innerloop"] |= {"plan": str(plan), "choosing, s": choosing}
    return {"workload": asdict(load), "useful GFLOP": work and work / 1e9, "matrix product, GFLOP/s": peak, "ways": rows}


def ways_of(load: Workload, args: argparse.Namespace) -> dict[str, Way]:
    """Whatever is to be compared with the plan of ``auto``."""
    peers: list[str] = args.peers
    plans: list[str] = args.plans
    if load.network in ("modulated", "third order"):
        peers, plans = [peer for peer in peers if peer == "by_hand"], ["vmap", *plans]
    elif load.network == "resnet12":
        peers, plans = [peer for peer in peers if peer in ("by_hand", "l2l")], ["loop+recompute", *plans]
    elif load.network in IMAGES and "l2l" in peers:
        peers = [*peers, "l2l kept"]
    return {f"innerloop {plan}": Plan.named(plan) or Plan() for plan in plans} | {TITLES[peer]: peer for peer in peers}


def scaling(args: argparse.Namespace) -> Row:
    """Exponents of cost ∝ size, least squares on logarithms, for the sinusoid network around 25 tasks, 1 step, 40 units."""
    base, grids = Workload("sinusoid", 25, 1), {"tasks": (25, 100, 400), "steps": (1, 3, 10), "width": (40, 160, 640)}
    ways: dict[str, Way] = {"vmap+compile": Plan(compiled=True), "loop": Plan(loop=True), "by hand": "by_hand"}
    seconds: dict[Workload, dict[str, Row]] = {}
    found: Row = {}
    for size, grid in grids.items():
        loads = [replace(base, **{size: value}) for value in grid]
        for load in loads:
            seconds[load] = seconds.get(load) or race(load, ways, args.seconds / 2, args.rounds, [], {})
        found[size] = {"at": grid}
        for way in ways:
            y = [seconds[load][way].get("seconds", math.nan) for load in loads]
            found[size][way] = {"slope": _slope([float(v) for v in grid], y), "seconds": y}
        print(f"  {size}: " + ", ".join(f"{way} {found[size][way]['slope']:.2f}" for way in ways), flush=True)
    return found


def compiling() -> Row:
    """Seconds of the first meta-gradient in a fresh process, for one task of mini-ImageNet's network, by steps."""
    found: Row = {}
    for steps in (1, 20):
        with tempfile.TemporaryDirectory() as cache:
            for state in ("cold", "again"):
                way: Way = Plan(loop=True, recompute=True, compiled=True)
                own = {"TORCHINDUCTOR_CACHE_DIR": cache}
                with process(compute, Workload("conv32", 1, steps, queries=15), way, own=own, patience=4 * PATIENCE) as ask:
                    ask()
                    [first] = ask(0.0)
                    [call] = ask(0.0)
                    ask(None)
                found[f"{_many(steps, 'step')}, {state}"] = {"first call, s": first, "second call, s": call}
                print(f"  {_many(steps, 'step')}, {state}: {first:.1f} s, then {call:.2f} s", flush=True)
    return found


def memory() -> Row:
    """Peak memory of two calls, for four tasks of mini-ImageNet's network, by plan and steps."""
    found: Row = {}
    recomputed = Plan(loop=True, recompute=True)
    for way, steps in ((recomputed, 5), (recomputed, 20), (Plan(loop=True), 5), (Plan(), 5)):
        with process(compute, Workload("conv32", 4, steps, queries=15), way) as ask:
            ask()
            ask(0.0)
            ask(0.0)
            before, peak, _ = ask(None)
        found[f"{way}, {steps} steps"] = {"peak memory, MB": peak, "memory of its own, MB": peak - before}
        print(f"  {way}, {steps} steps: {peak:.0f} MB, {peak - before:.0f} of its own", flush=True)
    return found


# What is written.


def tables(found: Row) -> str:
    """All that was found, as Markdown."""
    loads: dict[str, Row] = found.get("workloads", {})
    used = {name for load in loads.values() for name in load["ways"]}
    names = ["innerloop", *(n for n in TITLES.values() if n in used)]
    lines: list[str] = []
    if loads:
        lines += ["![Speed of each library on each workload, relative to learn2learn](against.png)", ""]
        lines += [_table_row("meta-iterations per second", *names), "|---" * (len(names) + 1) + "|"]
        lines += [_table_row(name, *(_speed(load, way) for way in names)) for name, load in loads.items()]
        lines += ["", _table_row("peak memory, MB (of its own)", *names), "|---" * (len(names) + 1) + "|"]
        cells = {name: [_memory(load["ways"].get(way)) for way in names] for name, load in loads.items()}
        lines += [_table_row(name, *row) for name, row in cells.items() if {*row} != {"–"}]
        plans: dict[str, list[str]] = {}
        for name, load in loads.items():
            plans.setdefault(load["ways"]["innerloop"]["plan"], []).append(name)
        lines += ["", "Plans that `auto` took: " + "; ".join(f"`{plan}` on {' · '.join(on)}" for plan, on in plans.items()) + "."]
        others = [
            f"`{way.removeprefix('innerloop ')}` on {name} {_speed(load, way)}"
            for name, load in loads.items()
            for way, row in load["ways"].items()
            if way.startswith("innerloop ") and "seconds" in row
        ]
        lines += ["", "Other plans, meta-iterations per second: " + "; ".join(others) + "."] if others else []
        reasons = {
            f"{way} on {name}: {row['error']}" for name, load in loads.items() for way, row in load["ways"].items() if "error" in row
        }
        lines += ["", "Not measured: " + "; ".join(sorted(reasons)) + "."] if reasons else []
    for size, row in found.get("scaling", {}).items():
        slopes = ", ".join(f"{way} {part['slope']:.2f}" for way, part in row.items() if way != "at")
        lines += ["", f"Cost ∝ {size}^slope over {', '.join(map(str, row['at']))} {size}, sinusoid: {slopes}."]
    if "compile" in found:
        parts = (
            f"{name} {row['first call, s']:.0f} s (later calls {row['second call, s']:.2g} s)" for name, row in found["compile"].items()
        )
        lines += ["", "First call of `loop+recompute+compile` in a fresh process, mini-ImageNet, 1 task: " + ", ".join(parts) + "."]
    if "memory" in found:
        parts = (f"`{name}` {row['peak memory, MB']:,.0f} ({row['memory of its own, MB']:,.0f})" for name, row in found["memory"].items())
        lines += ["", "Peak memory (of its own) in MB, mini-ImageNet, 4 tasks: " + ", ".join(parts) + "."]
    peak = [load["matrix product, GFLOP/s"] for load in loads.values()]
    product = f", float32 matrix product {statistics.median(peak):.0f} GFLOP/s" if peak else ""
    return "\n".join([*lines, "", measured_on(found, product)])


def plot(found: Row) -> bytes:
    """Speed relative to learn2learn, or to the loop by hand where that was not run, as bars from 1 on a log axis."""
    from innerloop.plots import COLOURS, Figure, png  # here, as processes that are measured import this file too

    loads = {name: load for name, load in found["workloads"].items() if _base(load)}
    used = {name for load in loads.values() for name, row in load["ways"].items() if "seconds" in row}
    names = ["innerloop", *(title for title in TITLES.values() if title in used)]
    figure = Figure(figsize=(15, 5.5), layout="constrained")
    panel = figure.subplots()
    width = 0.8 / len(names)
    for k, name in enumerate(names):
        rows = [(i, load["ways"].get(name, {}), _base(load) or 1.0) for i, load in enumerate(loads.values())]
        bars = [(i + (k - (len(names) - 1) / 2) * width, base / row["seconds"] - 1) for i, row, base in rows if _right(row)]
        if bars:
            panel.bar(*zip(*bars, strict=True), width=width, bottom=1, label=name, color=COLOURS[k])
    panel.axhline(1, color="black", lw=0.8)
    panel.set_yscale("log")
    panel.set_xticks(range(len(loads)), [name.replace(", ", "\n", 1).replace(" conv", "\nconv") for name in loads], fontsize=8)
    panel.set_ylabel("meta-gradients per second, learn2learn = 1\n(by hand = 1 where learn2learn was not run)")
    panel.yaxis.set_major_formatter("{x:g} ×")
    panel.grid(axis="y", alpha=0.25)
    panel.set_axisbelow(True)
    figure.legend(loc="outside upper center", ncols=len(names), fontsize=9)
    return png(figure)


def _base(load: Row) -> float | None:
    """Seconds of the way that others are compared with."""
    seconds = (load["ways"].get(name, {}).get("seconds") for name in ("learn2learn", "by hand"))
    return next((s for s in seconds if s), None)


def _right(row: Row) -> bool:
    return "seconds" in row and row["relative error"] <= row.get("allowed error", WRONG) and "known to be wrong" not in row


def _speed(load: Row, way: str) -> str:
    row, base = load["ways"].get(way), _base(load)
    if row is None or "error" in row:
        return "–"
    notes = [f"{base / row['seconds']:.3g} ×"] if base else []
    notes += [f"{100 * row['fraction of peak']:.2g}%"] if "fraction of peak" in row else []
    rate = row["meta-iterations/s"]
    number = f"{rate:,.0f}" if rate >= 100 else f"{rate:.3g}"
    return number + (f" ({', '.join(notes)})" if notes else "") + ("" if _right(row) else " **wrong**")


def _memory(row: Row | None) -> str:
    return "–" if row is None or "peak memory, MB" not in row else f"{row['peak memory, MB']:,.0f} ({row['memory of its own, MB']:,.0f})"


def _table_row(*cells: str) -> str:
    return "| " + " | ".join(cells) + " |"


def _slope(x: list[float], y: list[float]) -> float:
    """Least-squares slope of log y against log x."""
    return statistics.linear_regression([math.log(v) for v in x], [math.log(v) for v in y]).slope


def _flat(gradient: list[Tensor]) -> numpy.ndarray:
    """A gradient as one vector, of double precision; not as a tensor, whose memory its process would have to stay alive for."""
    return torch.cat([g.detach().double().flatten() for g in gradient]).numpy()


def _many(n: int, what: str) -> str:
    return f"{n} {what}{'s' if n > 1 else ''}"


def _peak_mb() -> float:
    return (peak_memory() or 0) / 1e6


def _line(problem: Exception) -> str:
    return f"{type(problem).__name__}: {(str(problem).strip() or 'no message').splitlines()[0]}"[:200]


def options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", metavar="PATTERN", help="only workloads whose name matches this regular expression, and no other part")
    parser.add_argument("--seconds", type=float, default=2.0, help="to measure a way of a workload for, all rounds together")
    parser.add_argument("--rounds", type=int, default=3, help="turns that each way gets")
    parser.add_argument("--peers", default="l2l,higher_,torchopt_,jax_,plain_vmap,by_hand", help="files of peers/, separated by commas")
    parser.add_argument("--no-jax", action="store_true", help="leave JAX out")
    parser.add_argument("--plans", default="", help=f"more plans of innerloop, separated by commas, out of {', '.join(ENGINES[1:])}")
    parser.add_argument("--list", action="store_true", help="print the names of the workloads and end")
    for part, what in (("race", "all ways on all workloads"), ("scaling", "cost against size"), ("compile", "time"), ("memory", "by plan")):
        parser.add_argument(f"--{part}", action="store_true", help=f"only this part, or those given: {what}")
    args = parser.parse_args()
    args.peers = [peer for peer in args.peers.split(",") if peer and not (args.no_jax and peer == "jax_")]
    args.plans = [plan for plan in args.plans.split(",") if plan]
    if unknown := [p for p in args.peers if p not in TITLES] + [p for p in args.plans if p not in ENGINES[1:]]:
        parser.error(f"no peer or plan {unknown[0]!r}; peers are {', '.join(TITLES)}, plans {', '.join(ENGINES[1:])}")
    if not (args.race or args.scaling or args.compile or args.memory):
        args.race, args.scaling, args.compile, args.memory = (True, *(3 * [not args.only]))
    return args


def main() -> None:
    args = options()
    loads = [load for load in WORKLOADS if re.search(args.only or "", str(load), re.IGNORECASE)]
    if args.list or not loads:
        sys.exit("\n".join(map(str, WORKLOADS)) if args.list else f"no workload matches {args.only!r}; --list names them")
    path = HERE / "against.json"
    found: Row = {"workloads": {}} | (json.loads(path.read_text()) if path.exists() else {}) | environment()

    def save() -> None:
        path.write_text(json.dumps(found, indent=1) + "\n")
        put(BEGIN, tables(found), END)
        if found["workloads"]:
            (HERE / "against.png").write_bytes(plot(found))

    given_up: set[tuple[str, str]] = set()
    for load in loads if args.race else []:
        print(load, flush=True)
        try:
            row = compared(load, args, given_up)
        except Failed as problem:
            print(f"  innerloop: {problem}")
            continue
        found["workloads"][str(load)] = row  # whole: what ran in turns is compared, and nothing else
        found["workloads"] = {str(w): found["workloads"][str(w)] for w in WORKLOADS if str(w) in found["workloads"]}
        save()
    for part, measure in (("scaling", lambda: scaling(args)), ("compile", compiling), ("memory", memory)):
        if getattr(args, part):
            print(part, flush=True)
            found[part] = measure()
            save()


if __name__ == "__main__":
    main()
