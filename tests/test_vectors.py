"""Tasks of fixed vectors, files of embeddings, and LEO's experiments on them."""

import pickle
from dataclasses import replace
from pathlib import Path

import numpy
import pytest
import torch

import innerloop as il
from innerloop import InputError, experiments
from innerloop.experiments.experiment import Options
from innerloop.tasks import VectorTasks, read_vectors


def coded(classes: int = 6, each: int = 8) -> tuple[torch.Tensor, torch.Tensor]:
    """Vectors (class, number), in an order that mixes the classes."""
    y = torch.arange(classes * each) % classes
    return torch.stack([y.float(), (torch.arange(classes * each) // classes).float()], 1), y


def test_tasks_are_of_their_classes_and_no_vector_is_in_both() -> None:
    x, y = coded()
    source = VectorTasks(x, y, {"train": [0, 2, 3, 5], "test": [1, 4]}, ways=2, shots=3, queries=4, seed=3)
    kinds = set()
    for split, own in (("train", {0, 2, 3, 5}), ("test", {1, 4})):
        (shown, label), (asked, query_label) = source.draw(split, 0, 40)
        assert shown.shape == (40, 6, 2)
        assert query_label.shape == (40, 8)
        for k in range(40):
            found = {int(c) for c in shown[k, :, 0]}
            assert len(found) == 2
            assert found <= own
            kinds |= {(split, int(c)) for c in found}
            of = {int(n): int(c) for n, c in zip(label[k], shown[k, :, 0], strict=True)}
            assert all(of[int(n)] == int(c) for n, c in zip(query_label[k], asked[k, :, 0], strict=True))
            pairs = [tuple(row) for row in torch.cat([shown[k], asked[k]]).tolist()]
            assert len(set(pairs)) == len(pairs)
    assert len(kinds) == 6
    whole = source.draw("train", 0, 40)
    part = source.draw("train", 13, 2)
    torch.testing.assert_close(part.support[0], whole.support[0][13:15], rtol=0, atol=0)


def test_vectors_that_do_not_do_are_refused() -> None:
    x, y = coded()
    with pytest.raises(InputError, match="3 ways need as many classes, and 'test' has 2"):
        VectorTasks(x, y, {"test": [1, 4]}, ways=3, shots=1, queries=1)
    with pytest.raises(InputError, match="class 1 in 'test' has 8 vectors, and 5 shots and 4 queries need 9"):
        VectorTasks(x, y, {"test": [1, 4]}, ways=2, shots=5, queries=4)
    with pytest.raises(InputError, match=r"x is \[48, 2\] and y \[47\]"):
        VectorTasks(x, y[1:], {"test": [1]}, ways=1, shots=1, queries=1)
    with pytest.raises(InputError, match="no split 'val'"):
        VectorTasks(x, y, {"test": [1, 4]}, ways=2, shots=1, queries=1).draw("val", 0, 1)


@pytest.fixture
def released(tmp_path: Path) -> list[Path]:
    """LEO's three files, small: two features that tell a class, four that do not."""
    generator = numpy.random.default_rng(0)
    for part, own in {"train": range(8), "val": range(8, 14), "test": range(14, 20)}.items():
        y = numpy.repeat(list(own), 20)
        angle = y * 2 * numpy.pi / 20
        x = numpy.stack([3 * numpy.cos(angle), 3 * numpy.sin(angle), *generator.normal(size=(4, len(y)))], 1).astype("float32")
        keys = [f"{k}-n{c:04d}-n{c:04d}_{k}.jpg" for k, c in enumerate(y)]
        (tmp_path / f"{part}_embeddings.pkl").write_bytes(pickle.dumps({"embeddings": x, "keys": keys}))
    return [tmp_path / f"{part}_embeddings.pkl" for part in ("train", "val", "test")]


def test_files_of_both_kinds_are_read_alike(released: list[Path], tmp_path: Path) -> None:
    x, y, classes = read_vectors(released)
    assert x.shape == (400, 6)
    torch.testing.assert_close(x.norm(dim=1), torch.ones(400))
    assert classes == {"train": [*range(8)], "val": [*range(8, 14)], "test": [*range(14, 20)]}
    raw, _, _ = read_vectors(released, unit=False)
    split = [part for part, own in classes.items() for _ in range(20 * len(own))]
    numpy.savez(tmp_path / "all.npz", x=raw.numpy(), y=numpy.array([f"c{k:02d}" for k in y.tolist()]), split=numpy.array(split))
    again, labels, same = read_vectors([tmp_path / "all.npz"])
    torch.testing.assert_close(again, x)
    assert same == classes
    assert labels.tolist() == y.tolist()


def test_files_that_do_not_do_are_refused(released: list[Path], tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no file of embeddings was named"):
        read_vectors([])
    with pytest.raises(InputError, match="there is no file"):
        read_vectors([tmp_path / "none.pkl"])
    (tmp_path / "train_labels.pkl").write_bytes(pickle.dumps([1]))
    with pytest.raises(InputError, match=r"train_labels\.pkl is none of LEO's files"):
        read_vectors([tmp_path / "train_labels.pkl"])
    (tmp_path / "train_bad.pkl").write_bytes(pickle.dumps(Path))
    with pytest.raises(InputError, match="could run code"):
        read_vectors([tmp_path / "train_bad.pkl"])
    numpy.savez(tmp_path / "half.npz", x=numpy.zeros((2, 3)), y=numpy.array([0, 1]))
    with pytest.raises(InputError, match=r"half\.npz has no split but x, y"):
        read_vectors([tmp_path / "half.npz"])
    numpy.savez(tmp_path / "both.npz", x=numpy.zeros((2, 3)), y=numpy.array([0, 0]), split=numpy.array(["train", "test"]))
    with pytest.raises(InputError, match="class '0' is not in exactly one of train, val, test"):
        read_vectors([tmp_path / "both.npz"])
    (tmp_path / "cut.npz").write_bytes((tmp_path / "both.npz").read_bytes()[:60])
    with pytest.raises(InputError, match=r"cut\.npz is damaged"):
        read_vectors([tmp_path / "cut.npz"])


@pytest.mark.parametrize("name", ["l2f/leo-mini-imagenet-5w1s", "l2f/leo-mini-imagenet-5w1s@leo", "l2f/leo-tiered-imagenet-5w5s"])
def test_leo_runs_from_files_to_result(name: str, released: list[Path], tmp_path: Path) -> None:
    [experiment] = experiments.find(name)
    settings = replace(experiment.settings, embeddings=tuple(map(str, released)), features=6, codes=4, rate=0.1, test_queries=10, queries=5)
    row = experiments.run(experiment, settings, Options(out=tmp_path / "runs", quick=True, progress=False))
    [(case, scored)] = row["cases"].items()
    assert case in experiment.claims
    assert len(scored["mean"]) == 11
    learner = il.load(tmp_path / f"runs/{name}/seed0")
    x = torch.randn(5, 6)
    assert il.predict(learner, (x, torch.arange(5)), x).shape == (5, 5)
    assert any(key.startswith("gate") for key in learner.prior) == ("@leo" not in name)


def test_leo_says_what_it_needs(released: list[Path], tmp_path: Path) -> None:
    [experiment] = experiments.find("l2f/leo-mini-imagenet-5w1s@leo")
    options = Options(out=tmp_path / "runs", quick=True, progress=False)
    with pytest.raises(InputError, match=r"there are no embeddings; give --embeddings train_embeddings\.pkl"):
        experiments.run(experiment, experiment.settings, options)
    with pytest.raises(InputError, match="the embeddings have 6 features, not 640; say --features 6"):
        experiments.run(experiment, replace(experiment.settings, embeddings=tuple(map(str, released)), queries=5, test_queries=10), options)
    assert not (tmp_path / "runs").exists()


def test_the_meta_gradient_can_be_shortened() -> None:
    p = torch.zeros(2, requires_grad=True)
    outer = il.adam(0.1, clip=4.0, longest=1.0)([p])
    p.grad = torch.tensor([30.0, 3.0])
    outer.step()
    torch.testing.assert_close(p.grad, torch.tensor([4.0, 3.0]) / 5)
    with pytest.raises(InputError, match="longest is 0"):
        il.adam(0.1, longest=0.0)
