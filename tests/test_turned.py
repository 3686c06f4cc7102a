"""Products of few columns, computed as their transposes."""

import pytest
import torch
from torch import Tensor
from torch.fx import GraphModule
from torch.fx.experimental.proxy_tensor import make_fx

from innerloop.engine import compiled
from innerloop.engine.turned import turned

aten = torch.ops.aten
TASKS = 4


def laid(transposed: bool, *shape: int) -> Tensor:
    """Numbers that lie row by row in memory, or column by column."""
    return torch.randn(*shape[:-2], shape[-1], shape[-2]).mT if transposed else torch.randn(*shape)


def products(graph: GraphModule) -> list[tuple[int, ...]]:
    """The shape of each product."""
    made = make_fx(graph, tracing_mode="fake")(*(node.meta["val"] for node in graph.graph.find_nodes(op="placeholder")))
    return [tuple(node.meta["val"].shape) for node in made.graph.nodes if node.target in (aten.bmm.default, aten.mm.default)]


@pytest.mark.parametrize("one", [False, True], ids=["by rows", "by columns"])
@pytest.mark.parametrize("other", [False, True], ids=["by rows", "by columns"])
@pytest.mark.parametrize("tasks", [(), (TASKS,)], ids=["one", "tasks"])
def test_a_turned_product_is_the_same_and_lies_the_same(tasks: tuple[int, ...], one: bool, other: bool) -> None:
    """Also where what follows needs its rows one after the other."""
    a, b = laid(one, *tasks, 30, 8), laid(other, *tasks, 8, 5)

    def f(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
        c = a @ b
        return aten.view(c, [-1]), c

    graph = turned(make_fx(f, tracing_mode="fake")(a, b))
    assert products(graph) == [(*tasks, 5, 30)]
    for found, wanted in zip(graph(a, b), f(a, b), strict=True):
        torch.testing.assert_close(found, wanted)
        assert found.stride() == wanted.stride()


def test_a_graph_stays_as_it_is_and_is_turned_again() -> None:
    """As where one graph is built for tensors of two layouts."""
    graph = make_fx(torch.bmm, tracing_mode="fake")(torch.randn(TASKS, 30, 8), torch.randn(TASKS, 8, 5))
    for _ in range(2):
        assert products(turned(graph)) == [(TASKS, 5, 30)]
    assert products(graph) == [(TASKS, 30, 5)]


def test_what_is_compiled_is_turned(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []

    def built(graph: GraphModule, *_: object) -> GraphModule:
        seen.extend(products(graph))
        return graph

    monkeypatch.setattr("torch._inductor.compile", built)
    a, b = torch.randn(TASKS, 30, 8), torch.randn(TASKS, 8, 3)
    torch.testing.assert_close(compiled(torch.bmm)(a, b), a @ b)
    assert seen == [(TASKS, 3, 30)]


@pytest.mark.parametrize(
    ("a", "b"),
    [((TASKS, 30, 8), (TASKS, 8, 12)), ((TASKS, 19, 8), (TASKS, 8, 3)), ((30, 8), (8, 1))],
    ids=["many columns", "few rows", "a vector"],
)
def test_others_are_left_as_they_are(a: tuple[int, ...], b: tuple[int, ...]) -> None:
    graph = turned(make_fx(torch.matmul, tracing_mode="fake")(torch.ones(a), torch.ones(b)))
    assert not graph.graph.find_nodes(op="call_function", target=aten.transpose.int)


def test_few_dot_products_are_left_as_they_are() -> None:
    graph = turned(make_fx(torch.mm, tracing_mode="fake")(laid(False, 30, 8), laid(True, 8, 3)))
    assert not graph.graph.find_nodes(op="call_function", target=aten.transpose.int)


def test_products_on_other_devices_are_left_as_they_are() -> None:
    """Only a CPU's are slow."""
    graph = turned(make_fx(torch.mm)(torch.ones(30, 8, device="meta"), torch.ones(8, 3, device="meta")))
    assert not graph.graph.find_nodes(op="call_function", target=aten.transpose.int)
