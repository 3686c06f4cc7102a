"""The priors that come with the repository load, and score what their result lines say."""

import csv
import json
from pathlib import Path

import pytest
import torch
from PIL import Image

import innerloop as il
from innerloop.cli import main
from innerloop.experiments import catalogue
from innerloop.experiments.kept import trial_of
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


@pytest.mark.parametrize("dark", [False, True])
def test_the_prior_of_omniglot_tells_folders_of_drawings_apart(
    dark: bool, shared: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """As somebody with ten drawings would: files in, files out, of characters that training had not."""
    omniglot = images("omniglot", from_npz(shared / "omniglot/omniglot28.npz"))
    unseen = classes_of(omniglot, json.loads((ROOT / "priors/maml-omniglot-5w1s/result.json").read_text())["settings"]["split"])["test"]
    for k in unseen[::90][:5]:
        drawings = omniglot.pixels[omniglot.starts[k] :][:7, :, :, 0]
        for n, pixels in enumerate(255 - drawings if dark else drawings):
            folder = tmp_path / (f"given/{k}" if n < 2 else "new")
            folder.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(folder / f"{k}-{n}.png")
    words = ["adapt", str(ROOT / "priors/maml-omniglot-5w1s"), "--support", f"{tmp_path}/given", "--query", f"{tmp_path}/new"]
    assert main([*words, "--out", f"{tmp_path}/told.csv", *(["--invert"] if dark else [])]) == 0
    told = list(csv.DictReader((tmp_path / "told.csv").read_text().splitlines()))
    assert len(told) == 25
    right = [row["file"].startswith(row["prediction"] + "-") for row in told]
    assert sum(right) >= 23
    probabilities = [[float(row[name]) for name in row if name not in ("file", "prediction")] for row in told]
    assert all(len(row) == 5 and sum(row) == pytest.approx(1, abs=1e-4) for row in probabilities)
    shown = capsys.readouterr().out
    assert all(row["file"] in shown for row in told)


def test_every_prior_is_of_a_listed_experiment() -> None:
    assert PRIORS
    assert all(json.loads((folder / "run.json").read_text())["experiment"] in catalogue() for folder in PRIORS)
