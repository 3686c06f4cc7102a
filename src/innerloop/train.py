"""The outer loop: draw tasks, take the meta-gradient, let a torch optimiser step; log, save, resume."""

import json
import math
import signal
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any, TextIO

import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import CosineAnnealingLR, LRScheduler

from innerloop import checkpoint
from innerloop.batches import one, onto, tensors
from innerloop.engine import Plan, choose, each_task, in_precision
from innerloop.engine.plan import MetaGradient
from innerloop.errors import InputError
from innerloop.learner import Learner, Task, task_loss
from innerloop.params import Params
from innerloop.progress import bar
from innerloop.tasks import Source, most_together, named_source, on

CHECKPOINT, PRIOR, METRICS = "checkpoint.safetensors", "prior.safetensors", "metrics.jsonl"

Row = dict[str, Any]


class Diverged(ArithmeticError):
    """A loss became NaN or infinite; the message names the iteration, the task and the step."""


class Stopped(KeyboardInterrupt):
    """Ctrl-C or SIGTERM came, and the state is saved where there is a folder to save it to."""

    def __init__(self, line: str, signal_number: int):
        super().__init__(line)
        self.signal_number = signal_number


def adam(rate: float, clip: float | None = None) -> Callable[[list[Tensor]], Optimizer]:
    """Adam with the given rate, for ``train(optimizer=…)``.

    Args:
        rate: above 0.
        clip: bound of each element of the meta-gradient, which is cut to −clip … clip before
            the step. MAML's on mini-ImageNet is 10, and it acts on the loss's scale: that of
            ``cross_entropy_per_shot``.

    Raises:
        InputError: a setting is not above 0.

    Source of the clipping: Finn et al. 2017, arXiv:1703.03400, in cbfinn/maml, ``maml.py``.
    """
    _positive(rate=rate, clip=1.0 if clip is None else clip)

    def build(params: list[Tensor]) -> Optimizer:
        outer = torch.optim.Adam(params, rate, fused=True)
        if clip is not None:
            outer.register_step_pre_hook(partial(_clip, params, clip))
        return outer

    return build


def _clip(params: list[Tensor], bound: float, *step: object) -> None:
    for p in params:
        if p.grad is not None:
            p.grad = p.grad.clamp(-bound, bound)


def cosine(iterations: int, least: float = 0.0) -> Callable[[Optimizer], LRScheduler]:
    """The outer rate falls along half a cosine, from its own value to ``least``, for ``train(schedule=…)``.

    MAML++ takes 1e-3 to 1e-5 on Omniglot, lowered every epoch; here it falls with every iteration.

    Args:
        iterations: that it takes to fall, as a rule those of the training.
        least: where it ends, 0 or more.

    Raises:
        InputError: there are no iterations, or the rate would end below 0.

    Source: Loshchilov & Hutter 2017, arXiv:1608.03983, eq. 5; Antoniou et al. 2019, arXiv:1810.09502, §4 (CA).
    """
    _positive(iterations=iterations)
    if least < 0:
        raise InputError(f"least is {least}; a rate must be 0 or more")
    return lambda outer: CosineAnnealingLR(outer, iterations, least)


