"""The priors that come with the repository load, and score what their result lines say."""

import json
from pathlib import Path

import pytest
import torch

import innerloop as il
from innerloop.experiments import catalogue
from innerloop.experiments.experiment import trial_of
from innerloop.images import classes_of, from_npz, images
from innerloop.tasks import ImageTasks

ROOT = Path(__file__).parent.parent
PRIORS = sorted(path.parent for path in (ROOT / "priors").glob("*/run.json"))


@pytest.mark.parametrize("folder", PRIORS, ids=lambda path: path.name)
def test_a_prior_is_small_and_of_a_committed_result(folder: Path) -> None:
    assert (folder / "prior.safetensors").stat().st_size < 1e6
    row = json.loads((folder / "result.json").read_text())
    lines = [json.loads(line) for file in (ROOT / "results").glob("*.jsonl") for line in file.read_text().splitlines()]
    assert row in lines
    assert f"`{folder.name}`" in (ROOT / "priors/README.md").read_text()
    assert len(il.load(folder).steps) == row["settings"]["test_steps"]


def test_the_prior_of_sine_waves_scores_what_its_result_says() -> None:
    folder = ROOT / "priors/maml-sinusoid"
    row, (trial, _) = json.loads((folder / "result.json").read_text()), trial_of(folder)
    for case, tasks in trial.cases.items():
        scores = il.evaluate(il.load(folder, case=case), tasks, 10, row["settings"]["test_tasks"])
        torch.testing.assert_close(scores.mean.tolist(), row["cases"][case]["mean"], rtol=1e-3, atol=1e-5)


def test_the_prior_of_omniglot_scores_what_its_result_says(shared: Path) -> None:
    row = json.loads((ROOT / "priors/maml-omniglot-5w1s/result.json").read_text())
    omniglot = images("omniglot", from_npz(shared / "omniglot/omniglot28.npz"))
    tasks = ImageTasks(omniglot, classes_of(omniglot, row["settings"]["split"]), ways=5, shots=1, queries=1, turns="tasks")
    scores = il.evaluate(il.load(ROOT / "priors/maml-omniglot-5w1s"), tasks, 3, 600, metric=il.accuracy)
    torch.testing.assert_close((100 * scores.mean).tolist(), row["cases"]["5-way 1-shot"]["mean"], rtol=0, atol=0.1)


def test_every_prior_is_of_a_listed_experiment() -> None:
    assert PRIORS
    assert all(json.loads((folder / "run.json").read_text())["experiment"] in catalogue() for folder in PRIORS)
