"""The plan of ``auto``: time the candidates on the first tasks, and compile only where the run is long enough."""

import time
from collections.abc import Callable
from dataclasses import replace
from math import inf

from innerloop.batches import count, some
from innerloop.device import device_of, finish, records
from innerloop.engine.compiled import TooLong, patience
from innerloop.engine.memory import free_memory, peak_memory
from innerloop.engine.plan import MetaGradient, Plan, meta_gradient
from innerloop.errors import InputError, in_a_line
from innerloop.learner import Learner, Task
from innerloop.params import Params

EARNED_BACK = 60.0
"""Seconds of uncompiled meta-gradients from which compiling is tried.

Compiling costs 10 to 60 seconds on two cores and saves four fifths of the time of a small
network, so a run of a minute comes out ahead and a run of seconds never pays for it.
"""

PATIENCE = 0.5
"""Part of the time of a run without compiling, that compiling may be expected to take: long sequences in recurrent layers are
thousands of operations, which would take it minutes.
"""

CALLS_ALONE = 0.01
"""Seconds of a step of one task, or of its query, up to which we say that calls take them and not arithmetic.

Between 0.006 of a deep network of linear layers and 0.018 of Omniglot's convolutions, which are a seventh faster step by step.
"""

TOGETHER = 1.5
"""How many times faster than a loop vmap is where it pays to compile for all tasks together, not for one."""

UNROLLED = 10
"""Steps up to which the graph of all of them is compiled where calls take the time; to compile it takes longer with each."""


def choose(
    learner: Learner,
    params: Params,
    tasks: Task,
    iterations: int,
    plan: Plan | None = None,
    chunk: int | None = None,
    say: Callable[[str], None] = lambda line: None,
    warn: Callable[[str], None] = lambda line: None,
) -> tuple[Plan, MetaGradient, dict[str, float]]:
    """The plan to run so many iterations by, its meta-gradient (warm), and what was measured.

    Args:
        plan: to take this one and not measure.
        chunk: tasks that are in memory together; by default as many as fit.
        say: is told in a word what takes long.
        warn: is told in one line what went wrong.

    Raises:
        InputError: the plan was given, and does not compile here.
    """
    seconds: dict[str, float] = {}
    device = device_of(params)
    if plan is not None:
        if plan.recorded and not records(device):
            raise InputError(f"engine {plan} is of NVIDIA GPUs, and the device is {device}; {replace(plan, recorded=False)} would do")
        if not plan.compiled:
            return plan, meta_gradient(learner, plan), seconds
        try:
            return plan, _compiled(learner, params, tasks, plan, seconds, say), seconds
        except Exception as problem:
            eager = replace(plan, compiled=False, recorded=False)
            raise InputError(f"engine {plan} does not work here: {in_a_line(problem)}; {eager} would do") from problem

    found = {plan: meta_gradient(learner, plan) for plan in _uncompiled(learner, params, tasks, chunk, seconds, warn)}
    worth = _worth_compiling(learner, list(found), seconds, iterations, count(tasks))
    longest = PATIENCE * iterations * min(seconds[_key(plan)] for plan in found)
    for candidate in worth + [replace(plan, recorded=True) for plan in worth if records(device)]:
        try:
            with patience(longest):  # of this trial: later, what is compiled anew has to be
                found[candidate] = _compiled(learner, params, tasks, candidate, seconds, say)
        except TooLong as problem:
            warn(f"going on without {candidate}: {problem}, and the run is too short for that")
        except Exception as problem:  # whatever the compiler or the C++ behind it raises: the run can go on without
            warn(f"compiling {candidate} failed, going on without: {in_a_line(problem)}")
    best = min(found, key=lambda plan: seconds[_key(plan)])
    return best, found[best], seconds


def _uncompiled(
    learner: Learner, params: Params, tasks: Task, chunk: int | None, seconds: dict[str, float], warn: Callable[[str], None]
) -> list[Plan]:
    """Plans that work and whose memory fits, each timed; that of a loop is timed on its first task."""
    n, one = count(tasks), some(tasks, 0, 1)
    device = device_of(params).type
    plans, problems = list[Plan](), list[Exception]()

    def timed(plan: Plan, batch: Task, times: int) -> None:
        try:
            seconds[_key(plan)] = times * _seconds(learner, params, batch, plan)
            plans.append(plan)
        except InputError:
            raise
        except (RuntimeError, ValueError) as problem:  # such as a layer that vmap has no rule for
            problems.append(problem)
            warn(f"engine {plan} does not work here, going on without: {in_a_line(problem)}")

    before, free = peak_memory(device), free_memory(device)
    timed(Plan(loop=True, recompute=True), one, n)
    after = peak_memory(device)
    # Every step's graph kept is at most so many times that of one step; half of the memory is left to others.
    graphs = 0 if before is None or after is None else (after - before) * (len(learner.steps) + 1)
    together = n if not graphs or free is None else min(n, free // 2 // graphs)
    if together:
        timed(Plan(loop=True), one, n)
        timed(Plan(chunk=chunk or (None if together == n else together)), tasks, 1)
    if not plans:
        raise problems[0]
    return plans


def _worth_compiling(learner: Learner, tried: list[Plan], seconds: dict[str, float], iterations: int, n: int) -> list[Plan]:
    """What to compile, by how long the uncompiled plans took; those that memory does not hold were not tried."""
    if min(seconds[_key(plan)] for plan in tried) * iterations < EARNED_BACK:
        return []
    together = next((plan for plan in tried if not plan.loop), None)
    if together is None:
        return [Plan(loop=True, recompute=True, compiled=True)]
    loop = min((seconds[_key(plan)] for plan in tried if plan.loop), default=inf)
    if loop / n / (len(learner.steps) + 1) < CALLS_ALONE:
        return [replace(together, stepwise=len(learner.steps) > UNROLLED, compiled=True)]
    if loop > TOGETHER * seconds[_key(together)]:
        return [replace(together, stepwise=True, compiled=True)]
    return [Plan(loop=True, stepwise=True, compiled=True)]


def _compiled(
    learner: Learner, params: Params, tasks: Task, plan: Plan, seconds: dict[str, float], say: Callable[[str], None]
) -> MetaGradient:
    say("compiling")
    gradient, start = meta_gradient(learner, plan), time.perf_counter()
    for _ in range(3 if plan.recorded else 1):  # its first call runs, its second records, its third asks as all that follow
        gradient(params, tasks)
    finish(device_of(params))
    seconds[f"compiling {plan}"] = time.perf_counter() - start
    seconds[_key(plan)] = _timed(gradient, params, tasks)
    return gradient


def _key(plan: Plan) -> str:
    return f"one iteration, {plan}"


def _seconds(learner: Learner, params: Params, tasks: Task, plan: Plan) -> float:
    gradient = meta_gradient(learner, plan)
    gradient(params, tasks)
    finish(device_of(params))
    return _timed(gradient, params, tasks)


def _timed(gradient: MetaGradient, params: Params, tasks: Task, repeats: int = 5, limit: float = 1.0) -> float:
    """Median seconds of a meta-gradient, of fewer where they take long."""
    taken: list[float] = []
    while len(taken) < repeats and (not taken or sum(taken) < limit):
        start = time.perf_counter()
        gradient(params, tasks)
        finish(device_of(params))
        taken.append(time.perf_counter() - start)
    return sorted(taken)[len(taken) // 2]