def train(
    learner: Learner,
    tasks: Source,
    iterations: int,
    *,
    meta_batch: int = 25,
    outer_rate: float = 1e-3,
    optimizer: Callable[[list[Tensor]], Optimizer] | None = None,
    schedule: Callable[[Optimizer], LRScheduler] | None = None,
    phases: Mapping[int, Learner] = {},
    engine: str = "auto",
    chunk: int | None = None,
    device: str = "cpu",
    precision: str = "float32",
    out: str | Path | None = None,
    resume: bool = False,
    checkpoint_every: int = 5_000,
    log_every: int = 100,
    validation_tasks: int = 100,
    progress: bool = True,
    track: bool = False,
    log: Callable[[Row], None] = lambda row: None,
) -> Learner:
    """The learner with its prior trained: θ ← outer(θ, ∇_θ mean_i L_i(φ_i(θ))).

    Iteration *n* takes the tasks n·meta_batch … (n + 1)·meta_batch − 1 of the source's
    ``train`` split, so a run is a function of learner, source and settings; continuing one
    gives bit for bit what an unbroken one would have.

    Args:
        learner: it stays as it is.
        tasks: where tasks come from.
        iterations: in all, those of a continued run included.
        meta_batch: tasks of one iteration.
        outer_rate: Adam's rate.
        optimizer: ``list of tensors → torch optimiser``, in the place of Adam.
        schedule: ``optimiser → torch scheduler`` of its rate, which steps once an iteration;
            such as ``cosine(iterations)``.
        phases: iteration → the learner that takes the place of ``learner`` from there on, with
            a prior of the same names and shapes, whose values are not looked at. What is
            validated and given back is always ``learner``, so ``{0: other}`` trains its prior
            by another method.
        engine: one of ``engine.ENGINES``; ``auto`` compiles where the run is long enough and
            tasks are of one shape, and chooses anew at each phase. A continued run keeps the plan
            of the phase it is in.
        chunk: tasks that are in memory together.
        device: such as ``cpu`` or ``cuda``.
        precision: one of ``engine.PRECISIONS``, that products are computed in.
        out: folder for ``metrics.jsonl``, ``checkpoint.safetensors`` and, at the end,
            ``prior.safetensors``, in the place of what an earlier run left there; nothing is
            written where None.
        resume: go on from the folder's checkpoint.
        checkpoint_every: iterations between checkpoints; validation comes with them.
        log_every: iterations that a line of metrics averages.
        validation_tasks: tasks of the ``val`` split whose mean loss is logged; none where 0.
        progress: show a bar.
        track: write TensorBoard events into ``out`` too.
        log: is called with every line of metrics.

    Raises:
        InputError: a setting or the data cannot be used.
        Diverged: a loss became NaN or infinite; the last checkpoint stays.
        Stopped: Ctrl-C or SIGTERM came; the state is saved.

    >>> from innerloop import Sinusoids, maml, mlp, mse
    >>> net = mlp(1, 8, 1)
    >>> trained = train(maml(net, mse(net)), Sinusoids(), iterations=2, progress=False)
    >>> trained.prior.keys() == maml(net, mse(net)).prior.keys()
    True
    """
    _positive(meta_batch=meta_batch, outer_rate=outer_rate, checkpoint_every=checkpoint_every, log_every=log_every)
    if iterations < 0 or validation_tasks < 0:
        raise InputError(f"iterations is {iterations} and validation_tasks {validation_tasks}; neither can be below 0")
    if not learner.prior:
        raise InputError("the learner has no prior that could be trained; evaluate it as it is")
    if (resume or track) and out is None:
        raise InputError("resume and track need the folder of the run; give out=…")
    asked = Plan.named(engine, chunk)
    if engine == "auto" and most_together(tasks):
        asked = Plan(loop=True)  # each shape would be compiled anew
    known = asked
    by_phase = _phases(learner, phases)
    params = {name: p.detach().clone() for name, p in onto(learner.prior, device).items()}
    outer = (optimizer or adam(outer_rate))(list(params.values()))
    scheduler = schedule(outer) if schedule else None
    first, pending, before = 0, [], 0.0
    folder = None if out is None else Path(out)
    # What a run must keep to when it goes on: tasks are numbered by the size of the meta-batch.
    same = {"tasks": named_source(tasks), "meta_batch": meta_batch, "precision": precision, "optimizer": type(outer).__name__}
    same |= {"schedule": type(scheduler).__name__ if scheduler else "none", "phases": list(by_phase)}
    same |= {} if optimizer else {"outer_rate": outer_rate}
    if folder and resume:
        first, pending, known, before = _restore(folder, params, outer, scheduler, learner, same)
    if first > iterations:
        raise InputError(f"the run in {folder} has taken {first} iterations already; ask for {first} or more, or start anew")

    tasks = on(tasks, device)

    def draw(iteration: int) -> Task:
        return onto(tasks.draw("train", iteration * meta_batch, meta_batch), device)

    if first == iterations:
        log({"iteration": first, "engine": str(known or "none"), "measured": {}, "seconds": before})
        return _finished(learner, params, folder)
    if first and first in by_phase:
        known = asked  # the plan that was kept is of the phase before
    batch = draw(first)
    for other in (learner, *(p for p in by_phase.values() if p is not learner)):
        try_one(other, params, batch)
    if folder:
        checkpoint.writable(folder)

    began = time.perf_counter() - before
    with (
        in_precision(precision, device),
        bar("training", iterations, first, progress) as shown,
        _log(folder, first, began, track, log) as write,
    ):

        def begin(iteration: int, plan: Plan | None) -> tuple[Learner, Plan, MetaGradient]:
            """Who trains from this iteration to the end of its phase, and how."""
            trainee = by_phase[max(start for start in by_phase if start <= iteration)]
            ends = min((start for start in by_phase if iteration < start < iterations), default=iterations)
            with torch.random.fork_rng():  # measuring draws what a net's dropout draws; the run must not depend on it
                plan, gradient_of, measured = choose(trainee, params, batch, ends - iteration, plan, chunk, shown.say, shown.warn)
            if plan.compiled or measured:
                shown.say("")
            write({"iteration": iteration, "engine": str(plan), "measured": measured})
            shown.restart(iteration)
            return trainee, plan, gradient_of

        trainee, plan, gradient_of = begin(first, known)
        late, value = _late(device), math.nan
        waiting: deque[tuple[int, Params, Task, Tensor, Callable[[], None]]] = deque()

        def read(left: int) -> None:
            nonlocal value
            while len(waiting) > left:
                number, point, drawn, loss, arrived = waiting.popleft()
                arrived()
                value = loss.item()
                if not math.isfinite(value):
                    raise _diverged(trainee, point, drawn, number, number * meta_batch)
                pending.append(value)

        def keep(done: int) -> None:
            read(0)
            if not all(p.isfinite().all() for p in params.values()):
                raise Diverged(f"the prior became NaN or infinite before iteration {done}; lower outer_rate ({outer_rate})")
            if folder:
                about = {"same": same, "plan": asdict(plan), "seconds": time.perf_counter() - began}
                _save(folder / CHECKPOINT, done, params, outer, scheduler, pending, about)

        keep(first)  # so that a run can be resumed from its first moment on
        with _signals() as received:
            for iteration in range(first, iterations):
                if iteration > first:
                    batch = draw(iteration)
                    if iteration in by_phase:
                        read(0)
                        trainee, plan, gradient_of = begin(iteration, asked)
                gradient, loss = gradient_of(params, batch)
                point = {name: p.clone() for name, p in params.items()} if late else params
                waiting.append((iteration, point, batch, *_sent(loss)))
                read(late)
                for name, p in params.items():
                    p.grad = gradient[name]
                outer.step()
                if scheduler:
                    scheduler.step()
                done = iteration + 1
                last = done == iterations
                if done % log_every == 0 or last:
                    read(0)
                    write({"iteration": done, "loss": sum(pending) / len(pending)})
                    pending.clear()
                if done % checkpoint_every == 0 or last:
                    if validation_tasks:
                        write({"iteration": done, "val": _validate(learner, params, tasks, validation_tasks, device)})
                    keep(done)
                shown.to(done, f"loss {value:.3g}")
                if received:
                    keep(done)
                    where = f"saved in {folder}; continue with resume" if folder else "nothing is saved: no out folder was given"
                    raise Stopped(f"stopped after iteration {done} of {iterations}, {where}", received[0])
    return _finished(learner, params, folder)


