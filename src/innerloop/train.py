"""The outer loop: draw tasks, take the meta-gradient, let a torch optimiser step; log, save, resume."""

import math
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from innerloop.batches import count, onto
from innerloop.device import undrawn
from innerloop.engine import Plan, choose, each_task, in_precision, mean_over
from innerloop.errors import Diverged, InputError, positive, whole
from innerloop.explain import diverged, try_one
from innerloop.learner import Learner, Task, task_loss
from innerloop.losses import in_test
from innerloop.outer import (
    CHECKPOINT,
    METRICS,
    Row,
    State,
    Stopped,
    Witness,
    adam,
    emptied,
    finished,
    kept_by,
    open_log,
    optimizer_of,
    place,
    schedule_of,
    signals,
)
from innerloop.params import Params, finite
from innerloop.progress import bar
from innerloop.tasks import Source, check_source, most_together, named_source, on


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
    watch: Callable[[Learner], Row] | None = None,
    watch_every: int = 1_000,
    progress: bool = True,
    track: bool = False,
    log: Callable[[Row], None] = lambda row: None,
) -> Learner:
    """The learner with its prior trained: θ ← outer(θ, ∇_θ mean_i L_i(φ_i(θ))).

    Iteration *n* takes the tasks n·meta_batch … (n + 1)·meta_batch − 1 of the source's
    ``train`` split, so a run is a function of learner, source and settings, and of torch's generator where
    the network draws from it, as dropout does; continuing one gives bit for bit what an unbroken one would have.
    Tasks that differ in shape are taken in as many pieces as there must be, and their gradients averaged.

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
        validation_tasks: tasks of the ``val`` split whose mean loss is logged; 0 where there is no such split.
        watch: what else to log of the learner as it is by then, such as ``analysis.watch(…)``: a dict for JSON.
        watch_every: iterations between these; the first and the last one are watched too.
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
    positive(meta_batch=meta_batch, outer_rate=outer_rate, checkpoint_every=checkpoint_every, log_every=log_every, watch_every=watch_every)
    whole(iterations=iterations, meta_batch=meta_batch, validation_tasks=validation_tasks)
    check_source(tasks)
    if optimizer and outer_rate != 1e-3:
        raise InputError(
            f"outer_rate is {outer_rate}, but an optimizer has a rate of its own; give it that one, such as adam({outer_rate})"
        )
    if not learner.prior:
        raise InputError("the learner has no prior that could be trained; evaluate it as it is")
    folder = place(out, resume or track)
    asked = Plan.named(engine, chunk)
    if engine == "auto" and most_together(tasks):
        asked = Plan(loop=True)  # each shape would be compiled anew
    by_phase = _phases(learner, phases)
    params = {name: p.detach().clone() for name, p in onto(learner.prior, device).items()}
    outer = optimizer_of(optimizer or adam(outer_rate), list(params.values()))
    state = State(params, outer, schedule_of(schedule, outer) if schedule else None, plan=asked)
    # What a run must keep to when it goes on: tasks are numbered by the size of the meta-batch.
    same = {"tasks": named_source(tasks), "meta_batch": meta_batch, "precision": precision, "optimizer": type(outer).__name__}
    same |= {"schedule": type(state.schedule).__name__ if state.schedule else "none", "phases": list(by_phase)}
    same |= kept_by(learner, outer, state.schedule) | {"steps by phase": [len(each.steps) for each in by_phase.values()]}
    if folder and resume:
        state.go_on(folder, iterations, same)
    if (first := state.iteration) == iterations:
        if folder and not first:
            (folder / METRICS).unlink(missing_ok=True)
        log({"iteration": first, "engine": str(state.plan or "none"), "measured": {}, "seconds": state.seconds})
        return finished(learner, params, folder)

    tasks = on(tasks, device)

    most = most_together(tasks) or meta_batch

    def draw(iteration: int) -> list[Task]:
        """A meta-batch, in as many pieces as there must be where tasks differ in shape."""
        start, end = iteration * meta_batch, (iteration + 1) * meta_batch
        return [onto(tasks.draw("train", k, min(most, end - k)), device) for k in range(start, end, most)]

    pieces = draw(first)
    sample = onto(tasks.draw("train", 0, 1), device)
    if validation_tasks:
        _see_validation(tasks, validation_tasks)
    for each in (learner, *(p for p in by_phase.values() if p is not learner)):
        try_one(each, params, pieces[0])
    if folder:
        emptied(folder)
    with (
        in_precision(precision, device),
        bar("training", iterations, first, progress) as shown,
        open_log(folder, first, lambda: state.seconds, track, log) as write,
    ):
        losses = _Losses(state, meta_batch, device)

        def keep() -> None:
            losses.read()
            if not finite(params):
                raise Diverged(f"the prior became NaN or infinite before iteration {state.iteration}; lower outer_rate ({outer_rate})")
            if folder:
                state.witness = witness()
                state.save(folder / CHECKPOINT, same)

        def witness() -> Witness:
            return Witness.of(by_phase.values(), params, sample)

        def look() -> None:
            if watch:
                with undrawn(device):  # training must not depend on what a measurement draws
                    write({"iteration": state.iteration, **watch(_trained(learner, params))})

        if folder and state.witness:
            state.witness.see(witness(), folder)
        for trainee, ends in _stretches(by_phase, first, iterations):
            if state.iteration > first:
                keep()  # what follows may take a minute, and be stopped
            if state.iteration in by_phase:
                state.plan = asked  # the one before is of another learner
            with undrawn(device):  # measuring draws what a net's dropout draws; the run must not depend on it
                left = ends - state.iteration
                state.plan, gradient_of, measured = choose(trainee, params, pieces[0], left, state.plan, chunk, shown.say, shown.warn)
            if state.plan.compiled or measured:
                shown.say("")
            write({"iteration": state.iteration, "engine": str(state.plan), "measured": measured})
            shown.restart(state.iteration)
            keep()  # so that a run can be resumed from its first moment on
            if not state.iteration:
                look()
            with signals() as received:
                while state.iteration < ends:
                    gradient, loss = mean_over(gradient_of, params, pieces, list(map(count, pieces)))
                    losses.add(trainee, pieces, loss)
                    state.step(gradient)
                    done = state.iteration
                    if done % log_every == 0 or done == iterations:
                        losses.read()
                        write({"iteration": done, "loss": sum(state.pending) / len(state.pending)})
                        state.pending.clear()
                    if done % watch_every == 0 or done == iterations:
                        look()
                    if done % checkpoint_every == 0 or done == iterations:
                        if validation_tasks:
                            write({"iteration": done, "val": _validate(learner, params, tasks, validation_tasks, device)})
                        keep()
                    shown.to(done, f"loss {losses.last:.3g}")
                    if received:
                        keep()
                        raise Stopped(done, iterations, folder, received[0])
                    if done < iterations:
                        pieces = draw(done)
    return finished(learner, params, folder)


class _Losses:
    """Losses on their way to the host: a GPU's is read an iteration late, so that the device goes on meanwhile."""

    def __init__(self, state: State, meta_batch: int, device: str):
        self.state, self.meta_batch, self.late, self.last = state, meta_batch, _late(device), math.nan
        self.waiting: deque[tuple[Learner, int, Params, list[Task], Tensor, Callable[[], None]]] = deque()

    def add(self, learner: Learner, pieces: list[Task], loss: Tensor) -> None:
        """Take the loss of the iteration that the state is in, before its step."""
        point = {name: p.clone() for name, p in self.state.params.items()} if self.late else self.state.params
        self.waiting.append((learner, self.state.iteration, point, pieces, *_sent(loss)))
        self.read(self.late)

    def read(self, left: int = 0) -> None:
        """Wait for all but so many, and see that each is a number."""
        while len(self.waiting) > left:
            learner, iteration, point, pieces, loss, arrived = self.waiting.popleft()
            arrived()
            self.last = loss.item()
            if not math.isfinite(self.last):
                raise diverged(learner, point, pieces, iteration, iteration * self.meta_batch)
            self.state.pending.append(self.last)


