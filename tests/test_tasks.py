"""Task i is a pure function of (seed, split, i)."""

from math import pi

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import innerloop as il
from innerloop import InputError, Sinusoids, Task
from innerloop.batches import one, some
from innerloop.tasks import FreshPoints

SPLITS = st.sampled_from(["train", "val", "test"])


@settings(deadline=None, max_examples=40)
@given(SPLITS, st.integers(0, 3000), st.integers(1, 60), st.integers(0, 59), st.integers(0, 3))
def test_a_task_does_not_depend_on_what_is_drawn_with_it(split: str, first: int, n: int, k: int, seed: int) -> None:
    source = Sinusoids(shots=3, queries=2, seed=seed)
    alone = source.draw(split, first + k % n, 1)
    torch.testing.assert_close(some(source.draw(split, first, n), k % n, k % n + 1), alone, rtol=0, atol=0)
    torch.testing.assert_close(Sinusoids(shots=3, queries=2, seed=seed).draw(split, first + k % n, 1), alone, rtol=0, atol=0)


def test_seeds_splits_and_numbers_give_other_tasks() -> None:
    sources = [
        Sinusoids(seed=seed).coefficients(split, first, 1)
        for seed in (0, 1)
        for split in ("train", "val", "test")
        for first in (0, 1, 1024)
    ]
    assert len({tuple(wave.flatten().tolist()) for wave in sources}) == 18
    draws = [
        Sinusoids(seed=seed).draw(split, first, 1).query[1]
        for seed in (0, 1)
        for split in ("train", "val", "test")
        for first in (0, 1, 1024)
    ]
    assert len({tuple(y.flatten().tolist()) for y in draws}) == 18


def test_points_lie_on_the_wave_of_their_task() -> None:
    source = Sinusoids(shots=7, queries=4, frequency=(0.8, 1.2))
    task, waves = source.draw("train", 1020, 10), source.coefficients("train", 1020, 10)
    for x, y in task:
        amplitude, phase, frequency = (w[:, None, None] for w in waves.unbind(1))
        torch.testing.assert_close(y, amplitude * torch.sin(frequency * x - phase))


def test_the_sign_of_the_phase_is_a_choice() -> None:
    wave, x = torch.tensor([2.0, 0.5, 1.0]), torch.tensor([0.0])
    assert Sinusoids(sign="minus").curve(wave, x).item() == pytest.approx(-2 * torch.sin(torch.tensor(0.5)).item())
    assert Sinusoids(sign="plus").curve(wave, x).item() == pytest.approx(2 * torch.sin(torch.tensor(0.5)).item())


def test_ranges_are_those_asked_for_and_may_differ_at_test() -> None:
    source = Sinusoids(amplitude=(0.1, 3.0), frequency=(0.8, 1.0), phase=(0, pi / 2), x=(-1, 2), support_x=(-1, 0),
                       test_amplitude=(3.0, 5.0), test_phase=(pi / 2, pi))  # fmt: skip
    for split, low, high in (
        ("train", [0.1, 0, 0.8], [3, pi / 2, 1]),
        ("val", [0.1, 0, 0.8], [3, pi / 2, 1]),
        ("test", [3, pi / 2, 0.8], [5, pi, 1]),
    ):
        waves = source.coefficients(split, 0, 2000)
        assert (waves.amin(0) >= torch.tensor(low) - 1e-6).all()
        assert (waves.amax(0) <= torch.tensor(high) + 1e-6).all()
        torch.testing.assert_close(waves.mean(0), (torch.tensor(low) + torch.tensor(high)) / 2, rtol=0.05, atol=0)
        task = source.draw(split, 0, 500)
        assert -1 <= task.support[0].min() < task.support[0].max() <= 0
        assert -1 <= task.query[0].min() < -0.9 < 1.9 < task.query[0].max() <= 2


def test_noise_has_the_deviation_asked_for_and_leaves_the_points_where_they_are() -> None:
    clean, noisy = (Sinusoids(noise=noise).draw("train", 0, 1000) for noise in (0.0, 0.3))
    torch.testing.assert_close(clean.support[0], noisy.support[0], rtol=0, atol=0)
    assert (noisy.support[1] - clean.support[1]).std().item() == pytest.approx(0.3, rel=0.03)


def test_writing_into_a_drawn_batch_leaves_the_tasks_as_they_are() -> None:
    before = Sinusoids(seed=5).draw("train", 0, 2).query[1].clone()
    Sinusoids(seed=5).draw("train", 0, 2).query[1].add_(1)
    torch.testing.assert_close(Sinusoids(seed=5).draw("train", 0, 2).query[1], before, rtol=0, atol=0)