def _late(device: str) -> int:
    """How many iterations later than its own a loss is read, so that a GPU goes on meanwhile instead of waiting to be told to."""
    return 0 if torch.device(device).type == "cpu" else 1


def _sent(loss: Tensor) -> tuple[Tensor, Callable[[], None]]:
    """The loss on its way to the host, and what to call before it is read."""
    if loss.device.type != "cuda":
        return loss, lambda: None
    there, arrived = loss.to("cpu", non_blocking=True), torch.cuda.Event()
    arrived.record()
    return there, arrived.synchronize


def _finished(learner: Learner, params: Params, folder: Path | None) -> Learner:
    trained = replace(learner, prior={name: p.detach() for name, p in params.items()})
    if folder:
        checkpoint.save(folder / PRIOR, trained.prior, {})
    return trained


def _phases(learner: Learner, phases: Mapping[int, Learner]) -> dict[int, Learner]:
    """Who trains, by the iteration from which on, once it is known that all of them share one prior."""
    for start, other in phases.items():
        if start < 0:
            raise InputError(f"a phase begins at iteration {start}; the first iteration is 0")
        own, its = ({name: list(p.shape) for name, p in x.prior.items()} for x in (learner, other))
        if differing := sorted(name for name in own.keys() | its.keys() if own.get(name) != its.get(name)):
            name = differing[0]
            shapes = f"{its.get(name, 'missing')} there and {own.get(name, 'missing')} in the learner"
            raise InputError(f"the phase from iteration {start} on has another prior: {name} is {shapes}; build both from one network")
    return dict(sorted({0: learner, **phases}.items()))


