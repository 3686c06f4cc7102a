"""Scores, intervals, paired comparison, prediction."""

from typing import Any, ClassVar

import pytest
import torch
from conftest import built
from jaxtyping import Float
from torch import Tensor, nn

import innerloop as il
from innerloop import InputError, Learner, Scores, Sinusoids, Task
from innerloop.batches import one
from innerloop.evaluate import tune

SOURCE = Sinusoids(shots=5, queries=6)


def learner(steps: int = 3, rate: float = 0.01) -> Learner:
    return built("maml", dtype=torch.float32, steps=steps, rate=rate)


def of_shape(value: Tensor, shape: Any) -> bool:
    return isinstance(value, shape)


def test_mean_deviation_and_interval_are_over_tasks() -> None:
    scores = Scores(torch.tensor([[1.0, 5.0], [2.0, 5.0], [6.0, 5.0]]))
    assert scores.mean.tolist() == [3.0, 5.0]
    assert scores.median.tolist() == [2.0, 5.0]
    assert scores.sd[0].item() == pytest.approx(7**0.5)
    assert scores.interval[0].item() == pytest.approx(1.96 * 7**0.5 / 3**0.5)
    assert scores.sd[1].item() == scores.interval[1].item() == 0
    assert Scores(torch.ones(1, 2)).interval.tolist() == [0.0, 0.0]


def test_the_interval_covers_the_mean_nineteen_times_in_twenty() -> None:
    draws = torch.randn(2000, 100, 1, generator=torch.Generator().manual_seed(0)) + 3
    covered = sum(abs(Scores(d).mean - 3) <= Scores(d).interval for d in draws)
    assert 0.93 < float(covered) / 2000 < 0.965


def test_every_task_is_scored_after_every_step_as_in_a_plain_loop() -> None:
    scores = il.evaluate(learner(), SOURCE, steps=5, n_tasks=7)
    assert of_shape(scores.values, Float[Tensor, "tasks=7 points=6"])
    net, tasks = learner().model, SOURCE.draw("test", 0, 7)
    assert net is not None
    for k in range(7):
        (x, y), query = one(tasks, k)
        params = {name: p.clone().requires_grad_() for name, p in learner().prior.items()}
        for step in range(6):
            assert scores.values[k, step].item() == pytest.approx(nn.functional.mse_loss(net(params, query[0]), query[1]).item(), rel=1e-4)
            slopes = torch.autograd.grad(nn.functional.mse_loss(net(params, x), y), list(params.values()))
            params = {n: (p - 0.01 * g).detach().requires_grad_() for (n, p), g in zip(params.items(), slopes, strict=True)}


def test_scores_do_not_depend_on_the_chunks() -> None:
    a, b = (il.evaluate(learner(), SOURCE, n_tasks=50, chunk=chunk) for chunk in (7, 50))
    torch.testing.assert_close(a.values, b.values)
    assert a.values.shape == (50, 4)


def test_shapes_of_one_task_hold_inside_vmap() -> None:
    def metric(prediction: Tensor, y: Tensor) -> Tensor:
        assert of_shape(prediction, Float[Tensor, "queries=6 outputs=1"])
        assert of_shape(y, Float[Tensor, "queries=6 outputs=1"])
        return (prediction - y).abs().mean()

    error = il.evaluate(learner(), SOURCE, n_tasks=9, metric=metric).mean
    assert (error**2 < il.evaluate(learner(), SOURCE, n_tasks=9).mean).all(), "the mean of squares exceeds the square of the mean"


def test_differences_are_paired() -> None:
    a, b = il.evaluate(learner(), SOURCE, steps=3, n_tasks=40), il.evaluate(learner(rate=0.02), SOURCE, steps=5, n_tasks=40)
    difference = il.compare(a, b)
    torch.testing.assert_close(difference.values, a.values - b.values[:, :4])
    torch.testing.assert_close(difference.mean, a.mean - b.mean[:4])
    assert difference.interval[0] < 1e-6, "before any step both are one network, up to rounding"
    assert difference.interval[1] < 0.2 * (a.interval[1] ** 2 + b.interval[1] ** 2) ** 0.5, "pairing takes the spread of tasks away"


def test_scores_of_other_tasks_are_not_compared() -> None:
    a = il.evaluate(learner(), SOURCE, n_tasks=5)
    for other in (il.evaluate(learner(), Sinusoids(shots=6), n_tasks=5), il.evaluate(learner(), SOURCE, n_tasks=4),
                  il.evaluate(learner(), SOURCE, n_tasks=5, split="val")):  # fmt: skip
        with pytest.raises(InputError, match="the scores are of different tasks"):
            il.compare(a, other)


def test_a_task_that_diverges_makes_the_mean_infinite_and_is_counted() -> None:
    scores = il.evaluate(learner(rate=1e20), SOURCE, n_tasks=8)
    assert scores.diverged[0] == 0
    assert scores.diverged[3] == 8
    assert scores.mean[3] == torch.inf
    assert "8 tasks, of which 8 diverged" in repr(scores)


def test_the_rate_is_chosen_on_validation_tasks() -> None:
    class Watched:
        seed = 0
        splits: ClassVar[set[str]] = set()

        def draw(self, split: str, first: int, count: int) -> Task:
            self.splits.add(split)
            return SOURCE.draw(split, first, count)

    rates = (1e-4, 0.01, 1e20)
    best, tried = tune(lambda rate: learner(rate=rate), rates, Watched(), steps=4, n_tasks=30)
    assert Watched.splits == {"val"}
    means = {rate: il.evaluate(learner(rate=rate), SOURCE, 4, 30, split="val").values[:, 1:].mean().item() for rate in rates}
    assert tried == means
    assert best == 0.01
    assert tried[1e20] == float("inf")


