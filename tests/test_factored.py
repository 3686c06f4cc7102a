"""Matrices of tasks that are kept as their factors: the same numbers, and never multiplied out."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.func import grad_and_value
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils import _pytree as pytree

import innerloop as il
from innerloop.engine import Plan, meta_gradient
from innerloop.engine.factored import Factored, factored
from innerloop.learner import Learner, Task, meta_loss
from innerloop.models import Recurrent, mlp, with_film

F64 = torch.float64
WIDE = 72
TASKS, SHOTS = 6, 3
CUT = 0.05
"""Largest element of an inner gradient."""


def net(**how: Any) -> torch.nn.Module:
    return mlp(1, WIDE, WIDE, 1, generator=torch.Generator().manual_seed(0), **how).double()


def maml(steps: int, **how: Any) -> Learner:
    own = net()
    return il.maml(own, il.mse(own), steps, 0.05, **how)


def modulated(**how: Any) -> Learner:
    film = with_film(net())
    return il.mumomaml(film, il.mse(film), 2, 0.05, encoder=Recurrent(2, 4), hidden=None, **how)


def several() -> Learner:
    other = mlp(1, WIDE, WIDE, 1).double()
    return il.multi_maml([maml(2), il.maml(other, il.mse(other), 2, 0.05)])


LEARNERS: dict[str, Callable[[], Learner]] = {
    "maml": lambda: maml(2),
    "maml, its inner gradients cut": lambda: maml(2, clip=CUT),
    "many steps, so that factors grow thick": lambda: maml(9),
    "first order": lambda: maml(2, first_order=True),
    "meta-sgd": lambda: il.meta_sgd(own := net(), il.mse(own), 2, 0.05),
    "maml++": lambda: il.maml_plus_plus(own := net(), il.mse(own), 2, 0.05),
    "l2f": lambda: il.l2f(own := net(), il.mse(own), 2, 0.05),
    "mumomaml": modulated,
    "mumomaml, its inner gradients cut": lambda: modulated(clip=CUT),
    "multi-maml": several,
    "maltml": lambda: il.maltml(maml(1), 1, 0.05),
}


def tasks_for(name: str) -> Task:
    draw = torch.Generator().manual_seed(1)
    x, y, asked, wanted = (torch.randn(TASKS, n, 1, generator=draw, dtype=F64) for n in (SHOTS, SHOTS, 5, 5))
    support: Any = (x, y)
    if name == "multi-maml":
        support = il.tasks.Told(support, torch.arange(TASKS) % 2)
    task = Task(support, (asked, wanted))
    if name != "maltml":
        return task
    related = pytree.tree_map(lambda t: t[:, None].expand(TASKS, 2, *t.shape[1:]).contiguous(), task)
    return Task(related, related)


def graph_of(learner: Learner, tasks: Task) -> tuple[torch.fx.GraphModule, list[Tensor], Any]:
    """The traced meta-gradient, what it takes, and the layout of what it gives."""
    leaves, layout = pytree.tree_flatten((learner.prior, tasks))
    given: list[Any] = []

    def flat(*values: Tensor) -> list[Tensor]:
        results, out = pytree.tree_flatten(grad_and_value(meta_loss(learner))(*pytree.tree_unflatten(list(values), layout)))
        given.append(out)
        return results

    with torch.no_grad():
        return make_fx(flat, tracing_mode="fake")(*leaves), leaves, given[-1]


@pytest.mark.parametrize("name", LEARNERS)
def test_meta_gradients_are_those_of_the_matrices(name: str) -> None:
    learner, tasks = LEARNERS[name](), tasks_for(name)
    learner = il.Learner(**{**vars(learner), "prior": {k: p.double() for k, p in learner.prior.items()}})
    graph, leaves, layout = graph_of(learner, tasks)
    run = factored(graph)
    assert run is not None
    gradient, loss = pytree.tree_unflatten(run(*leaves), layout)
    wanted, wanted_loss = meta_gradient(learner, Plan())(learner.prior, tasks)
    torch.testing.assert_close(loss, wanted_loss, rtol=1e-11, atol=1e-12)
    for key, value in wanted.items():
        torch.testing.assert_close(gradient[key], value, rtol=1e-10, atol=1e-12, msg=lambda m, key=key: f"{key}: {m}")


def per_task(graph: torch.fx.GraphModule) -> list[str]:
    """Operations of a graph that make a wide matrix for each task."""
    same = ("view", "expand", "transpose")
    calls = [node for node in graph.graph.nodes if node.op == "call_function"]
    sizes = [(node, tuple(node.meta["val"].shape)) for node in calls if isinstance(node.meta.get("val"), Tensor)]
    return [
        str(node.target) for node, shape in sizes if shape == (TASKS, WIDE, WIDE) and not any(word in str(node.target) for word in same)
    ]


@pytest.mark.parametrize("name", ["maml", "first order", "mumomaml"])
def test_no_matrix_of_a_task_is_ever_made(name: str) -> None:
    learner, tasks = LEARNERS[name](), tasks_for(name)
    graph, leaves, _ = graph_of(learner, tasks)
    assert per_task(graph)
    run = factored(graph)
    assert run is not None
    with torch.no_grad():
        thinner = make_fx(run, tracing_mode="fake")(*leaves)
    assert not per_task(thinner)


@pytest.mark.parametrize("name", ["maml", "mumomaml, its inner gradients cut"])
def test_the_compiled_plan_takes_factors(name: str) -> None:
    learner, tasks = LEARNERS[name](), tasks_for(name)
    learner = il.Learner(**{**vars(learner), "prior": {k: p.double() for k, p in learner.prior.items()}})
    wanted, _ = meta_gradient(learner, Plan())(learner.prior, tasks)
    gradient, _ = meta_gradient(learner, Plan(compiled=True))(learner.prior, tasks)
    for key, value in wanted.items():
        torch.testing.assert_close(gradient[key], value, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("name", [name for name in LEARNERS if name.endswith("cut")])
def test_gradients_are_cut_in_these_tests(name: str) -> None:
    learner, tasks = LEARNERS[name](), tasks_for(name)
    longer = modulated() if name.startswith("mumomaml") else maml(2)
    start = {k: p.double() for k, p in learner.prior.items()}
    ends = [each.adapt(start, (tasks.support[0][0], tasks.support[1][0]))[-1] for each in (learner, longer)]
    assert any(not torch.allclose(ends[0][k], ends[1][k]) for k in ends[0])


def test_small_or_thick_products_are_left_as_they_are() -> None:
    for m, k in ((40, 3), (WIDE, 40)):
        graph = make_fx(torch.bmm, tracing_mode="fake")(torch.ones(TASKS, m, k), torch.ones(TASKS, k, m))
        assert factored(graph) is None


@pytest.mark.parametrize("whole", [None, "shared", "each task's"])
def test_every_operation_on_factors_is_that_on_their_matrix(whole: str | None) -> None:
    def drawn(*shape: int) -> Tensor:
        return torch.randn(*shape, dtype=F64)

    torch.manual_seed(0)
    added = {None: None, "shared": drawn(7, 8), "each task's": drawn(4, 7, 8)}[whole]
    f, g, x = Factored(drawn(4, 2, 7), drawn(4, 2, 8), added), Factored(drawn(4, 3, 7), drawn(4, 3, 8)), drawn(4, 5, 7)
    matrix = f.multiplied()
    torch.testing.assert_close(matrix, torch.einsum("tkm,tkn->tmn", f.left, f.right) + (0 if added is None else added))
    assert matrix.shape == f.shape
    for got, wanted in (
        (f.after(x), x @ matrix),
        (f.turned().multiplied(), matrix.mT),
        (f.times(-0.3).multiplied(), -0.3 * matrix),
        (f.plus(g).multiplied(), matrix + g.multiplied()),
        (g.plus(f).multiplied(), matrix + g.multiplied()),
        (f.over_tasks(), matrix.sum(0)),
        (f.plus(g).plus(g).plus(f).multiplied(), 2 * (matrix + g.multiplied())),  # rows enough for one product
    ):
        torch.testing.assert_close(got, wanted)


def test_a_graph_of_all_rules_and_of_what_has_none_gives_the_same() -> None:
    torch.manual_seed(0)
    a, b, w = torch.randn(4, 90, 2, dtype=F64), torch.randn(4, 2, 80, dtype=F64), torch.randn(90, 80, dtype=F64)

    def f(a: Tensor, b: Tensor, w: Tensor) -> list[Tensor]:
        product = torch.bmm(a, b)
        sums = [
            w - 0.1 * product,
            torch.sub(product, w, alpha=3),
            product + product.neg(),
            torch.add(product, product, alpha=0.5),
            2 + product,
        ]
        each = [torch.bmm(s.transpose(1, 2), a) for s in sums] + [torch.bmm(s, b.transpose(1, 2)) for s in sums]
        return [
            *each,
            sums[0].sum(0),
            sums[0].sum([0], True),
            sums[0].sum(1),
            sums[0].exp(),
            product.view(4, -1),
            product * w,
            product * w.sum(),
            product.transpose(0, 2),
        ]

    graph = make_fx(f, tracing_mode="fake")(a, b, w)
    run = factored(graph)
    assert run is not None
    for got, wanted in zip(run(a, b, w), f(a, b, w), strict=True):
        torch.testing.assert_close(got, wanted, rtol=1e-11, atol=1e-11)
