"""Training a policy's prior: gather rollouts by the prior and by what it adapts to, take an outer step, keep the best."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import Tensor
from torch.optim import Optimizer

from innerloop.batches import onto
from innerloop.engine import Plan, meta_gradient
from innerloop.errors import Diverged, InputError, in_a_line, positive, whole
from innerloop.learner import Learner, Task
from innerloop.outer import CHECKPOINT, Row, State, Stopped, emptied, finished, kept_by, open_log, optimizer_of, place, signals
from innerloop.outer.trpo import TrustRegion
from innerloop.params import finite
from innerloop.progress import bar
from innerloop.rl.families import FamilyExperience
from innerloop.rl.rollouts import Experience, check_experience, total
from innerloop.rl.trust import trpo
from innerloop.tasks import named_source

WORTH = 30
"""Iterations from which on compiling pays."""


def train_policy(
    learner: Learner,
    experience: Experience | FamilyExperience,
    iterations: int,
    *,
    meta_batch: int = 20,
    outer: Callable[[Learner], TrustRegion] | None = None,
    optimizer: Callable[[list[Tensor]], Optimizer] | None = None,
    outer_steps: int = 1,
    best: bool = True,
    engine: str = "auto",
    device: str = "cpu",
    out: str | Path | None = None,
    resume: bool = False,
    checkpoint_every: int = 10,
    progress: bool = True,
    track: bool = False,
    log: Callable[[Row], None] = lambda row: None,
) -> Learner:
    """The learner with its prior trained on rollouts: θ ← outer(θ, rollouts by θ and by what it adapts to).

    Iteration *n* meets the tasks n·meta_batch … (n + 1)·meta_batch − 1 of the world's ``train`` split. All
    that is random in them is a function of seed and task, so a continued run is bit for bit an unbroken one.

    Args:
        learner: of a policy; it stays as it is.
        experience: world, rollouts, returns.
        iterations: in all, those of a continued run included.
        meta_batch: tasks of one iteration.
        outer: ``learner → TrustRegion``, such as ``partial(trpo, limit=0.02)``; by default ``trpo``. ``engine`` compiles it or does not.
        optimizer: ``list of tensors → torch optimiser``, such as ``adam(1e-3)``, in the place of the trust region.
        outer_steps: of that optimiser, on the same rollouts.
        best: give back the prior with the highest return after adaptation, averaged over the tasks of its
            iteration, as the papers do; without, the last one. What the last step makes is not looked at any more.
        engine: ``vmap``, ``vmap+compile``, or ``auto``, which compiles from 30 iterations on where that works; a continued run keeps to
            what it began with.
        device: such as ``cpu`` or ``cuda``.
        out: folder for ``metrics.jsonl``, ``checkpoint.safetensors`` and, at the end, ``prior.safetensors``.
        resume: go on from the folder's checkpoint.
        checkpoint_every: iterations between checkpoints.
        progress: show a bar.
        track: write TensorBoard events into ``out`` too.
        log: is called with every line of metrics: mean ``returns`` before each step that counts and
            of the query, what the outer step did.

    Raises:
        InputError: a setting cannot be used, or the world gives NaN.
        Diverged: the prior, what it adapted to, or the surrogate became NaN or infinite; the last checkpoint stays.
        Stopped: Ctrl-C or SIGTERM came; the state is saved.

    >>> from innerloop.methods import maml
    >>> from innerloop.rl import Navigation, gaussian_mlp, judged, score
    >>> policy = gaussian_mlp(2, 8, 2)
    >>> learner = judged(maml(policy, score(policy), steps=1, rate=0.1), policy)
    >>> trained = train_policy(learner, Experience(Navigation(horizon=5), 4), iterations=2, meta_batch=2, progress=False)
    >>> trained.prior.keys() == learner.prior.keys()
    True

    Source: Finn et al. 2017, arXiv:1703.03400, algorithm 3.
    """
    positive(meta_batch=meta_batch, checkpoint_every=checkpoint_every, outer_steps=outer_steps)
    whole(iterations=iterations, meta_batch=meta_batch)
    if outer_steps > 1 and optimizer is None:
        raise InputError(
            f"outer_steps is {outer_steps}, but a trust region takes one; give an optimizer such as adam(1e-3), or leave it out"
        )
    if optimizer and outer:
        raise InputError("outer and optimizer are both given, and an iteration takes steps of one of them; leave the other out")
    check_experience(experience)
    folder = place(out, resume or track)
    if engine not in (known := ("auto", "vmap", "vmap+compile")):
        raise InputError(f"engine is {engine!r}; policies are trained with {', '.join(known)}")
    plan = Plan(compiled=engine == "vmap+compile" or (engine == "auto" and iterations >= WORTH))
    params = {name: p.detach().clone() for name, p in onto(learner.prior, device).items()}
    state = State(params, optimizer_of(optimizer, list(params.values())) if optimizer else None, plan=plan, best=dict(params))
    same: dict[str, Any] = {"experience": named_source(experience), "meta_batch": meta_batch}
    if outer and (isinstance(outer, TrustRegion) or not callable(outer)):
        raise InputError(f"outer is a {type(outer).__name__}; give a function of the learner, such as partial(trpo, limit=0.02)")
    region = None if state.outer else (outer or trpo)(learner)
    same |= {"outer": "trust region" if region else type(state.outer).__name__, "outer_steps": outer_steps}
    same |= kept_by(learner, state.outer) | (region.kept() if region else {})
    if folder and resume:
        state.go_on(folder, iterations, same)
        plan = state.plan = state.plan if engine == "auto" and state.plan else plan
    first = state.iteration

    def stepping(plan: Plan) -> Callable[[Task], Row]:
        return _by_trust(replace(region, compile=plan.compiled), state) if region else _by_gradient(learner, state, plan, outer_steps)

    step = stepping(plan)
    if folder:
        emptied(folder)
    with (
        bar("training", iterations, first, progress) as shown,
        open_log(folder, first, lambda: state.seconds, track, log) as write,
        signals() as received,
    ):

        def check() -> None:
            if not finite(state.params):
                raise Diverged(f"the prior became NaN or infinite before iteration {state.iteration}; take a smaller outer step")

        def keep() -> None:
            check()
            if folder:
                state.save(folder / CHECKPOINT, same)

        def without_compiling(problem: Exception) -> Callable[[Task], Row]:
            if engine != "auto":
                raise InputError(f"engine {engine} does not work here: {in_a_line(problem)}; vmap would do") from problem
            shown.warn(f"compiling failed, going on without: {in_a_line(problem)}")
            state.plan = Plan()
            write({"iteration": first, "engine": str(state.plan), "measured": {}})
            return stepping(state.plan)

        write({"iteration": first, "engine": str(plan), "measured": {}})
        keep()
        while state.iteration < iterations:
            check()  # or else the world would be blamed for what such a prior does in it
            tasks = experience.gather(learner, state.params, "train", state.iteration * meta_batch, meta_batch)
            returns = [float(total(rollouts).mean()) for rollouts in experience.points(learner, tasks)]
            if returns[-1] > state.highest:
                state.highest, state.best = returns[-1], {name: p.clone() for name, p in state.params.items()}
            try:
                did = step(tasks)
            except (Diverged, InputError):
                raise
            except Exception as problem:  # whatever the compiler or the C++ behind it raises, before anything has moved
                if state.iteration > first or not plan.compiled:
                    raise
                step = without_compiling(problem)
                did = step(tasks)
            write({"iteration": state.iteration, "return": returns[-1], "returns": returns, **did})
            shown.to(state.iteration, f"return {returns[0]:.1f} → {returns[-1]:.1f}")
            if state.iteration % checkpoint_every == 0 or state.iteration == iterations:
                keep()
            if received:
                keep()
                raise Stopped(state.iteration, iterations, folder, received[0])
    return finished(learner, state.best if best else state.params, folder)


def _by_trust(region: TrustRegion, state: State) -> Callable[[Task], Row]:
    def step(tasks: Task) -> Row:
        try:
            there, did = region(state.params, tasks)
        except Diverged as problem:
            raise Diverged(f"iteration {state.iteration}: {problem}") from problem
        for name, p in state.params.items():
            p.copy_(there[name])
        state.iteration += 1
        return {"surrogate": did.after, "kl": did.moved, "tries": did.tries, "taken": did.moved > 0, "part": did.part}

    return step


def _by_gradient(learner: Learner, state: State, plan: Plan, steps: int) -> Callable[[Task], Row]:
    gradient_of = meta_gradient(learner, plan)

    def step(tasks: Task) -> Row:
        losses = []
        for _ in range(steps):
            gradient, loss = gradient_of(state.params, tasks)
            losses.append(float(loss))
            state.move(gradient)
        state.iteration += 1
        return {"surrogate": losses[-1]}

    return step
