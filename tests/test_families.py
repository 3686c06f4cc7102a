"""Families of images and of streams: what each has in common, and nothing else; OML through its whole stream."""

import json
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy
import pytest
import torch
from conftest import EAGER, differences, smooth_net
from torch import Tensor

import innerloop as il
from innerloop import InputError, Sinusoids, Task, experiments, meta_loss
from innerloop.batches import map_tensors, one
from innerloop.engine import Plan, meta_gradient
from innerloop.images import Class, Images, from_npz, images, store
from innerloop.images.splits import classes_of
from innerloop.methods import oml
from innerloop.tasks import Changes, Families, Goals, ImageFamilies, ImageTasks, Related, StreamFamilies, Streams, Unrelated

NONE = Changes((0, 0), (0, 0), (0, 0), (1, 1), (0, 0), (0, 0), (1, 1))


def letters(alphabets: int = 4, each: int = 6, size: int = 8) -> Images:
    """Each image says in its pixels which class and which drawing it is."""
    return images(
        "letters",
        [
            Class(
                f"{a}{k}",
                numpy.stack([numpy.full((size, size, 1), 10 * (each * a + k) + i, numpy.uint8) for i in range(9)]),
                f"alphabet {a}",
            )
            for a in range(alphabets)
            for k in range(each)
        ],
    )


def told(x: Tensor) -> tuple[Tensor, Tensor]:
    """Class and drawing of each image."""
    value = (255 * x[..., 0, 0, 0]).round().long()
    return value // 10, value % 10


def of_letters(**how: Any) -> ImageFamilies:
    return ImageFamilies(ImageTasks(letters(), {"train": range(18), "test": range(18, 24)}, 3, 2, 1), 3, 2, **how)


def test_a_familys_tasks_are_of_one_alphabet_and_their_classes_and_drawings_their_own() -> None:
    families = of_letters()
    drawn: Any = families.draw("train", 0, 60)
    alphabets = set()
    for part, n in ((drawn.support, 3), (drawn.query, 2)):
        shown, asked = (told(x) for x, _ in part)
        assert shown[0].shape == (60, n, 6)
        for (kinds, drawings), k, (_, y) in zip((shown, asked), (2, 1), part, strict=True):
            assert (kinds // 6 == kinds[:, :1, :1] // 6).all(), "of one alphabet"
            assert torch.equal(kinds[..., ::k], kinds[..., k - 1 :: k]), "one class has one label"
            assert torch.equal(y, torch.arange(3).repeat_interleave(k).expand_as(y))
            assert drawings.max() < 9
        alphabets |= set((shown[0][:, 0, 0] // 6).tolist())
        assert not ((shown[0][..., ::2, None] == asked[0][..., None, :]) & (shown[1][..., ::2, None] == asked[1][..., None, :])).any()
    assert alphabets == {0, 1, 2}, "those of the split, and all of them"
    first = told(drawn.support.support[0])[0][:, 0]
    second = told(drawn.support.support[0])[0][:, 1]
    assert (first != second).any(1).float().mean() > 0.9, "tasks choose their own classes"
    torch.testing.assert_close(families.draw("train", 7, 3), map_tensors(lambda t: t[7:10], drawn), rtol=0, atol=0)
    assert (told(families.draw("test", 0, 5).query.query[0])[0] >= 18).all()


def test_what_a_family_has_in_common_is_the_same_in_all_its_tasks() -> None:
    dim = Changes(**{**vars(NONE), "contrast": (0.2, 1.0)})
    families = of_letters(changes=dim)
    plain: Any = of_letters().draw("train", 0, 40)
    dimmed: Any = families.draw("train", 0, 40)
    factors = dimmed.support.support[0] / plain.support.support[0].clamp(min=1e-9)
    there = plain.support.support[0] > 0
    mean = (factors * there).flatten(1).sum(1) / there.flatten(1).sum(1)
    torch.testing.assert_close(dimmed.support.support[0], plain.support.support[0] * mean.view(-1, 1, 1, 1, 1, 1), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(dimmed.query.query[0], plain.query.query[0] * mean.view(-1, 1, 1, 1, 1, 1), rtol=1e-4, atol=1e-5)
    assert len(mean.unique()) == 40
    assert 0.2 <= mean.min() < 0.3 < 0.9 < mean.max() <= 1.0
    torch.testing.assert_close(families.draw("train", 5, 2), map_tensors(lambda t: t[5:7], dimmed), rtol=0, atol=0)


def test_images_without_labels_are_classes_of_their_own() -> None:
    plain = of_letters(grouped=False, labelled=False, changes=NONE).draw("train", 0, 50)
    for part in (plain.support, plain.query):
        (kinds, drawings), (asked, again) = (told(x) for x, _ in part)
        assert torch.equal(kinds[..., ::2], kinds[..., 1::2])
        assert torch.equal(drawings[..., ::2], drawings[..., 1::2])
        assert torch.equal(kinds[..., ::2], asked)
        assert torch.equal(drawings[..., ::2], again)
    classes = told(plain.query.query[0])[0].flatten(0, 1)
    assert any(len(set(row.tolist())) < 3 for row in classes), "two images of one class may meet, as nothing is known of classes"
    images_of = (10 * classes + told(plain.query.query[0])[1].flatten(0, 1)).tolist()
    assert all(len(set(row)) == 3 for row in images_of)
    half = of_letters(grouped=False, labelled=False, changes=Changes(**{**vars(NONE), "contrast": (0.2, 1.0)}), common=0.5)
    first, second = (
        half.draw("train", 0, 50).query.support[0][..., ::2, :, :, :],
        half.draw("train", 0, 50).query.support[0][..., 1::2, :, :, :],
    )
    alike = (first - second).abs().flatten(1).amax(1) < 1e-6
    assert 10 <= int(alike.sum()) <= 40, "half of the families have the change in common, in the others each image has its own"


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"turn": (90, 90)}, [[2, 5, 8], [1, 4, 7], [0, 3, 6]]),
        ({"right": (1 / 3, 1 / 3)}, [[0, 0, 1], [0, 3, 4], [0, 6, 7]]),
        ({"down": (-1 / 3, -1 / 3)}, [[3, 4, 5], [6, 7, 8], [0, 0, 0]]),
        ({"contrast": (0.5, 0.5)}, [[0, 0.5, 1], [1.5, 2, 2.5], [3, 3.5, 4]]),
        ({"dropped": (1, 1)}, [[0, 0, 0]] * 3),
        ({}, [[0, 1, 2], [3, 4, 5], [6, 7, 8]]),
    ],
    ids=str,
)
def test_a_change_does_what_it_says(change: dict[str, Any], expected: list[list[float]]) -> None:
    changes, x = Changes(**{**vars(NONE), **change}), torch.arange(9.0).view(1, 1, 3, 3)
    found = changes.applied(x, changes.drawn(torch.Generator(), 1), torch.Generator())
    torch.testing.assert_close(found[0, 0], torch.tensor(expected, dtype=torch.float32), rtol=1e-4, atol=1e-4)