def _positive(**settings: float) -> None:
    for name, value in settings.items():
        if not value > 0:
            raise InputError(f"{name} is {value}; it must be above 0")


def _validate(learner: Learner, params: Params, tasks: Source, n: int, device: str) -> float:
    with torch.random.fork_rng():  # a net's dropout draws here too; training must not depend on it
        draw = lambda first, count: onto(tasks.draw("val", first, count), device)  # noqa: E731
        return each_task(task_loss(learner), params, draw, n, most_together(tasks)).mean().item()


def try_one(learner: Learner, params: Params, batch: Task) -> None:
    """Run one task in the open, so that a mistake in it shows its own message and not the compiler's.

    Raises:
        InputError: network, loss and task do not fit each other.
    """
    for name, p in params.items():
        if not p.isfinite().all():
            raise InputError(f"the prior's {name} holds NaN or infinity; start from a fresh network")
    try:
        with torch.no_grad(), torch.random.fork_rng():
            task_loss(learner)(params, one(batch, 0))
    except InputError:
        raise
    except (RuntimeError, TypeError, IndexError, KeyError) as problem:
        shapes = ", ".join(str(list(t.shape)) for t in tensors(one(batch, 0)))
        line = str(problem).strip().splitlines()[0]
        raise InputError(
            f"the loss of a task with tensors of shapes {shapes} cannot be computed: {line}; see that they fit network and loss"
        ) from problem


def _diverged(learner: Learner, params: Params, batch: Task, iteration: int, number: int) -> Exception:
    """Why a loss is not a number: the data, or which task after which step."""
    if not all(p.isfinite().all() for p in params.values()):
        return Diverged(f"iteration {iteration}: the prior itself is NaN or infinite; lower the outer rate")
    for k in range(len(tensors(batch)[0])):
        task: Task = one(batch, k)
        where = f"iteration {iteration}: task {number + k} of 'train'"
        for part, content in task._asdict().items():
            if not all(t.isfinite().all() for t in tensors(content)):
                return InputError(f"{where} holds NaN or infinity in its {part}; clean the data or leave the task out")
        with torch.no_grad():
            path = learner.adapt(params, task.support)
            for step, moved in enumerate(path):
                if not all(p.isfinite().all() for p in moved.values()):
                    return Diverged(f"{where} has NaN or infinite parameters after step {step}; lower the inner rate")
            if not learner.loss(path[-1], task.query).isfinite():
                return Diverged(f"{where} has a NaN or infinite loss after step {len(path) - 1}; lower the inner or the outer rate")
    return Diverged(f"iteration {iteration}: the mean loss of the tasks from {number} on is NaN or infinite; lower the outer rate")


