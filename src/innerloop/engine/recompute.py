"""The meta-gradient by walking the path twice: memory for the graph of one step, however many there are."""

from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.func import grad_and_value, vjp, vmap

from innerloop.batches import count, one
from innerloop.learner import Batch, Learner, Step, Task
from innerloop.params import Params

Transform = Callable[[Callable[..., Any]], Callable[..., Any]]


def recomputed(learner: Learner, loop: bool, build: Transform = lambda f: f) -> Callable[[Params, Task], tuple[Params, Tensor]]:
    """``(params, tasks) → (gradient, loss)``: forward keeping parameters only, then back with one product a step.

    With φₖ₊₁ = sₖ(φₖ) and the loss Σ wₖ L(φₖ), cotangents go from the path's end to its start,

        v_K = w_K ∇L(φ_K),    vₖ = wₖ ∇L(φₖ) + (∂sₖ/∂φₖ)ᵀ vₖ₊₁,

    and v₀ is the meta-gradient. The product with a gradient step is v − rate · H v. Each product
    computes its step a second time: a third more work than keeping all graphs, in a fraction
    of their memory. The last step is computed once, together with the loss behind it.

    Args:
        loop: the batch is a single task, not a stack of them.
        build: makes of a piece (a step, its product, the gradient of the loss or of a step with
            the loss behind it) what is run, such as ``compiled``; a piece is built once, however
            often its step is repeated.
    """

    def over_tasks(f: Callable[..., Any]) -> Callable[..., Any]:
        return f if loop else vmap(f, in_dims=(0, None, 0), randomness="different")

    def moving(step: Step) -> Callable[[Params, Params, Batch], Params]:
        def of_one(own: Params, shared: Params, batch: Batch) -> Params:
            point = {**shared, **own}
            return {name: p for name, p in step(point, batch).items() if p is not point.get(name)}

        return over_tasks(of_one)

    @cache
    def forward(step: Step) -> Callable[..., Params]:
        return build(moving(step))

    @cache
    def product(step: Step) -> Callable[..., tuple[Params, Params]]:
        def back(own: Params, shared: Params, batch: Batch, cotangent: Params) -> tuple[Params, Params]:
            return vjp(lambda o, s: moving(step)(o, s, batch), own, shared)[1](cotangent)

        return build(back)

    def mean_loss(own: Params, shared: Params, query: Batch) -> Tensor:
        return over_tasks(lambda o, s, q: learner.loss({**s, **o}, q))(own, shared, query).mean()

    judge = build(grad_and_value(mean_loss, argnums=(0, 1)))

    @cache
    def ending(step: Step) -> Callable[..., tuple[tuple[Params, Params], Tensor]]:
        def loss_behind(own: Params, shared: Params, batch: Batch, query: Batch) -> Tensor:
            return mean_loss({**own, **moving(step)(own, shared, batch)}, shared, query)

        return build(grad_and_value(loss_behind, argnums=(0, 1)))

    moved: set[str] = set()

    def gradient(params: Params, tasks: Task) -> tuple[Params, Tensor]:
        with torch.no_grad():
            if not moved:
                moved.update(params if loop else _moved(learner, params, tasks))
            # What steps move is each task's own; all else is kept once, and its cotangent summed over tasks.
            n, device = 1 if loop else count(tasks), next(iter(params.values())).device
            own = {name: p if loop else p.expand(n, *p.shape).contiguous() for name, p in params.items() if name in moved}
            shared = {name: p for name, p in params.items() if name not in moved}

            tape: list[tuple[Step, Batch, Tensor, Iterable[str]]] = []

            def recorded(step: Step) -> Step:
                def forward_once(point: Params, batch: Batch) -> Params:
                    random = _random(device)
                    reached = forward(step)(point, shared, batch)
                    tape.append((step, batch, random, reached.keys()))
                    return {**point, **reached}

                return forward_once

            # The last step is left to the end of the path, where the loss is.
            steps, support, query = learner.steps, tasks.support, tasks.query
            listed = isinstance(support, list)
            earlier = replace(learner, steps=tuple(map(recorded, steps[:-1])), weights=(1.0,))
            path = earlier.adapt(own, support[:-1] if listed else support)
            *inner, last = [0.0] * (len(steps) + 1 - len(learner.weights)) + list(learner.weights)
            if steps:
                (back, common), loss = ending(steps[-1])(path[-1], shared, support[-1] if listed else support, query)
            else:
                (back, common), loss = judge(path[-1], shared, query)
            back, common, loss = _scaled(back, last), _scaled(common, last), last * loss
            after = _random(device)
            for k, weight in reversed(list(enumerate(inner))):
                if k < len(tape):
                    step, batch, random, reached = tape[k]
                    _random(device, random)  # so that the step draws what it drew before
                    cotangent = {name: back.pop(name) for name in reached}
                    through, through_common = product(step)(path[k], shared, batch, cotangent)
                    back, common = _plus(back, through), _plus(common, through_common)
                if weight:
                    (here, here_common), value = judge(path[k], shared, query)
                    back, common = _plus(back, _scaled(here, weight)), _plus(common, _scaled(here_common, weight))
                    loss = loss + weight * value
            _random(device, after)
        both = {**common, **{name: v if loop else v.sum(0) for name, v in back.items()}}
        return {name: both[name] for name in params}, loss

    return gradient


def _moved(learner: Learner, params: Params, tasks: Task) -> set[str]:
    """Names of the prior that a step changes, found by adapting to one task."""
    with torch.random.fork_rng():
        path = replace(learner, weights=(1.0,)).adapt(params, one(tasks, 0).support)
    return {name for name, p in params.items() if path[-1][name] is not p}


def _random(device: torch.device, state: Tensor | None = None) -> Tensor:
    """The state of the random numbers on the device; set to ``state`` first where one is given."""
    source: Any = torch.get_device_module(device) if device.type != "cpu" else torch
    if state is not None:
        source.set_rng_state(state)
    return source.get_rng_state()


def _scaled(params: Params, factor: float) -> Params:
    return params if factor == 1 else {name: factor * p for name, p in params.items()}


def _plus(a: Params, b: Params) -> Params:
    """a + b, where a name that only one of them has counts as 0 in the other."""
    return {**a, **b, **{name: a[name] + b[name] for name in a.keys() & b.keys()}}
