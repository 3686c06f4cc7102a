"""The fold."""

import pytest
import torch
from conftest import built

import innerloop as il
from innerloop import InputError, Learner, Task
from innerloop.batches import chunks, count, join, one, some, stack
from innerloop.learner import over_tasks

LINE = Learner(
    {"net.w": torch.tensor(0.0)},
    tuple(lambda params, batch, k=k: {"net.w": params["net.w"] * 10 + batch + k} for k in (1, 2)),
    lambda params, batch: params["net.w"] - batch,
)


def test_adapt_folds_the_steps_in_order_and_returns_the_whole_path() -> None:
    path = LINE.adapt(LINE.prior, torch.tensor(3.0))
    assert [p["net.w"].item() for p in path] == [0.0, 4.0, 45.0]


def test_a_list_as_support_holds_one_batch_for_every_step() -> None:
    path = LINE.adapt(LINE.prior, [torch.tensor(3.0), torch.tensor(5.0)])
    assert [p["net.w"].item() for p in path] == [0.0, 4.0, 47.0]
    stacked = Task([torch.tensor([3.0, 3.0]), torch.tensor([5.0, 6.0])], torch.zeros(2))
    assert over_tasks(il.task_loss(LINE), LINE.prior, stacked).tolist() == [47.0, 48.0]


def test_a_list_of_another_length_is_an_error() -> None:
    with pytest.raises(InputError, match="takes 2 steps but support lists 3 batches; give one batch per step"):
        LINE.adapt(LINE.prior, [torch.tensor(0.0)] * 3)


def test_taking_cuts_or_repeats_the_last_step() -> None:
    assert [len(LINE.taking(k).steps) for k in (0, 1, 2, 5)] == [0, 1, 2, 5]
    assert LINE.taking(1).steps == LINE.steps[:1]
    assert LINE.taking(4).steps == (*LINE.steps, LINE.steps[1], LINE.steps[1])


def test_preparation_is_kept_and_not_counted() -> None:
    prepared = Learner(LINE.prior, LINE.steps, LINE.loss, prepared=1)
    assert prepared.taking(0).steps == LINE.steps[:1]
    assert prepared.taking(3).steps == (LINE.steps[0], *[LINE.steps[1]] * 3)
    source = il.from_function(lambda g: Task(torch.tensor(3.0), torch.tensor(0.0)))
    assert il.evaluate(prepared, source, n_tasks=1).values.tolist() == [[4.0, 45.0]]


def test_steps_cannot_be_made_of_nothing() -> None:
    still = Learner(LINE.prior, (), LINE.loss)
    assert still.taking(0).steps == ()
    for steps in (1, -1):
        with pytest.raises(InputError, match=f"cannot take {steps} steps"):
            still.taking(steps)


def test_the_meta_loss_is_again_a_loss_that_a_step_descends(waves: Task) -> None:
    base = built("maml")
    meta_step = il.steps.descend(il.meta_loss(base), rate=0.1)
    moved = meta_step(base.prior, waves)
    assert il.meta_loss(base)(moved, waves) < il.meta_loss(base)(base.prior, waves)


def test_batches_stack_cut_and_join() -> None:
    tasks = [Task((torch.tensor([float(k)]), [torch.tensor(k)]), {"x": torch.tensor(-k)}) for k in range(5)]
    batch = stack(tasks)
    assert isinstance(batch, Task)
    assert count(batch) == 5
    assert one(batch, 3).query["x"].item() == -3
    assert [count(part) for part in chunks(batch, 2)] == [2, 2, 1]
    assert count(chunks(batch, None)[0]) == 5
    torch.testing.assert_close(join(chunks(batch, 2)), batch)
    assert some(batch, 1, 3).support[1][0].tolist() == [1, 2]