def _save(path: Path, done: int, params: Params, outer: Optimizer, scheduler: LRScheduler | None, pending: list[float], more: Row) -> None:
    state = outer.state_dict()
    kept = {f"prior.{name}": p for name, p in params.items()}
    plain: dict[str, Any] = {}
    for index, moments in state["state"].items():
        for key, value in moments.items():
            if isinstance(value, Tensor):
                kept[f"outer.{index}.{key}"] = value
            else:
                plain[f"{index}.{key}"] = value
    kept["pending"] = torch.tensor(pending, dtype=torch.float64)
    kept["random"] = torch.get_rng_state()
    rate = {key: value for key, value in scheduler.state_dict().items() if _is_json(value)} if scheduler else {}
    checkpoint.save(path, kept, {"iteration": done, "outer": plain, "groups": state["param_groups"], "schedule": rate, **more})


def _is_json(value: Any) -> bool:
    """Whether the value comes back as it was; what does not is no state of a schedule but how it was made, such as milestones."""
    return json.loads(json.dumps(value, default=str, skipkeys=True)) == value


def _restore(
    folder: Path, params: Params, outer: Optimizer, scheduler: LRScheduler | None, learner: Learner, same: Row
) -> tuple[int, list[float], Plan, float]:
    path = folder / CHECKPOINT
    if not path.is_file():
        raise InputError(f"there is no run to resume in {folder}; leave --resume out to start one")
    kept, about = checkpoint.read(path)
    for name, value in about["same"].items():
        if same.get(name) != value:
            raise InputError(f"the run in {folder} was made with {name} {value}, not {same.get(name)}; go on with the same")
    saved = {name.removeprefix("prior."): t for name, t in kept.items() if name.startswith("prior.")}
    for name, p in checkpoint.fitting(learner.prior, saved, path).items():
        params[name].copy_(p)
    state: dict[int, dict[str, Any]] = {}
    for name, value in [*kept.items(), *((f"outer.{key}", value) for key, value in about["outer"].items())]:
        if name.startswith("outer."):
            _, index, key = name.split(".", 2)
            state.setdefault(int(index), {})[key] = value
    outer.load_state_dict({"state": state, "param_groups": about["groups"]})
    if scheduler:
        scheduler.load_state_dict(about["schedule"])
    torch.set_rng_state(kept["random"])
    return about["iteration"], kept["pending"].tolist(), Plan(**about["plan"]), about["seconds"]


def logged(folder: Path) -> list[Row]:
    """The lines that a run has logged; none where it was not trained."""
    file = folder / METRICS
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


@contextmanager
def _log(folder: Path | None, first: int, began: float, track: bool, also: Callable[[Row], None]) -> Iterator[Callable[[Row], None]]:
    """A function that writes a line of metrics; lines after iteration ``first`` of an earlier start are dropped."""
    with _board(folder if track else None) as board, _lines(folder / METRICS if folder else None, first) as file:

        def write(row: Row) -> None:
            row = {**row, "seconds": round(time.perf_counter() - began, 3)}
            if file:
                file.write(json.dumps(row) + "\n")
            for key in row.keys() & {"loss", "val"}:
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


@contextmanager
def _signals() -> Iterator[list[int]]:
    """Ctrl-C and SIGTERM are noted, for the loop to end after its iteration; a second one ends at once."""
    received: list[int] = []

    def note(number: int, frame: Any) -> None:
        if received:
            raise KeyboardInterrupt
        received.append(number)

    if threading.current_thread() is not threading.main_thread():
        yield received  # only the main thread may handle signals
        return
    before = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
