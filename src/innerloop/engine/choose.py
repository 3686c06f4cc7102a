"""The plan of ``auto``: measure, and compile only where the run is long enough to earn it back."""

import time
from collections.abc import Callable
from dataclasses import replace

from innerloop.engine.plan import MetaGradient, Plan, meta_gradient
from innerloop.errors import InputError
from innerloop.learner import Learner, Task
from innerloop.params import Params

EARNED_BACK = 60.0
"""Seconds of uncompiled meta-gradients from which compiling is tried.

Compiling costs 10 to 30 seconds on two cores and saves four fifths of the time of a small
network, so a run of a minute comes out ahead and a run of seconds never pays for it.
"""


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
        say: is told in a word what takes long.
        warn: is told in one line what went wrong.

    Raises:
        InputError: the plan was given, and does not compile here.
    """
    seconds: dict[str, float] = {}
    wanted = plan is not None
    if plan is None:
        plan = Plan(chunk=chunk)
        gradient = meta_gradient(learner, plan)
        gradient(params, tasks)
        seconds[f"one iteration, {plan}"] = _seconds(lambda: gradient(params, tasks))
        if seconds[f"one iteration, {plan}"] * iterations < EARNED_BACK:
            return plan, gradient, seconds
        plan = replace(plan, compiled=True)
    gradient = meta_gradient(learner, plan)
    if plan.compiled:
        say("compiling")
        start = time.perf_counter()
        try:
            gradient(params, tasks)
        except Exception as problem:  # whatever the compiler or the C++ behind it raises: the run can go on without
            eager = replace(plan, compiled=False)
            line = (str(problem).strip() or "no message").splitlines()[0]
            if wanted:
                raise InputError(f"engine {plan} does not work here: {type(problem).__name__}: {line}; {eager} would do") from problem
            warn(f"compiling failed, running uncompiled: {type(problem).__name__}: {line}")
            return eager, meta_gradient(learner, eager), seconds
        seconds["compiling"] = time.perf_counter() - start
        seconds[f"one iteration, {plan}"] = _seconds(lambda: gradient(params, tasks))
    return plan, gradient, seconds


def _seconds(f: Callable[[], object], repeats: int = 5) -> float:
    """Median seconds of a call."""
    taken = []
    for _ in range(repeats):
        start = time.perf_counter()
        f()
        taken.append(time.perf_counter() - start)
    return sorted(taken)[repeats // 2]