def test_larger_and_slanted_images() -> None:
    x = torch.zeros(1, 1, 9, 9)
    x[..., 3:6, 3:6] = 1
    larger = Changes(**{**vars(NONE), "larger": (2, 2)})
    assert float(larger.applied(x, larger.drawn(torch.Generator(), 1), torch.Generator()).sum()) == pytest.approx(36, rel=0.1)
    slanted = Changes(**{**vars(NONE), "slant": (1, 1)})
    rows = slanted.applied(x, slanted.drawn(torch.Generator(), 1), torch.Generator())[0, 0]
    assert [int(row.argmax()) for row in rows[3:6]] != [3, 3, 3]
    assert float(rows.sum()) == pytest.approx(9, rel=0.05)


def test_omniglots_alphabets_are_of_one_part_each(shared: Path) -> None:
    omniglot = images("omniglot", from_npz(shared / "omniglot/omniglot28.npz"))
    parts = classes_of(omniglot, "omniglot-alphabets")
    alphabets = {part: {omniglot.groups[k] for k in classes} for part, classes in parts.items()}
    assert [len(alphabets[part]) for part in ("train", "val", "test")] == [25, 5, 20]
    assert sum(map(len, parts.values())) == 1623
    assert not alphabets["train"] & alphabets["test"]


