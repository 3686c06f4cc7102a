"""Products of few columns, computed as their transposes: on a CPU torch's take up to twenty times as long as those of as few rows."""

from typing import Any

import torch
from torch.fx import Graph, GraphModule, Node

aten = torch.ops.aten

COLUMNS = 12
"""From so many columns on, a product is as fast as its transpose (MKL on an AMD processor with AVX-512)."""

ROWS = 20
"""Fewer rows are not worth a copy of what comes out."""

DOTS = 4
"""Fewer columns than these are as fast where both sides lie along the sum in memory: each number is a dot product of two lines."""


def turned(graph: GraphModule) -> GraphModule:
    """The graph with ab computed as (bᵀaᵀ)ᵀ where it has few columns; what lies transposed in memory is not copied.

    >>> from torch.fx.experimental.proxy_tensor import make_fx
    >>> graph = turned(make_fx(torch.mm)(torch.ones(40, 8), torch.ones(8, 3)))
    >>> graph(torch.ones(40, 8), torch.ones(8, 3)).shape
    torch.Size([40, 3])
    """
    nodes = Graph()
    nodes.output(nodes.graph_copy(graph.graph, {}))
    for product in (aten.bmm.default, aten.mm.default):
        for node in nodes.find_nodes(op="call_function", target=product):
            if _narrow(node):
                _turn(nodes, node)
    return GraphModule(graph, nodes)


def _narrow(node: Node) -> bool:
    a, b = (side.meta["val"] for side in node.args)  # type: ignore[union-attr]
    rows, columns = a.shape[-2], b.shape[-1]
    a_vector = columns == 1 and a.ndim == 2  # has a call of its own
    dots = columns < DOTS and a.stride(-1) == b.stride(-2) == 1
    return a.device.type == "cpu" and columns < COLUMNS and rows >= ROWS and not (a_vector or dots)


def _turn(nodes: Graph, node: Node) -> None:
    with nodes.inserting_before(node):

        def call(target: Any, *args: Any, **how: Any) -> Node:
            return nodes.call_function(target, args, how)

        a, b = (call(aten.transpose.int, side, -2, -1) for side in node.args)
        back = call(aten.transpose.int, call(node.target, b, a), -2, -1)
        # What follows may count on rows that lie one after the other; Inductor joins the copy with it.
        same = call(aten.clone.default, back, memory_format=torch.contiguous_format)
    node.replace_all_uses_with(same)
    nodes.erase_node(node)
