"""A function of tensors, compiled: traced to a graph of plain tensor operations, then built by Inductor."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch._guards import TracingContext, tracing
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx import GraphModule
from torch.fx.experimental.proxy_tensor import make_fx
from torch.fx.experimental.symbolic_shapes import ShapeEnv
from torch.utils import _pytree as pytree

Built = Callable[..., Any]


def compiled(f: Callable[..., Any], known: dict[Any, Built] | None = None) -> Callable[..., Any]:
    """``f`` of nested tuples, lists and dicts of tensors, compiled at its first call with tensors of such shapes.

    Tracing runs the Python of ``f`` once and keeps the operations, those of nested
    ``torch.func`` transforms included. So whatever ``f`` reads from outside (numbers, buffers)
    is read at the first call.

    Args:
        known: what was built before, by graph; functions that share it and turn out to be the
            same graph are built once.

    >>> twice = compiled(lambda batch: {"y": 2 * batch["x"]})
    >>> twice({"x": torch.ones(2)})
    {'y': tensor([2., 2.])}
    """
    by_shape: dict[Any, tuple[Built, Any]] = {}
    known = {} if known is None else known

    def run(*inputs: Any) -> Any:
        leaves, layout = pytree.tree_flatten(inputs)
        key = (layout, *((t.shape, t.stride(), t.dtype, t.device) for t in leaves))
        if key not in by_shape:
            by_shape[key] = _build(f, leaves, layout, known)
        call, out_layout = by_shape[key]
        return pytree.tree_unflatten(call(*leaves), out_layout)

    return run


def _build(f: Callable[..., Any], leaves: list[Tensor], layout: Any, known: dict[Any, Built]) -> tuple[Built, Any]:
    out_layout: list[Any] = []

    def flat(*flat_inputs: Tensor) -> list[Tensor]:
        results, found = pytree.tree_flatten(f(*pytree.tree_unflatten(list(flat_inputs), layout)))
        out_layout.append(found)
        return results

    # In evaluation mode, as the numbers are derivatives already and nothing is to be kept for another.
    with torch.no_grad():
        graph: GraphModule = make_fx(flat, tracing_mode="fake", _allow_non_fake_inputs=True)(*leaves)
        shapes = [(t.shape, t.stride(), t.dtype, t.device) for t in leaves]
        key = (graph.code, *shapes, *(id(t) for t in _constants(graph)))
        if key not in known:
            # A shape environment, though no shape varies: without one Inductor's cache on disk is not used.
            with tracing(TracingContext(FakeTensorMode(shape_env=ShapeEnv()))):
                known[key] = torch._inductor.compile(graph, leaves)  # type: ignore[attr-defined]
    return known[key], out_layout[-1]


def _constants(graph: GraphModule) -> list[Any]:
    return [getattr(graph, str(node.target)) for node in graph.graph.nodes if node.op == "get_attr"]