@pytest.mark.parametrize("name", ["omniglot-families", "omniglot-families@anil", "omniglot-families@boil", "unsupervised-families@maml"])
def test_families_of_images_are_run_and_scored_with_and_without_a_meta_update(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("INNERLOOP_DATA", str(tmp_path / "data"))
    store.save(letters(size=16), tmp_path / "data/letters")
    split = {"groups": True, "train": ["alphabet 0", "alphabet 1"], "val": ["alphabet 2"], "test": ["alphabet 3"]}
    (tmp_path / "letters.json").write_text(json.dumps(split))
    [experiment] = experiments.find(f"maltml/{name}")
    how: dict[str, Any] = {"data": "letters", "split": str(tmp_path / "letters.json"), "size": 16, "filters": 2, "queries": 2}
    settings = replace(experiment.settings, **how, related=2, test_related=2, test_steps=2, test_queries=2)
    row = experiments.run(experiment, settings, experiments.Options(out=tmp_path / "runs", quick=True, progress=False))
    assert list(row["cases"]) == ["after the meta-update", "without it"]
    assert all(len(case["mean"]) == 3 for case in row["cases"].values())
    learner = il.load(tmp_path / f"runs/maltml/{name}/seed0")
    moved = learner.steps[learner.prepared :]
    names = experiment.build(settings).learner.prior
    batch = torch.rand(5, 1, 16, 16), torch.arange(5)
    goal = Related(batch, il.batches.stack([Task(batch, batch)]))
    path = [learner.prior, learner.steps[0](learner.prior, goal)]
    path.append(moved[0](path[-1], goal))
    changed = [{n for n in names if not torch.equal(a[n], b[n])} for a, b in pairwise(path)]
    assert {n.split(".")[1] for n in changed[0]} == {"block1", "block2", "block3", "block4", "head"}, (
        "all but normalisation is meta-finetuned"
    )
    assert not any("norm" in n for both in changed for n in both)
    assert {n.split(".")[1] == "head" for n in changed[1]} == {"@anil": {True}, "@boil": {False}}.get(name[-5:], {True, False})


def test_unrelated_tasks_are_the_first_goals() -> None:
    families = of_letters()
    torch.testing.assert_close(
        Unrelated(families).draw("train", 2, 3), map_tensors(lambda t: t[:, 0], families.draw("train", 2, 3).query), rtol=0, atol=0
    )


def waves(**how: Any) -> Sinusoids:
    return Sinusoids(shots=4, queries=3, frequency=(0.5, 1.5), **how)


def test_a_stream_has_its_curves_one_after_the_other_and_asks_for_all() -> None:
    source = Streams(waves(), functions=3, updates=2)
    drawn = source.draw("train", 5, 20)
    coefficients = waves().coefficients("train", 15, 60).unflatten(0, (20, 3))
    assert len(drawn.support) == 6
    numbers = []
    for k, (x, y) in enumerate(drawn.support):
        assert (x.shape, y.shape) == ((20, 2, 4), (20, 2, 1))
        curve = coefficients[:, k // 2]
        torch.testing.assert_close(y[..., 0], waves().curve(curve, x[..., 0]), rtol=1e-4, atol=1e-5)
        assert (x[..., 1:].sum(-1) == 1).all()
        numbers.append(x[..., 1:].argmax(-1))
    assert all((a == b[:, :1]).all() for a, b in zip(numbers[::2], numbers[1::2], strict=True)), "a curve keeps its number"
    order = torch.stack(numbers[::2])[..., 0].T
    assert torch.equal(order.sort(1).values, torch.arange(3).expand(20, 3))
    assert len(order.unique(dim=0)) > 3, "numbers are dealt anew"
    x, y = drawn.query
    assert x.shape == (20, 9, 4)
    for k in range(3):
        asked = coefficients[torch.arange(20), (order == k).int().argmax(1)]
        of_k = x[..., 1 + k] == 1
        torch.testing.assert_close(y[of_k][:, 0], waves().curve(asked, x[of_k][:, 0].view(20, 3)).flatten(), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(source.draw("train", 7, 2), map_tensors(lambda t: t[2:4], drawn), rtol=0, atol=0)


def test_a_family_of_streams_shares_a_frequency_and_nothing_else() -> None:
    drawn: Any = StreamFamilies(Streams(waves(phase=(0, 0), amplitude=(1, 1)), 3, 2, shared=("frequency",)), 4, 2).draw("train", 0, 10)
    for part in (drawn.support, drawn.query):
        x, y = part.query
        ratio = torch.asin(y[..., 0].clamp(-1, 1)) / x[..., 0]
        near = x[..., 0].abs() < 1.0  # where a sine of ω ≤ 1.5 can be turned round
        found = [ratio[i][near[i]] for i in range(10)]
        assert all(float(r.std()) < 1e-3 for r in found)
        assert len({round(float(r.mean()), 4) for r in found}) == 10
    free: Any = StreamFamilies(Streams(waves(), 3, 2, shared=("frequency",)), 4, 2).draw("train", 0, 10)
    assert len(free.support.query[1].unique()) > 0.99 * free.support.query[1].numel()


@pytest.mark.parametrize("plan", EAGER, ids=str)
def test_omls_meta_gradient_goes_through_the_whole_stream(plan: Plan) -> None:
    net = smooth_net(inputs=4)
    learner = oml(net, il.mse(net), steps=6, rate=0.1)
    batch = map_tensors(lambda t: t.double(), Streams(waves(), functions=3, updates=2).draw("train", 0, 3))
    found, _ = meta_gradient(learner, plan)(learner.prior, batch)
    torch.testing.assert_close(found, differences(lambda p: meta_loss(learner)(p, batch), learner.prior), rtol=1e-6, atol=1e-8)
    path = learner.adapt(learner.prior, one(batch, 0).support)
    assert all(point["net.0.weight"] is learner.prior["net.0.weight"] for point in path), "the representation stays"
    cut = il.Learner(learner.prior, learner.steps[-1:], learner.loss)
    last = Task(batch.support[-1:], batch.query)
    assert not torch.allclose(meta_gradient(cut)(learner.prior, last)[0]["net.0.weight"], found["net.0.weight"], rtol=1e-3)


def test_maltml_over_oml_is_of_third_order_and_each_goal_follows_its_own_stream() -> None:
    net = smooth_net(inputs=3)
    base = oml(net, il.mse(net), steps=4, rate=0.1)
    source = StreamFamilies(Streams(waves(), functions=2, updates=2, shared=("frequency",)), 2, 1)
    families = map_tensors(lambda t: t.double(), source.draw("train", 0, 2))
    learner = il.maltml(base, 1, 0.05)
    few = {name: p for name, p in learner.prior.items() if name in ("net.0.weight", "net.4.weight")}
    expected = differences(lambda p: meta_loss(learner)({**learner.prior, **p}, families), few)
    found = meta_gradient(learner)(learner.prior, families)[0]
    torch.testing.assert_close({name: found[name] for name in few}, expected, rtol=1e-6, atol=1e-8)
    goals = map_tensors(lambda t: t.double(), Goals(source).draw("train", 0, 2))
    torch.testing.assert_close(meta_loss(il.meta_finetuned(learner, base))(base.prior, goals), meta_loss(learner)(base.prior, families))


def test_continual_regression_is_not_compiled_unless_that_is_asked_for(tmp_path: Path) -> None:
    [experiment] = experiments.find("maltml/continual-regression")
    small: dict[str, Any] = {"width": 8, "layers": 1}
    settings = replace(experiment.settings, **small)
    for asked, plan in (("auto", "loop"), ("vmap", "vmap")):
        options = experiments.Options(out=tmp_path / asked, quick=True, progress=False, engine=asked)
        row = experiments.run(experiment, settings, options)
        assert row["engine"]["plan"] == plan
        assert [len(case["mean"]) for case in row["cases"].values()] == [7, 7], "as many steps as a stream has batches"
    with pytest.raises(InputError, match="test_steps is 50 but a stream has 10 batches; give --test-steps 10"):
        experiment.build(replace(settings, **{**small, "functions": 2}))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Streams(waves(), functions=0), "0 functions of 4 points in 5 updates each; give one function or more"),
        (lambda: Streams(waves(), updates=3), "points that updates share out evenly"),
        (lambda: Streams(waves(), updates=2, shared=("fase",)), "Sinusoids has no 'fase' to share"),
        (lambda: StreamFamilies(Streams(waves(), updates=2), goals=0), "5 related tasks and 0 goals"),
        (lambda: of_letters(grouped=False), "nothing makes a family"),
        (lambda: of_letters(grouped=True, labelled=False, changes=NONE), "groups are of labels, which are not to be used"),
        (lambda: of_letters().draw("val", 0, 1), "letters has no split 'val'; known: train, test"),
        (lambda: of_letters(common=1.5), "common is 1.5; give a probability"),
        (lambda: ImageFamilies(ImageTasks(letters(each=2), {"train": range(8)}, 3, 1, 1)), "no group in 'train' of letters has 3 classes"),
        (lambda: Changes(turn=(3, -3)), r"turn is \(3, -3\); give a pair"),
        (lambda: Changes(larger=(0, 1)), "a size must be above 0 and a part from 0 to 1"),
        (lambda: Goals(of_letters()).coefficients("train", 0, 1), "is not of curves, which alone have coefficients"),
    ],
)
def test_what_makes_no_family_is_refused(make: Callable[[], Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        make()


def test_curves_keep_theirs() -> None:
    assert Goals(Families(waves())).x == (-5.0, 5.0)