def test_more_shots_are_of_the_same_waves() -> None:
    torch.testing.assert_close(
        Sinusoids(shots=5).coefficients("test", 0, 50), Sinusoids(shots=20).coefficients("test", 0, 50), rtol=0, atol=0
    )
    few, many = Sinusoids(shots=5, queries=100).draw("test", 0, 3), Sinusoids(shots=20, queries=100).draw("test", 0, 3)
    torch.testing.assert_close(few.query, many.query, rtol=0, atol=0)


def test_the_oracle_is_told_amplitude_and_phase_at_every_point() -> None:
    source = Sinusoids(shots=4, identity=True)
    task, waves = source.draw("train", 0, 6), source.coefficients("train", 0, 6)
    assert task.support[0].shape == (6, 4, 3)
    torch.testing.assert_close(task.support[0][:, :, 1:], waves[:, None, :2].expand(-1, 4, -1), rtol=0, atol=0)
    assert Sinusoids(identity=True, frequency=(0.5, 1.0)).draw("train", 0, 1).query[0].shape == (1, 10, 4)


def test_fresh_points_are_of_the_same_waves_and_new_each_time() -> None:
    source = FreshPoints(Sinusoids(), waves=4, points=6)
    [a, b] = (one(source.draw("train", k, 1), 0).query for k in (0, 1))
    assert a[0].shape == (4, 6, 1)
    assert not torch.equal(a[0], b[0])
    for x, y in (a, b):
        torch.testing.assert_close(y[..., 0], Sinusoids().curve(Sinusoids().coefficients("train", 0, 4), x[..., 0]))


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"shots": 0}, "0 shots and 10 queries; it needs at least one of each"),
        ({"amplitude": (5.0, 0.1)}, r"amplitude is \(5.0, 0.1\); give a pair \(low, high\), the lower end first"),
        ({"amplitude": [0.1, 5.0]}, "give a pair"),
        ({"noise": -1.0}, "noise is -1.0 and that of the query None; a deviation must be 0 or more"),
        ({"sign": "times"}, "sign is 'times'; it must be 'minus' or 'plus'"),
    ],
)
def test_impossible_sinusoids_are_refused(wrong: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        Sinusoids(**wrong)


def line(generator: torch.Generator) -> Task:
    x = torch.rand(6, 1, generator=generator)
    y = x * torch.randn(1, generator=generator)
    return Task((x[:4], y[:4]), (x[4:], y[4:]))


def test_a_function_makes_tasks_by_number() -> None:
    source = il.from_function(line, seed=3)
    torch.testing.assert_close(one(source.draw("val", 2, 5), 3), one(source.draw("val", 5, 1), 0), rtol=0, atol=0)
    assert not torch.equal(source.draw("train", 0, 1).query[1], il.from_function(line, seed=4).draw("train", 0, 1).query[1])
    assert repr(source) == "from_function(line, seed=3)"


def test_a_function_of_its_own_may_make_the_test_tasks() -> None:
    source = il.from_function(line, test=lambda g: Task((torch.zeros(1, 1),) * 2, (torch.zeros(1, 1),) * 2))
    assert source.draw("val", 0, 2).support[0].shape == (2, 4, 1)
    assert source.draw("test", 0, 2).support[0].shape == (2, 1, 1)


def test_tasks_of_different_sizes_are_taken_one_by_one() -> None:
    def some_points(generator: torch.Generator) -> Task:
        x = torch.rand(int(torch.randint(2, 8, (), generator=generator)), 1, generator=generator)
        return Task((x, x), (x[:1], x[:1]))

    source, net = il.from_function(some_points, together=1), il.mlp(1, 4, 1)
    trained = il.train(il.maml(net, il.mse(net)), source, 4, meta_batch=1, validation_tasks=5, progress=False)
    assert il.evaluate(trained, source, n_tasks=6).values.isfinite().all()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda g: (torch.zeros(1), torch.zeros(1)), r"the function gives tuple; return innerloop.Task"),
        (lambda g: Task({"x": torch.zeros(1), "scale": 2.0}, torch.zeros(1)), "^a task holds a float; make it a tensor"),
        (lambda g: Task(torch.tensor(float("nan")), torch.zeros(1)), "the support of task 0 of 'train' holds NaN or infinity"),
        (lambda g: Task(torch.zeros(1), torch.tensor(float("inf"))), "the query of task 0 of 'train' holds NaN or infinity"),
        (
            lambda g: Task(torch.zeros(1), torch.zeros(int(torch.randint(1, 50, (), generator=g)))),
            "tasks 0 to 2 of 'train' differ in shape, so that they cannot be stacked.*give from_function together=1",
        ),
    ],
)
def test_what_a_function_makes_is_checked(make: object, message: str) -> None:
    with pytest.raises(InputError, match=message):
        il.from_function(make).draw("train", 0, 3)  # pyright: ignore[reportArgumentType]
