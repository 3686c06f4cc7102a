"""A function of every task: in which chunks and by which way makes no difference."""

import time

import pytest
import torch
from conftest import built

import innerloop as il
from innerloop import Sinusoids, Task, task_loss
from innerloop.engine import each, each_task
from innerloop.params import Params


def draws(asked: list[tuple[int, int]]):
    def draw(first: int, count: int) -> Task:
        asked.append((first, count))
        return Sinusoids().draw("val", first, count)

    return draw


@pytest.mark.parametrize("chunk", [None, 1, 4, 100])
def test_every_task_is_drawn_once_in_order(chunk: int | None) -> None:
    learner, asked = built("maml", dtype=torch.float32), []
    found = each_task(task_loss(learner), learner.prior, draws(asked), 30, chunk)
    tasks = Sinusoids().draw("val", 0, 30)
    with torch.no_grad():
        expected = torch.stack([task_loss(learner)(learner.prior, il.batches.one(tasks, k)) for k in range(30)])
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)
    assert [first for first, _ in asked] == [0, *torch.tensor([n for _, n in asked]).cumsum(0)[:-1].tolist()]
    assert sum(n for _, n in asked) == 30
    assert max(n for _, n in asked) <= (chunk or each.MOST)


@pytest.mark.parametrize("slow", ["together", "alone"])
def test_the_faster_way_is_taken(slow: str, monkeypatch: pytest.MonkeyPatch) -> None:
    together = []

    def over_tasks(f, params: Params, tasks: Task) -> torch.Tensor:
        together.append(il.batches.count(tasks))
        time.sleep(0.3 if slow == "together" else 0)
        return torch.stack([tasks.query[1][k].mean() for k in range(il.batches.count(tasks))])

    def f(params: Params, task: Task) -> torch.Tensor:
        time.sleep(0.02)
        return task.query[1].mean()

    monkeypatch.setattr(each, "over_tasks", over_tasks)
    each_task(f, {"p": torch.zeros(1)}, draws([]), 31, chunk=10)
    assert together == ([10] if slow == "together" else [10, 10, 10, 1])
