"""A function of tensors, compiled: traced to a graph of plain tensor operations, then built by Inductor."""

import gc
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from dataclasses import dataclass
from functools import cache
from threading import Thread
from typing import Any

import torch
from torch import Tensor
from torch._guards import TracingContext, tracing
from torch._ops import OpOverload
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.func import functionalize, vjp
from torch.fx import GraphModule
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils import _pytree as pytree

from innerloop.batches import map_tensors
from innerloop.engine.factored import factored
from innerloop.engine.turned import turned

Built = Callable[..., Any]


class Builder:
    """Builds graphs by Inductor, equal ones once.

    Args:
        recorded: what the host asks of an NVIDIA GPU in a graph is recorded when it first runs, and asked again as one
            (a CUDA graph): what it gives is written over once ``torch.compiler.cudagraph_mark_step_begin`` was called.
    """

    def __init__(self, recorded: bool = False):
        self._recorded = recorded
        self._built: dict[Any, Built] = {}

    def __call__(self, graph: GraphModule, leaves: list[Tensor]) -> Built:
        """``graph`` built for tensors like these.

        Raises:
            TooLong: within ``patience``, and it is expected to take longer.
        """
        key = (graph.code, _shapes(leaves), *(id(t) for t in _constants(graph)))
        if key not in self._built:
            if (patience := _PATIENCE.get()) is not None:
                patience.wait(len(graph.graph.nodes))
            from torch.fx.experimental.symbolic_shapes import ShapeEnv  # here, as it brings sympy, which takes longer than all of innerloop

            _trial_of_instructions().join()
            # Fake tensors of fixed shapes: of real ones Inductor takes every size for a variable.
            # And with a shape environment, though no shape varies: without one its cache on disk is not used.
            fake = FakeTensorMode(shape_env=ShapeEnv())
            fixed = [fake.from_tensor(t, static_shapes=True) for t in leaves]
            for node, like in zip(graph.graph.find_nodes(op="placeholder"), fixed, strict=True):
                node.meta["val"] = like  # Inductor may go by these instead, and they lay in memory as the trace's examples did
            with torch.no_grad(), tracing(TracingContext(fake)):
                self._built[key] = torch._inductor.compile(turned(graph), fixed, self._options(leaves))  # type: ignore[attr-defined]
        return self._built[key]

    def _options(self, leaves: list[Tensor]) -> dict[str, bool]:
        from torch._inductor import config

        if self._recorded:
            return {"triton.cudagraphs": True}
        known = all(hasattr(config, name) for name in IN_ONE)  # torch from 2.8 on
        return IN_ONE if known and all(t.device.type == "cpu" for t in leaves) else {}


AN_OPERATION = 0.01
"""Seconds that Inductor takes for each operation of a graph: 0.005 on two quiet cores, 0.02 on one that is shared."""


class TooLong(Exception):
    """A graph of so many operations that compiling it would not pay."""


@dataclass
class _Patience:
    seconds: float
    operations: int = 0

    def wait(self, operations: int) -> None:
        self.operations += operations
        if (taken := AN_OPERATION * self.operations) > self.seconds:
            raise TooLong(f"{self.operations:,} operations, which would take about {taken:,.0f} s to compile")


_PATIENCE: ContextVar[_Patience | None] = ContextVar("how long compiling may take", default=None)


@contextmanager
def patience(seconds: float) -> Iterator[None]:
    """Within the block graphs are built only as long as all of them together are expected to take so many seconds."""
    token = _PATIENCE.set(_Patience(seconds))
    try:
        yield
    finally:
        _PATIENCE.reset(token)


IN_ONE = {"cpp_wrapper": True, "cpp_wrapper_build_separate": True}
"""Inductor's options on a CPU: kernels and their calls as one library of C++, not as a library each that Python calls.

The C++ compiler has half the work, and a call costs microseconds less for each kernel.
"""


@cache
def _trial_of_instructions() -> Thread:
    """Inductor's trial of which vector instructions work here, begun: processes that take a second, while we trace."""
    import torch._inductor.compile_fx  # noqa: F401 here and not in the thread, which must not import what we import too
    from torch._inductor.cpu_vec_isa import valid_vec_isa_list

    def attempt() -> None:
        with suppress(Exception):  # such as no compiler: building says so
            valid_vec_isa_list()

    trial = Thread(target=attempt, daemon=True)
    trial.start()
    return trial


@contextmanager
def _uncollected() -> Iterator[None]:
    """Without searching for garbage within the block: most of what a trace makes stays, and searching is a tenth of its time."""
    collecting = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collecting:
            gc.enable()


