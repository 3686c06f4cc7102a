"""Commands on tiny runs: what they print, and what they say of input, runs and files that will not do."""

import json
import shutil
from dataclasses import asdict
from pathlib import Path

import pytest

from innerloop import experiments, report
from innerloop.cli import main

WAVES, WALKS = "maml/sinusoid/seed0", "maml/navigation/seed0"


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of sine waves and one of a policy."""
    out = tmp_path_factory.mktemp("tiny")
    for name in ("maml/sinusoid", "maml/navigation"):
        assert main(["run", name, "--quick", "--test-tasks", "3", "--test-steps", "2", "--out", str(out), "--no-progress"]) == 0
    return out


def said(capsys: pytest.CaptureFixture[str], *words: object) -> tuple[int, str, str]:
    code = main([str(word) for word in words])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def refused(capsys: pytest.CaptureFixture[str], *words: object) -> str:
    """The line that says why; nothing else is printed."""
    code, out, err = said(capsys, *words)
    assert (code, out, err.count("\n")) == (2, "", 1)
    return err.removeprefix("innerloop: ").removesuffix("\n")


@pytest.mark.parametrize("name", [WAVES, WALKS])
def test_a_run_is_evaluated_after_the_steps_that_it_scored(name: str, tiny: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _, out, _ = said(capsys, "evaluate", tiny / name, "--tasks", 3, "--device", "cpu", "--no-progress")
    [case, *_] = json.loads((tiny / name / "result.json").read_text())["cases"].values()
    means = [float(line.split()[1]) for line in out.splitlines()[2:5]]
    assert means == pytest.approx(case["mean"], abs=1e-4)
    assert [line.split()[0] for line in out.splitlines()[2:5]] == ["0", "1", "2"]


def test_nothing_is_printed_before_an_evaluation_is_refused(tiny: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in (WAVES, WALKS):
        assert refused(capsys, "evaluate", tiny / name, "--steps", -1).startswith("cannot take -1 steps")
        assert refused(capsys, "evaluate", tiny / name, "--tasks", 0) == "n_tasks is 0; give 1 or more"
        assert refused(capsys, "evaluate", tiny / name, "--device", "tpu9").startswith("device 'tpu9' cannot be used")


def test_evaluation_shows_a_bar(tiny: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    for name in (WAVES, WALKS):
        _, _, err = said(capsys, "evaluate", tiny / name, "--tasks", 3)
        assert "scoring" in err
        assert "3/3" in err
        assert said(capsys, "evaluate", tiny / name, "--tasks", 3, "--no-progress")[2] == ""


def test_what_is_missing_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    see = "; see innerloop adapt --help"
    assert refused(capsys, "adapt", "R", "--support", "s.csv") == "Missing from innerloop adapt: --query PATH" + see
    assert refused(capsys, "adapt", "R") == "Missing from innerloop adapt: --support PATH, --query PATH" + see
    assert refused(capsys, "adapt", "R", "--suport", "s", "--query", "q") == "Missing from innerloop adapt: --support PATH" + see
    assert refused(capsys, "adapt", "--support", "s", "--query", "q") == "Missing from innerloop adapt: PATH (the run's folder)" + see


@pytest.fixture
def points(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Options of ``adapt`` that name a support and a query of one input."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "s.csv").write_text("0,0\n1,0.84\n")
    (tmp_path / "q.csv").write_text("0.5\n")
    return ["--support", "s.csv", "--query", "q.csv"]


def test_runs_that_do_not_adapt_to_csv_are_refused(points: list[str], tiny: Path, capsys: pytest.CaptureFixture[str]) -> None:
    images = Path(__file__).parents[1] / "priors/maml-omniglot-5w1s"
    line = f"{images} is a classifier, and s.csv is for regression; give --support and --query folders of images"
    assert refused(capsys, "adapt", images, *points) == line
    for given in (points, ["--support", ".", "--query", "."]):
        assert refused(capsys, "adapt", tiny / WALKS, *given).startswith(f"{tiny / WALKS} is of policies, which adapt to rollouts")


def test_predictions_are_written_where_they_can_be(points: list[str], tiny: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert refused(capsys, "adapt", tiny / WAVES, *points, "--out", ".") == ". is a folder; give --out the name of a file"
    code, printed, _ = said(capsys, "adapt", tiny / WAVES, *points)
    assert (code, said(capsys, "adapt", tiny / WAVES, *points, "--out", "new/sub/p.csv")) == (0, (0, "", ""))
    assert Path("new/sub/p.csv").read_text() == printed
    assert "cannot make the folder" in refused(capsys, "adapt", tiny / WAVES, *points, "--out", "s.csv/p.csv")


def test_a_report_of_quick_runs_alone_says_so(tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    line = refused(capsys, "report", "--results", tiny)
    assert line.startswith(f"no result lines in {tiny} but of 2 quick runs, left out as they only show that it runs; ")
    assert line.endswith("innerloop run without --quick makes some, or name a folder with --results")
    assert refused(capsys, "report", "--results", tmp_path).startswith(f"no result lines in {tmp_path}; innerloop run makes some, or")


def test_a_report_says_what_it_wrote(tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    row = json.loads((tiny / WAVES / "result.json").read_text()) | {"quick": False}
    (tmp_path / "result.json").write_text(json.dumps(row) + "\n")
    code, out, _ = said(capsys, "report", "--results", tmp_path, "--html", tmp_path / "new/page.html")
    assert (code, out.splitlines()[-1]) == (0, f"{tmp_path}/new/page.html is written")
    assert refused(capsys, "report", "--results", tmp_path, "--html", tmp_path) == f"{tmp_path} is a folder; give --html the name of a file"


def copied(run: Path, place: Path, *files: str) -> Path:
    place.mkdir(parents=True)
    for name in files:
        shutil.copy(run / name, place)
    return place


def test_a_run_that_is_not_finished_is_told_from_none(tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    begun = copied(tiny / WAVES, tmp_path / "a/seed0", "run.json", "checkpoint.safetensors")
    line = f"the run in {begun} is not finished: it has a checkpoint and no prior.safetensors; go on with innerloop run … --resume"
    assert refused(capsys, "evaluate", begun) == line
    assert refused(capsys, "evaluate", tmp_path / "a") == f"{tmp_path}/a holds a folder for each seed; give the run of one: {begun}"
    assert refused(capsys, "evaluate", tmp_path).endswith("holds no run of a listed experiment: there is no run.json; check its name")


def test_damaged_files_of_a_run_are_refused(tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = tmp_path / "maml/sinusoid/seed0"
    shutil.copytree(tiny / WAVES, run)
    kept = {name: (run / name).read_bytes() for name in ("metrics.jsonl", "scores.safetensors")}
    for line in ("{", "3"):
        (run / "metrics.jsonl").write_text('{"iteration": 0}\n' + line + "\n")
        why = refused(capsys, "compare", run, tiny / WAVES, "--figures", tmp_path / "drawn")
        assert why == f"line 2 of {run}/metrics.jsonl is no line of metrics; remove it, or copy the file again"
    (run / "metrics.jsonl").write_bytes(kept["metrics.jsonl"])
    for other in ("prior", "checkpoint"):
        shutil.copy(run / f"{other}.safetensors", run / "scores.safetensors")
        why = refused(capsys, "compare", run, tiny / WAVES, "--figures", tmp_path / "drawn")
        assert not (tmp_path / "drawn").exists()
        assert why == f"{run}/scores.safetensors is no file of scores; copy it again, or start the run anew"
    (run / "scores.safetensors").write_bytes(kept["scores.safetensors"])
    for other in ("prior", "scores"):
        shutil.copy(run / f"{other}.safetensors", run / "checkpoint.safetensors")
        how = ("--quick", "--test-tasks", "3", "--test-steps", "2", "--out", tmp_path, "--no-progress", "--resume")
        why = refused(capsys, "run", "maml/sinusoid", *how)
        assert why == f"{run}/checkpoint.safetensors is no checkpoint: it has no groups; copy it again, or start the run anew"


WRONG = [
    ({"hidden": "forty"}, "is damaged (hidden is 'forty', not such as 40); copy it again, or start the run anew"),
    ({"iterations": True}, "is damaged (iterations is True, not such as 70000)"),
    ({"test_shots": ["5"]}, "is damaged (test_shots is ('5',), not such as (5, 10, 20))"),
    ({"hiden": 40}, "has a setting 'hiden' that maml/sinusoid has not; did you mean hidden?"),
]


@pytest.mark.parametrize(("changed", "message"), WRONG)
def test_settings_of_the_wrong_kind_are_refused(
    changed: dict, message: str, tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    about = json.loads((tiny / WAVES / "run.json").read_text())
    about["settings"] |= changed
    run = copied(tiny / WAVES, tmp_path / "run", "prior.safetensors")
    (run / "run.json").write_text(json.dumps(about))
    assert refused(capsys, "evaluate", run).startswith(f"{run}/run.json {message}")


def test_runs_are_compared_in_the_order_of_their_cases(tiny: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for others in ([tiny / WAVES], [tiny / WAVES] * 2):
        _, out, _ = said(capsys, "compare", tiny / WAVES, *others)
        assert out.index("5-shot") < out.index("10-shot") < out.index("20-shot")


def test_a_run_without_iterations_begins_with_an_empty_log(tiny: Path, tmp_path: Path) -> None:
    run = tmp_path / WAVES
    shutil.copytree(tiny / WAVES, run)
    assert (run / "metrics.jsonl").exists()
    how = ["--iterations", "0", "--test-tasks", "3", "--test-steps", "2", "--out", str(tmp_path), "--no-progress"]
    assert main(["run", "maml/sinusoid", *how, "--overwrite"]) == 0
    assert not {"metrics.jsonl", "training.png"} & {file.name for file in run.iterdir()}


def test_fewer_iterations_than_none_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("maml/sinusoid", "maml/navigation"):
        line = refused(capsys, "run", name, "--iterations", -4, "--out", tmp_path)
        assert line == "iterations is -4; it must be a whole number from 0 on"


QUICK = ("--quick", "--test-tasks", "3", "--test-steps", "2", "--no-progress")


def test_of_several_cells_those_that_had_not_begun_are_begun_on_resume(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert said(capsys, "run", "l2f/sinusoid-5s", *QUICK, "--out", tmp_path)[0] == 0
    held = tmp_path / "l2f/sinusoid-5s/seed0"
    assert refused(capsys, "run", "l2f/sinusoid-10s", *QUICK, "--out", tmp_path, "--resume").startswith("there is no run to resume in")
    why = refused(capsys, "run", "l2f/sinusoid", *QUICK, "--out", tmp_path)
    assert why.startswith(f"{held} holds a run already; go on with --resume")
    assert [path.name for path in (tmp_path / "l2f").iterdir()] == ["sinusoid-5s"], "nothing was trained before that was known"
    assert said(capsys, "run", "l2f/sinusoid", *QUICK, "--out", tmp_path, "--resume")[0] == 0
    assert len([*(tmp_path / "l2f").glob("*/seed0/result.json")]) > 2


def test_the_list_tells_costs_and_what_is_done(capsys: pytest.CaptureFixture[str]) -> None:
    head, *lines = said(capsys, "list")[1].splitlines()
    assert head.split() == ["experiment", "what", "paper", "cost", "needs", "done"]
    assert any(line.rstrip().endswith("yes") for line in lines)
    [row] = [line for line in lines if line.startswith("l2f/meta-dataset@maml ")]
    assert "more" in row


def test_folders_that_are_not_there_are_named(tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    why = refused(capsys, "report", "--results", tiny, tmp_path / "nowhere")
    assert why == f"there is no {tmp_path}/nowhere; check the names of --results"


def test_a_run_and_a_folder_of_seeds_compare_in_both_orders(tiny: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run, seeds = tiny / WAVES, (tiny / WAVES).parent
    for pair in ((run, seeds), (seeds, run)):
        code, out, _ = said(capsys, "compare", *pair)
        assert (code, out.count("5-shot")) == (0, 1)


def test_no_claim_stands_beside_other_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    of = experiments.catalogue()["maml/omniglot-5w1s"]
    own = asdict(of.settings)
    assert of.claimed(own) == of.claimed(own | {"iterations": 3}) == of.claims
    assert of.claimed(own | {"data": "omniglot-release", "split": "omniglot-1200"}) == of.claims, "the code's images, the paper's split"
    for name, changed in (
        ("maml/cheetah-direction@rllab", {"dynamics": "v5"}),
        ("maml/navigation", {"reward": "squared"}),
        ("maml/navigation", {"horizon": 10}),
        ("mumomaml/regression-2modes", {"noise": 0.0}),
    ):
        other = experiments.catalogue()[name]
        assert other.claimed(asdict(other.settings)) == other.claims
        assert other.claimed(asdict(other.settings) | changed) == {}
    sets = experiments.catalogue()["l2f/meta-dataset"]
    assert sets.claimed(json.loads(json.dumps(asdict(sets.settings)))) == sets.claims
    assert sets.claimed(asdict(sets.settings) | {"trained_on": ["birds"]}) == {}
    assert of.claimed(own | {"data": "glyphs"}) == of.claimed(own | {"split": "vinyals"}) == of.claimed(own | {"size": 20}) == {}
    row = {
        "experiment": of.name,
        "settings": own | {"data": "glyphs"},
        "claims": dict(of.claims),
        "cases": {"5-way 1-shot": {"mean": [0.2] * 4}},
    }
    [entry] = report.entries([row], {of.name: of})
    assert entry.claim == {}
    monkeypatch.setenv("INNERLOOP_DATA", str(tmp_path))
    glyphs = ("--data", "glyphs", "--split", "glyphs", "--no-progress")
    code, _, err = said(capsys, "run", of.name, *glyphs, "--channels", 3, "--out", tmp_path)
    last = "innerloop: the images of glyphs are 1 × 28 × 28 and the experiment's 3 × 28 × 28; say --channels 1"
    assert (code, err.splitlines()[-1]) == (2, last)
    assert refused(capsys, "run", of.name, *glyphs, "--filters", 0, "--out", tmp_path) == "filters is 0; give 1 or more"
    assert refused(capsys, "data", "check", "glyphs").startswith("glyphs are drawn when they are used")
    why = refused(capsys, "run", "maml/mini-imagenet-5w1s@nearest", "--split", "omniglot-alphabets", "--out", tmp_path)
    assert why == "the split omniglot-alphabets names groups, not the classes that a classifier of all must know; choose another"
