"""What the documents show runs as shown."""

import re
import runpy
from pathlib import Path

import pytest
import torch

from innerloop import cli

ROOT = Path(__file__).parent.parent


def blocks(name: str) -> list[str]:
    return re.findall(r"^```python\n(.*?)^```", (ROOT / name).read_text(), re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize(("name", "n"), [("docs/ideas.md", 2), ("docs/methods.md", 7), ("docs/images.md", 1), ("docs/policies.md", 3)])
def test_the_code_in_the_docs_runs(name: str, n: int) -> None:
    assert len(blocks(name)) == n
    scope: dict = {}
    for block in blocks(name):
        exec(block, scope)


def test_the_code_in_the_readme_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    torch.manual_seed(0)  # the README leaves the start of its network to chance
    own, trained = blocks("README.md")
    scope: dict = {}
    exec(own, scope)
    assert scope["scores"].values.shape == (200, 6)
    assert scope["scores"].mean[3] < 0.3 * scope["scores"].mean[0]
    statements = own.split("net = ")[1].splitlines()
    assert len(statements) == 6, "six statements from a network to a table"

    monkeypatch.chdir(tmp_path)
    assert cli.main(["run", "maml/sinusoid", "--quick", "--no-progress"]) == 0
    scope = {"il": scope["il"], "x_given": torch.zeros(10, 1), "y_given": torch.zeros(10, 1), "x_new": torch.zeros(3, 1)}
    exec(trained, scope)
    assert scope["y"].shape == (3, 1)


def test_the_example_of_a_task_runs() -> None:
    meta, joint = runpy.run_path(str(ROOT / "examples" / "own_task.py"))["main"](iterations=200, n_tasks=50, progress=False)
    assert meta.values.shape == joint.values.shape == (50, 6)
    assert meta.mean[5] < meta.mean[0]


def test_the_example_of_an_environment_runs() -> None:
    pytest.importorskip("gymnasium", reason="gymnasium is missing")
    adapting, fixed = runpy.run_path(str(ROOT / "examples" / "own_environment.py"))["main"](iterations=2, tasks=3, progress=False)
    assert adapting.values.shape == (3, 2)
    assert fixed.values.shape == (3, 1)
    assert adapting.values.isfinite().all()


def test_links_between_the_documents_lead_somewhere() -> None:
    for name in (
        "README.md",
        "CONTRIBUTING.md",
        "CHANGELOG.md",
        "docs/ideas.md",
        "docs/images.md",
        "docs/methods.md",
        "docs/policies.md",
        "docs/results.md",
        "benchmarks/README.md",
    ):
        text = (ROOT / name).read_text()
        for target in re.findall(r"\]\(([^)#:]+)\)", text):
            assert (ROOT / name).parent.joinpath(target).exists(), f"{name} links to {target}"