def compiled(f: Callable[..., Any], build: Builder | None = None) -> Callable[..., Any]:
    """``f`` of nested tuples, lists and dicts of tensors, compiled at its first call with tensors of such shapes.

    Tracing runs the Python of ``f`` once and keeps the operations, those of nested
    ``torch.func`` transforms included. So whatever ``f`` reads from outside (numbers, buffers)
    is read at the first call. Products of thin matrices are kept as their factors (``factored``).

    Args:
        build: of functions that share it and turn out to be the same graph, one is built.

    >>> twice = compiled(lambda batch: {"y": 2 * batch["x"]})
    >>> twice({"x": torch.ones(2)})
    {'y': tensor([2., 2.])}
    """
    build = build or Builder()
    _trial_of_instructions()

    def finish(graph: GraphModule, leaves: list[Tensor]) -> Built:
        thinner = factored(graph)
        return build(_traced(thinner, leaves) if thinner else graph, leaves)

    return _graphed(f, finish)


def traced(f: Callable[..., Any]) -> Callable[..., Any]:
    """``f`` traced like ``compiled``, in milliseconds and without being built: what is left are its operations, not the Python around them.

    >>> twice = traced(lambda batch: {"y": 2 * batch["x"]})
    >>> twice({"x": torch.ones(2)})
    {'y': tensor([2., 2.])}
    """
    return _graphed(f, lambda graph, leaves: graph)


def _graphed(f: Callable[..., Any], finish: Callable[[GraphModule, list[Tensor]], Built]) -> Callable[..., Any]:
    """``f`` by what its graph is finished to, once for tensors of such shapes."""

    @_by_shape
    def made(leaves: list[Tensor], layout: Any) -> tuple[Built, Any]:
        flat, out_layouts = _flat(f, layout)
        return finish(_traced(flat, leaves), leaves), out_layouts[-1]

    def run(*inputs: Any) -> Any:
        leaves, layout = pytree.tree_flatten(inputs)
        call, out_layout = made(leaves, layout)
        return pytree.tree_unflatten(call(*leaves), out_layout)

    return run


def compiled_vjp(f: Callable[..., Any], build: Builder | None = None) -> Callable[..., tuple[Any, Callable[[Any], Any]]]:
    """``(x, *rest) → (f(x, *rest), v ↦ vᵀ ∂f/∂x)``, both compiled.

    The graph of f and of its product is traced as one and cut in two where the least has to be
    kept in between; what is cheap is computed a second time instead (PyTorch's min-cut
    partitioner). The product holds what is kept, and may be called more than once.

    >>> square = compiled_vjp(lambda x, factor: factor * x**2)
    >>> y, product = square(torch.tensor(3.0), torch.tensor(2.0))
    >>> y, product(torch.tensor(1.0))
    (tensor(18.), tensor(12.))
    """

    def both(v: Any, x: Any, *rest: Any) -> tuple[Any, Any]:
        value, product, *_ = vjp(lambda x: f(x, *rest), x)
        return value, product(v)[0]

    return compiled_linear(both, f, build)


def compiled_linear(
    both: Callable[..., tuple[Any, Any]], example: Callable[..., Any], build: Builder | None = None
) -> Callable[..., tuple[Any, Callable[[Any], Any]]]:
    """``both: (v, *inputs) → (value, what is linear in v)`` as ``(*inputs) → (value, v ↦ what is linear in v)``, both compiled.

    What does not depend on v is computed once, as far as it is worth keeping.

    Args:
        example: ``(*inputs) → v``, of which only shapes are looked at.

    >>> scaled = compiled_linear(lambda v, x: (x, torch.exp(x) * v), example=lambda x: x)
    >>> _, times = scaled(torch.tensor(0.0))
    >>> times(torch.tensor(3.0))
    tensor(3.)
    """
    build = build or Builder()
    _trial_of_instructions()
    cut = _by_shape(lambda leaves, layout: _cut(both, example, leaves, layout, build))

    def run(*inputs: Any) -> tuple[Any, Callable[[Any], Any]]:
        leaves, layout = pytree.tree_flatten(inputs)
        ahead, out_layout, back, back_layout, lie = cut(leaves, layout)
        results = ahead(*leaves)
        values, kept = results[: out_layout.num_leaves], results[out_layout.num_leaves :]

        def product(v: Any) -> Any:
            # As they lay in memory when this was traced: a view of them may have been.
            parts = [_lying(t, strides) for t, strides in zip(pytree.tree_leaves(v), lie, strict=True)]
            return pytree.tree_unflatten(back(*kept, *parts), back_layout)

        return pytree.tree_unflatten(values, out_layout), product

    return run


