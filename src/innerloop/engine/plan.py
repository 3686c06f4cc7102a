"""A plan, and the meta-gradient by it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import product

import torch
from torch import Tensor
from torch.func import grad_and_value

from innerloop.batches import chunks, count, one
from innerloop.device import device_of
from innerloop.engine.compiled import Builder, compiled, compiled_vjp, replayed
from innerloop.engine.memory import keep_freed_memory
from innerloop.engine.stepwise import stepwise
from innerloop.errors import InputError, nearest
from innerloop.learner import Learner, Task, meta_loss, task_loss
from innerloop.params import Params

MetaGradient = Callable[[Params, Task], tuple[Params, Tensor]]

_NAMES = product(("vmap", "loop"), ("", "stepwise", "recompute"), ("", "compile", "compile+record"))
ENGINES = ("auto", *("+".join(filter(None, parts)) for parts in _NAMES))


@dataclass(frozen=True)
class Plan:
    """How a meta-gradient is computed: independent choices, one result.

    Args:
        loop: one task after the other, instead of all of a chunk at once by vmap.
        chunk: tasks that are in memory together, all where None; gradients add up over chunks.
        stepwise: the gradient goes back along the path by a vector-Jacobian product for each step. One
            step and its product is compiled and serves every step; otherwise all steps are one
            graph, which is faster where calls take the time, and takes longer to compile with each step.
        recompute: stepwise, and of all steps but the last only the parameters are kept, and the step
            is computed a second time: memory of one step, for a third more work.
        compiled: by ``torch.compile``'s Inductor, inner gradients and all; pays for itself in long runs.
        recorded: compiled, and what is asked of an NVIDIA GPU is recorded once and then asked as one (CUDA graphs);
            for networks so small that the GPU waits for the host.
    """

    loop: bool = False
    chunk: int | None = None
    stepwise: bool = False
    recompute: bool = False
    compiled: bool = False
    recorded: bool = False

    def __post_init__(self) -> None:
        if self.recorded and not self.compiled:
            raise InputError("a plan is recorded and not compiled; only what is compiled can be recorded")

    def __str__(self) -> str:
        chunk = f", {self.chunk} tasks at a time" if self.chunk and not self.loop else ""
        path = "recompute" if self.recompute else "stepwise" if self.stepwise else ""
        parts = ("loop" if self.loop else "vmap", path, "compile" if self.compiled else "", "record" if self.recorded else "")
        return "+".join(part for part in parts if part) + chunk

    @staticmethod
    def named(engine: str, chunk: int | None = None) -> "Plan | None":
        """The plan of a name in ``ENGINES``; None for ``auto``, which is chosen by measuring."""
        if engine not in ENGINES:
            raise InputError(f"no engine {engine!r}; {nearest(engine, ENGINES)}")
        if chunk is not None and chunk < 1:
            raise InputError(f"chunk is {chunk}; give the number of tasks that fit in memory together, 1 or more")
        parts = engine.split("+")
        chosen = (part in parts for part in ("stepwise", "recompute", "compile", "record"))
        return None if engine == "auto" else Plan("loop" in parts, chunk, *chosen)


def meta_gradient(learner: Learner, plan: Plan = Plan()) -> MetaGradient:
    """``(params, tasks) → (gradient, loss)`` of the mean over the tasks, computed as planned.

    >>> from innerloop.methods import maml
    >>> net = torch.nn.Linear(1, 1, bias=False)
    >>> quadratic = lambda params, batch: ((params["net.weight"] - batch) ** 2).sum() / 2
    >>> gradient, loss = meta_gradient(maml(net, quadratic, rate=0.5))(
    ...     {"net.weight": torch.zeros(1, 1)}, Task(torch.ones(2, 1), torch.ones(2, 1)))
    >>> gradient, loss  # (1 − rate)² (w − 1) and half of (1 − rate)² (w − 1)²
    ({'net.weight': tensor([[-0.2500]])}, tensor(0.1250))
    """
    keep_freed_memory()
    build = Builder(plan.recorded)
    if plan.recompute or plan.stepwise:
        pieces = (partial(compiled, build=build), partial(compiled_vjp, build=build)) if plan.compiled else ()
        piece = stepwise(learner, plan.loop, plan.recompute, *pieces)
    else:
        piece = grad_and_value(task_loss(learner) if plan.loop else meta_loss(learner))
        # torch.compile has no double backward through autograd; a graph of nested torch.func.grad
        # has it written out. So the gradient is taken inside of what is compiled.
        piece = compiled(piece, build) if plan.compiled else piece
    piece = replayed(piece) if plan.recorded else piece

    def whole(params: Params, tasks: Task) -> tuple[Params, Tensor]:
        n = count(tasks)
        parts = [one(tasks, k) for k in range(n)] if plan.loop else chunks(tasks, plan.chunk)
        return mean_over(piece, params, parts, [1] * n if plan.loop else list(map(count, parts)))

    return whole


def mean_over(gradient_of: MetaGradient, params: Params, parts: Sequence[Task], sizes: Sequence[int]) -> tuple[Params, Tensor]:
    """Meta-gradient and loss of a batch in parts: their means, weighed by how many tasks each has."""
    if len(parts) == 1:
        return gradient_of(params, parts[0])
    gradient, loss = (
        {name: torch.zeros_like(p) for name, p in params.items()},
        torch.zeros((), device=device_of(params)),
    )
    n = sum(sizes)
    for part, size in zip(parts, sizes, strict=True):
        part_gradient, part_loss = gradient_of(params, part)
        share = size / n
        gradient = {name: g + share * part_gradient[name] for name, g in gradient.items()}
        loss = loss + share * part_loss
    return gradient, loss