@pytest.mark.parametrize("highest", [True, False])
def test_a_rate_that_diverges_is_not_chosen(highest: bool) -> None:
    distance = lambda prediction, y: (prediction - y).abs().mean()
    best, tried = tune(lambda rate: learner(rate=rate), (1e20, 0.01, 1e-4), SOURCE, 3, 10, metric=distance, highest=highest)
    assert tried[1e20] == torch.inf
    assert best == (1e-4 if highest else 0.01)
    with pytest.raises(InputError, match=r"diverges at each of the rates 1e\+20, 1e\+30; try smaller ones"):
        tune(lambda rate: learner(rate=rate), (1e20, 1e30), SOURCE, 3, 4)


@pytest.mark.parametrize(
    ("values", "median"),
    [
        ([1.0, 2.0, torch.inf, torch.inf, torch.inf], torch.inf),
        ([torch.inf, 1.0, 2.0, torch.inf], torch.inf),
        ([3.0, 1.0, 2.0, torch.inf], 2.5),
    ],
)
def test_the_median_is_infinite_where_half_of_the_tasks_are(values: list[float], median: float) -> None:
    assert Scores(torch.tensor(values)[:, None]).median.tolist() == [median]


def test_a_score_may_be_a_number_of_hits_and_tasks_of_low_precision() -> None:
    hits = il.evaluate(learner(), SOURCE, n_tasks=4, metric=lambda prediction, y: (prediction > y).sum())
    assert hits.mean[0] == hits.values[:, 0].sum() / 4
    net = nn.Linear(1, 1).bfloat16()
    low = il.from_function(lambda g: Task(*[(torch.randn(2, 1, generator=g).bfloat16(),) * 2] * 2))
    assert il.evaluate(il.maml(net, il.mse(net)), low, n_tasks=3).values.isfinite().all()


def test_a_split_that_there_is_not_is_refused() -> None:
    with pytest.raises(InputError, match="no split 'tset'; did you mean test"):
        il.evaluate(learner(), SOURCE, split="tset")


def test_prediction_adapts_first() -> None:
    x, y = [[0.0], [1.0], [2.0]], [[1.0], [0.0], [1.0]]
    support = (torch.tensor(x), torch.tensor(y))
    adapted = learner().adapt(learner().prior, support)[-1]
    assert learner().model is not None
    expected = learner().model(adapted, torch.tensor([[0.5]]))  # pyright: ignore[reportOptionalCall]
    for given in (support, (x, y), (support[0].numpy(), support[1].double().numpy())):
        torch.testing.assert_close(il.predict(learner(), given, [[0.5]]), expected)
    torch.testing.assert_close(il.predict(learner(), support, [[0.5]], steps=0), learner().model(learner().prior, torch.tensor([[0.5]])))  # pyright: ignore[reportOptionalCall]


@pytest.mark.parametrize(
    ("support", "message"),
    [
        (([[1]], [[1]]), r"does not take x of shape \[1, 1\] and kind int64"),
        (([[float("nan")]], [[1.0]]), "the examples hold NaN or infinity"),
        (([[1.0], [2.0]], [[1.0]]), "2 x but 1 y; give one y for each x"),
        (([[1.0, 2.0]], [[1.0]]), r"does not take x of shape \[1, 2\]"),
    ],
)
def test_examples_that_cannot_be_used_are_refused(support: tuple, message: str) -> None:
    with pytest.raises(InputError, match=message):
        il.predict(learner(), support, [[0.0]])


def test_tasks_are_told_apart_by_what_they_hold() -> None:
    sources = [
        il.from_function(lambda g, scale=scale: Task((torch.ones(2, 1),) * 2, (torch.ones(2, 1), scale * torch.ones(2, 1))))
        for scale in (1, 2)
    ]
    a, b, again = (il.evaluate(learner(), source, n_tasks=3) for source in (*sources, sources[0]))
    assert il.compare(a, again).mean.tolist() == [0.0] * 4
    with pytest.raises(InputError, match="the scores are of different tasks"):
        il.compare(a, b)


def test_asking_for_nothing_is_refused() -> None:
    with pytest.raises(InputError, match=r"^n_tasks is 0; give 1 or more$"):
        il.evaluate(learner(), SOURCE, n_tasks=0)
    bare = Learner({"net.w": torch.zeros(1)}, (), lambda params, batch: params["net.w"].sum())
    with pytest.raises(InputError, match="no model to predict with"):
        il.evaluate(bare, SOURCE, metric=lambda a, b: a)
    with pytest.raises(InputError, match="no model to predict with"):
        il.predict(bare, ([[0.0]], [[0.0]]), [[0.0]])


def test_a_support_that_does_not_fit_the_learner_is_refused() -> None:
    net = il.with_film(il.mlp(1, 4, 1))
    told = il.mumomaml(net, il.mse(net), encoder=il.Recurrent(inputs=2, hidden=2), hidden=3)
    with pytest.raises(InputError, match=r"the encoder does not take x of shape \[2, 1\], \[2, 2\] and kind float32: mat1"):
        il.predict(told, (torch.zeros(2, 1), torch.zeros(2, 2)), torch.zeros(1, 1))


def test_columns_stay_where_they_are_beside_numbers_that_grew_without_bound() -> None:
    lines = str(Scores(torch.tensor([[1.0, 1e9], [2.0, 3e9]]), "two")).splitlines()
    assert [line.index("±") for line in lines] == [lines[0].index("±")] * 3
    assert lines[2].split()[1:4] == ["2e+09", "±", "1.96e+09"]
    assert len(lines[1]) == len(lines[2])
