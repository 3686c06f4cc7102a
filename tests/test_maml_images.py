"""The image experiments: every kind runs, on sets that this machine has."""

from dataclasses import replace
from pathlib import Path

import numpy
import pytest
import torch
from torch import nn

import innerloop as il
from innerloop import InputError, experiments
from innerloop.experiments.experiment import Options
from innerloop.images import Class, classes_of, images, place, save
from innerloop.methods import nearest_neighbour
from innerloop.tasks import ImageTasks


@pytest.fixture
def noise(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Sets named as the experiments', with a few classes of small images."""
    monkeypatch.setenv("INNERLOOP_DATA", str(tmp_path / "data"))
    generator = numpy.random.default_rng(0)
    (tmp_path / "split.json").write_text(
        '{"train": ["0", "1", "2", "3", "4", "5"], "val": ["6", "7", "8", "9", "10"], "test": ["11", "12", "13", "14", "15"]}'
    )
    colour = (16, 16, 3)
    for name, shape in {"omniglot": (8, 8, 1), **dict.fromkeys(("mini-imagenet", "tiered-imagenet", "cifar-fs", "fc100"), colour)}.items():
        made = [Class(str(k), generator.integers(256, size=(20, *shape), dtype=numpy.uint8)) for k in range(16)]
        save(images(name, made), place(name))


KINDS = [
    "maml/omniglot-5w1s",
    "maml/omniglot-5w5s",
    "maml/omniglot-noconv-5w1s",
    "maml/context-vector-5w1s",
    "maml/omniglot-5w1s@first-order",
    "maml/omniglot-5w1s@anil",
    "maml/omniglot-5w1s@boil",
    "maml/omniglot-5w1s@meta-sgd",
    "maml/omniglot-5w1s@maml++",
    "maml/omniglot-5w1s@reptile",
    "maml/omniglot-5w1s@prototypical",
    "maml/omniglot-5w1s@matching",
    "maml/mini-imagenet-5w1s",
    "maml/mini-imagenet-5w1s@fine-tuned",
    "maml/mini-imagenet-5w1s@nearest",
    "maml/mini-imagenet-5w1s@matching",
    "mumomaml/omniglot-5w1s",
    "mumomaml/omniglot-5w1s@maml",
    "l2f/tiered-imagenet-5w1s@maml",
    "l2f/cifar-fs-5w5s@maml",
    "l2f/fc100-5w10s@maml",
    "l2f/mini-imagenet-5w1s",
    "l2f/mini-imagenet-resnet12-5w1s",
    "l2f/inner-steps-2@maml",
    "l2f/inner-steps-3",
    "l2f/scope-parameter",
    "l2f/scope-filter",
    "l2f/scope-layer",
    "l2f/scope-network",
    "l2f/transform-gamma",
    "l2f/transform-gamma-delta",
]


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.usefixtures("noise")
def test_an_experiment_runs_from_set_to_result(name: str, tmp_path: Path) -> None:
    [experiment] = experiments.find(name)
    size = 8 if "omniglot" in name or "context" in name else 16
    settings = replace(experiment.settings, size=size, split=str(tmp_path / "split.json"), filters=4, queries=5, test_queries=5)
    options = Options(out=tmp_path / "runs", quick=True, progress=False)
    row = experiments.run(experiment, replace(settings, test_tasks=10), options)
    [(case, scored)] = row["cases"].items()
    assert case in experiment.claims or "@" in name
    assert row["metric"] == "accuracy, %"
    later = [phase["from_iteration"] for phase in row["engine"].get("later", [])]
    assert later == sorted(set(later))
    assert bool(later) == ("maml++" in name), "each phase has its own engine"
    assert 0 <= scored["mean"][-1] <= 100
    assert scored["mean"][0] == pytest.approx(20, abs=15) or "@" in name
    if experiment.claims:
        [step] = experiment.claims[case]
        assert step == len(scored["mean"]) - 1, "the paper's number stands beside the last step"
    learner = il.load(tmp_path / f"runs/{name}/seed0")
    x = torch.rand(5, 1 if size == 8 else 3, size, size)
    assert il.predict(learner, (x, torch.arange(5)), x).shape == (5, 5)


@pytest.mark.usefixtures("noise")
def test_l2f_is_told_by_a_prototypical_network_that_was_trained_before(tmp_path: Path) -> None:
    options = Options(out=tmp_path / "runs", quick=True, progress=False)
    how: dict = {"size": 16, "split": str(tmp_path / "split.json"), "filters": 4, "queries": 5, "test_queries": 5, "test_tasks": 10}
    teller, told = (experiments.find(f"l2f/embedding-{name}")[0] for name in ("prototypical", "prototypes"))
    with pytest.raises(InputError, match="told_by is empty; run l2f/embedding-prototypical on the same data first"):
        told.build(told.settings)
    experiments.run(teller, replace(teller.settings, **how), options)
    folder = tmp_path / "runs/l2f/embedding-prototypical/seed0"
    row = experiments.run(told, replace(told.settings, told_by=str(folder), **how), options)
    assert row["settings"]["told_by"] == str(folder)
    learner = il.load(tmp_path / "runs/l2f/embedding-prototypes/seed0")
    assert learner.prior["gate.0.weight"].shape == (6, 4), "four features tell of six tensors"


@pytest.mark.usefixtures("noise")
def test_images_of_another_size_are_refused(tmp_path: Path) -> None:
    [experiment] = experiments.find("maml/omniglot-5w1s")
    settings = replace(experiment.settings, split=str(tmp_path / "split.json"))
    with pytest.raises(InputError, match="the images of omniglot are 1 × 8 × 8 and the experiment's 1 × 28 × 28; build them anew"):
        experiments.run(experiment, settings, Options(out=tmp_path / "runs", progress=False))
    assert not (tmp_path / "runs").exists()


def test_a_set_that_is_not_there_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("INNERLOOP_DATA", str(tmp_path / "data"))
    [experiment] = experiments.find("maml/omniglot-5w1s")
    with pytest.raises(InputError, match=r"omniglot is not in .*: innerloop data get omniglot fetches it"):
        experiments.run(experiment, experiment.settings, Options(out=tmp_path / "runs", progress=False))


@pytest.mark.parametrize(("ways", "published", "within"), [(5, 47, 2), (20, 28, 1)])
def test_nearest_neighbour_of_raw_pixels_is_what_it_is_elsewhere(ways: int, published: int, within: int, shared: Path) -> None:
    """Checks reader, split and sampler at once, on the whole of Omniglot."""
    from innerloop.images import from_npz

    omniglot = images("omniglot", from_npz(shared / "omniglot/omniglot28.npz"))
    tasks = ImageTasks(omniglot, classes_of(omniglot, "vinyals"), ways=ways, shots=1, queries=5)
    learner = nearest_neighbour(nn.Flatten(), ways, "cosine")
    scores = il.evaluate(learner, tasks, 0, 1000, metric=il.accuracy)
    assert 100 * scores.mean[0] == pytest.approx(published, abs=within)