def _lying(t: Tensor, strides: tuple[int, ...]) -> Tensor:
    expanded = any(size > 1 and not step for size, step in zip(t.shape, strides, strict=True))
    return t if expanded or t.stride() == strides else t.new_empty_strided(t.shape, strides).copy_(t)


def _cut(
    both: Callable[..., tuple[Any, Any]], example: Callable[..., Any], leaves: list[Tensor], layout: Any, build: Builder
) -> tuple[Built, Any, Built, Any, list[Any]]:
    """``(leaves) → (value, kept)``, the layout of that value, ``(kept, v) → what is linear in v``, its layout, and strides of v."""
    like, like_layouts = _flat(example, layout)
    with torch.no_grad(), FakeTensorMode(allow_non_fake_inputs=True) as fake:
        examples = like(*map(fake.from_tensor, leaves))
    from torch._functorch.partitioners import min_cut_rematerialization_partition  # here, as it takes a second to import

    n, layouts = len(leaves), []

    def joint(*given: Tensor) -> list[Tensor]:
        v = pytree.tree_unflatten(list(given[n:]), like_layouts[-1])
        (value, value_layout), (through, through_layout) = map(
            pytree.tree_flatten, both(v, *pytree.tree_unflatten(list(given[:n]), layout))
        )
        layouts.append((value_layout, through_layout))
        return [*value, *through]

    vs = [torch.empty_strided(v.shape, v.stride(), dtype=v.dtype, device=v.device) for v in examples]
    graph = _traced(joint, [*leaves, *vs])
    if any(node.target._schema.is_mutable for node in graph.graph.nodes if isinstance(node.target, OpOverload)):
        graph = _traced(functionalize(graph), [*leaves, *vs])  # the partitioner wants nothing written in place
    # The partitioner knows inputs and what the second part is given by these names.
    for k, node in enumerate(graph.graph.find_nodes(op="placeholder")):
        node.name = node.target = f"primals_{k + 1}" if k < n else f"tangents_{k - n + 1}"
    graph.recompile()
    value_layout, through_layout = layouts[-1]
    with tracing(TracingContext(FakeTensorMode())):
        ahead, back = min_cut_rematerialization_partition(graph, [*leaves, *vs], num_fwd_outputs=value_layout.num_leaves)
    built_back = _by_shape(lambda given, _: build(back, given))
    strides = [v.stride() for v in vs]
    return build(ahead, leaves), value_layout, lambda *given: built_back(list(given), None)(*given), through_layout, strides


def _flat(f: Callable[..., Any], layout: Any) -> tuple[Callable[..., list[Tensor]], list[Any]]:
    """``f`` from a list of tensors to a list of tensors, and the list that its results' layout is put on when it runs."""
    out_layouts: list[Any] = []

    def flat(*leaves: Tensor) -> list[Tensor]:
        results, found = pytree.tree_flatten(f(*pytree.tree_unflatten(list(leaves), layout)))
        out_layouts.append(found)
        return results

    return flat, out_layouts


def _traced(flat: Callable[..., list[Tensor]], leaves: list[Tensor]) -> GraphModule:
    # Without autograd, as the numbers are derivatives already and nothing is to be kept for another.
    with torch.no_grad():
        graph = make_fx(flat, tracing_mode="fake", _allow_non_fake_inputs=True)(*leaves)
    graph.graph.eliminate_dead_code()  # what a network's second attempt has left of its first, too
    graph.recompile()
    return graph


def _by_shape(make: Callable[[list[Tensor], Any], Any]) -> Callable[[list[Tensor], Any], Any]:
    """What ``make`` gives for tensors of such shapes, in such a layout: made at the first call, and kept."""
    made: dict[Any, Any] = {}

    def remembered(leaves: list[Tensor], layout: Any) -> Any:
        key = (layout, *_shapes(leaves))
        if key not in made:
            with _uncollected():
                made[key] = make(leaves, layout)
        return made[key]

    return remembered


def replayed(f: Callable[..., Any]) -> Callable[..., Any]:
    """``f``, whose compiled parts are recorded: each call goes through the same recordings, and what it gives is the caller's to keep."""

    def run(*inputs: Any) -> Any:
        torch.compiler.cudagraph_mark_step_begin()
        return map_tensors(torch.clone, f(*inputs))

    return run


def _shapes(leaves: Any) -> tuple[Any, ...]:
    return tuple((t.shape, t.stride(), t.dtype, t.device) for t in leaves)


def _constants(graph: GraphModule) -> list[Any]:
    return [getattr(graph, str(node.target)) for node in graph.graph.nodes if node.op == "get_attr"]