def _late(device: str) -> int:
    """How many iterations later than its own a loss is read, so that a GPU goes on meanwhile instead of waiting to be told to."""
    return 0 if torch.device(device).type == "cpu" else 1


def _sent(loss: Tensor) -> tuple[Tensor, Callable[[], None]]:
    """The loss on its way to the host, and what to call before it is read."""
    if loss.device.type == "cpu":
        return loss, lambda: None
    there, arrived = loss.to("cpu", non_blocking=True), torch.get_device_module(loss.device).Event()
    arrived.record()
    return there, arrived.synchronize


def _trained(learner: Learner, params: Params) -> Learner:
    return replace(learner, prior={name: p.detach() for name, p in params.items()})


def _stretches(by_phase: Mapping[int, Learner], first: int, iterations: int) -> Iterator[tuple[Learner, int]]:
    """Who trains from the first iteration on, and up to which one; then the next."""
    starts = sorted(by_phase)
    for start, ends in zip(starts, [*starts[1:], iterations], strict=True):
        if ends > first and start < iterations:
            yield by_phase[start], min(ends, iterations)


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


def _see_validation(tasks: Source, n: int) -> None:
    """Refuse now what would end the training at its first checkpoint."""
    try:
        tasks.draw("val", n - 1, 1)
    except InputError as problem:
        raise InputError(f"of validation tasks: {problem}; or train without, by validation_tasks=0 (--validation-tasks 0)") from problem


def _validate(learner: Learner, params: Params, tasks: Source, n: int, device: str) -> float:
    with undrawn(device), in_test():
        draw = lambda first, count: onto(tasks.draw("val", first, count), device)  # noqa: E731
        return each_task(task_loss(learner), params, draw, n, most_together(tasks)).mean().item()
