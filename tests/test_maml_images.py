"""The image experiments: every kind runs, on sets that this machine has."""

import gc
import json
import weakref
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy
import pytest
import torch
from torch import nn

import innerloop as il
from innerloop import InputError, experiments
from innerloop.cli import main
from innerloop.experiments.experiment import Options
from innerloop.images import Class, classes_of, found, images, place, save
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


def small(tmp_path: Path, **how: Any) -> Any:
    """Settings of MAML on the small sets."""
    own = {"size": 8, "split": str(tmp_path / "split.json"), "filters": 4, "queries": 5, "test_queries": 5, "test_tasks": 6}
    return replace(experiments.find("maml/omniglot-5w1s")[0].settings, **(own | how))


@pytest.mark.usefixtures("noise")
def test_seeds_are_scored_on_the_same_tasks_and_compared(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    names = ("maml/omniglot-5w1s", "maml/omniglot-5w1s@anil")
    for name in names:
        for seed in (0, 1):
            options = Options(out=tmp_path / "runs", quick=True, progress=False)
            experiments.run(experiments.find(name)[0], small(tmp_path, seed=seed), options)
    assert main(["compare", *(str(tmp_path / "runs" / name) for name in names)]) == 0
    assert "by seed" in capsys.readouterr().out
    trials = [experiments.find(names[0])[0].build(small(tmp_path, seed=seed)) for seed in (0, 1)]
    drawn = [trial.tasks.draw("train", 0, 2).support[0] for trial in trials]
    assert not torch.equal(*drawn), "training tasks are each seed's own"


@pytest.mark.usefixtures("noise")
def test_what_would_end_a_run_after_hours_is_refused_before_it(tmp_path: Path) -> None:
    [experiment] = experiments.find("maml/omniglot-5w1s")
    options = Options(out=tmp_path / "runs", quick=True, progress=False)
    with pytest.raises(InputError, match=r"of the tasks to score \(5-way 1-shot\): class '0'.* has 20 images, and 1 shots and 25 queries"):
        experiments.run(experiment, small(tmp_path, test_queries=25), options)
    parts = json.loads((tmp_path / "split.json").read_text())
    (tmp_path / "split.json").write_text(json.dumps({"train": parts["train"], "test": parts["test"]}))
    with pytest.raises(InputError, match=r"of validation tasks: omniglot has no split 'val'.* or train without, by validation_tasks=0"):
        experiments.run(experiment, small(tmp_path), options)
    assert not (tmp_path / "runs").exists()
    trial = experiment.build(small(tmp_path))
    assert il.train(trial.learner, trial.tasks, 2, meta_batch=2, validation_tasks=0, progress=False).prior


@pytest.mark.usefixtures("noise")
def test_a_part_of_a_set_has_no_number_of_the_paper_beside_it(tmp_path: Path) -> None:
    experiment = replace(experiments.find("maml/omniglot-5w1s")[0], settings=small(tmp_path))
    row = experiments.run(experiment, experiment.settings, Options(out=tmp_path / "runs", quick=True, progress=False))
    assert row["claims"]
    assert "lacking" not in row
    index = place("omniglot") / "images.json"
    index.write_text(json.dumps(json.loads(index.read_text()) | {"about": {"missing": "drop"}}))
    row = experiments.run(experiment, experiment.settings, Options(out=tmp_path / "part", quick=True, progress=False))
    assert (row["claims"], row["lacking"]) == ({}, ["omniglot"])


@pytest.mark.usefixtures("noise")
def test_a_set_is_let_go_with_its_tasks() -> None:
    """It may be gigabytes on a GPU."""
    tasks = ImageTasks(found("omniglot"), {"train": range(8)})
    tasks.draw("train", 0, 2)
    there = weakref.ref(tasks)
    del tasks
    gc.collect()
    assert there() is None


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
