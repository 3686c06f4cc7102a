"""The meta-gradient step by step: compiled pieces that serve every step, and memory for the graph of one, however many there are."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.func import grad_and_value, vjp, vmap

from innerloop.batches import count, one
from innerloop.device import device_of, random_state, undrawn
from innerloop.learner import Batch, Learner, Step, Task
from innerloop.params import Params

Transform = Callable[[Callable[..., Any]], Callable[..., Any]]
Product = Callable[[Any], Any]


def with_product(f: Callable[..., Any]) -> Callable[..., tuple[Any, Product]]:
    """``(x, *rest) → (f(x, *rest), v ↦ vᵀ ∂f/∂x)``: a function's value, and its vector-Jacobian product."""

    def run(x: Any, *rest: Any) -> tuple[Any, Product]:
        value, product, *_ = vjp(lambda x: f(x, *rest), x)
        return value, lambda v: product(v)[0]

    return run


def stepwise(
    learner: Learner, loop: bool, recompute: bool = True, build: Transform = lambda f: f, differentiate: Transform = with_product
) -> Callable[[Params, Task], tuple[Params, Tensor]]:
    """``(params, tasks) → (gradient, loss)``: forward along the path, then back with one product a step.

    With φₖ₊₁ = sₖ(φₖ) and the loss Σ wₖ L(φₖ), cotangents go from the path's end to its start,

        v_K = w_K ∇L(φ_K),    vₖ = wₖ ∇L(φₖ) + (∂sₖ/∂φₖ)ᵀ vₖ₊₁,

    and v₀ is the meta-gradient. The product with a gradient step is v − rate · H v.

    Args:
        loop: the batch is a single task, not a stack of them.
        recompute: keep the parameters of each step but the graph of the last one only, and compute
            the others a second time on the way back: a third more work than keeping all graphs,
            in the memory of one.
        build: makes of the gradient of the loss what is run, such as ``compiled``.
        differentiate: makes of a step what gives its value and its product, such as
            ``compiled_vjp``; called once for each step, however often that is repeated.
    """

    def over_tasks(f: Callable[..., Any]) -> Callable[..., Any]:
        return f if loop else vmap(f, in_dims=(0, None, 0), randomness="different")

    def differentiated(step: Step) -> Callable[..., tuple[Params, Product]]:
        def of_one(own: Params, shared: Params, batch: Batch) -> Params:
            point = {**shared, **own}
            return {name: p for name, p in step(point, batch).items() if p is not point.get(name)}

        return differentiate(lambda both, batch: over_tasks(of_one)(*both, batch))

    by_id: dict[int, Callable[..., tuple[Params, Product]]] = {}  # a step may be of a class that cannot be hashed

    def taken(step: Step) -> Callable[..., tuple[Params, Product]]:
        if id(step) not in by_id:
            by_id[id(step)] = differentiated(step)
        return by_id[id(step)]

    def mean_loss(own: Params, shared: Params, query: Batch) -> Tensor:
        return over_tasks(lambda o, s, q: learner.loss({**s, **o}, q))(own, shared, query).mean()

    judge = build(grad_and_value(mean_loss, argnums=(0, 1)))
    moved: set[str] = set()

    def gradient(params: Params, tasks: Task) -> tuple[Params, Tensor]:
        with torch.no_grad():
            if not moved:
                moved.update(params if loop else _moved(learner, params, tasks))
            # What steps move is each task's own; all else is kept once, and its cotangent summed over tasks.
            n, device = 1 if loop else count(tasks), device_of(params)
            own = {name: p if loop else p.expand(n, *p.shape).contiguous() for name, p in params.items() if name in moved}
            shared = {name: p for name, p in params.items() if name not in moved}

            tape: list[_Taken] = []

            def recorded(step: Step) -> Step:
                def forward(point: Params, batch: Batch) -> Params:
                    if recompute and tape:
                        tape[-1].product = None
                    random = random_state(device)
                    reached, product = taken(step)((point, shared), batch)
                    tape.append(_Taken(step, batch, random, reached.keys(), product))
                    return {**point, **reached}

                return forward

            path = replace(learner, steps=tuple(map(recorded, learner.steps)), weights=(1.0,)).adapt(own, tasks.support)
            weights = [0.0] * (len(path) - len(learner.weights)) + list(learner.weights)
            (back, common), loss = judge(path[-1], shared, tasks.query)
            back, common, loss = _scaled(back, weights[-1]), _scaled(common, weights[-1]), weights[-1] * loss
            after = random_state(device)
            for point, weight in zip(reversed(path[:-1]), reversed(weights[:-1]), strict=True):
                there = tape.pop()
                if there.product is None:
                    random_state(device, there.random)  # so that the step draws what it drew before
                    _, there.product = taken(there.step)((point, shared), there.batch)
                through, through_common = there.product({name: back.pop(name) for name in there.reached})
                back, common = _plus(back, through), _plus(common, through_common)
                if weight:
                    (here, here_common), value = judge(point, shared, tasks.query)
                    back, common = _plus(back, _scaled(here, weight)), _plus(common, _scaled(here_common, weight))
                    loss = loss + weight * value
            random_state(device, after)
        both = {**common, **{name: v if loop else v.sum(0) for name, v in back.items()}}
        return {name: both[name] for name in params}, loss

    return gradient


@dataclass
class _Taken:
    """A step that was taken, and what the way back needs of it."""

    step: Step
    batch: Batch
    random: Tensor
    reached: Iterable[str]
    product: Product | None


def _moved(learner: Learner, params: Params, tasks: Task) -> set[str]:
    """Names of the prior that a step changes, found by adapting to one task."""
    with undrawn(device_of(params)):
        path = replace(learner, weights=(1.0,)).adapt(params, one(tasks, 0).support)
    return {name for name, p in params.items() if path[-1][name] is not p}


def _scaled(params: Params, factor: float) -> Params:
    return params if factor == 1 else {name: factor * p for name, p in params.items()}


def _plus(a: Params, b: Params) -> Params:
    """a + b, where a name that only one of them has counts as 0 in the other."""
    return {**a, **b, **{name: a[name] + b[name] for name in a.keys() & b.keys()}}
