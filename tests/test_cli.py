"""The command line: bad input in one line with exit code 2, and every experiment in seconds."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import innerloop as il
from innerloop import InputError, experiments
from innerloop.analysis import kept
from innerloop.cli import main
from innerloop.outer import logged

RUN = "maml/sinusoid/seed0"


LISTED = [name for name, e in experiments.catalogue().items() if not e.needs and e.metric.name != "return"]  # policies: test_practice
LIKE_OTHERS = ("-10s", "-20s", "-10s@maml", "-20s@maml", "-l2", "-mean", "-sigmoid", "-softmax", "3modes@sigmoid", "3modes@softmax")
AT_HAND = [name for name in LISTED if not name.endswith(LIKE_OTHERS) and "3modes@release" not in name]
"""Those that are run; the others differ from one of them by a number."""


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Every experiment that needs nothing, run with --quick."""
    out = tmp_path_factory.mktemp("runs")
    for name in AT_HAND:
        assert main(["run", name, "--quick", "--out", str(out), "--no-progress"]) == 0
    return out


def test_every_experiment_runs_and_leaves_figures_and_a_result_line(runs: Path) -> None:
    assert (len(LISTED), len(AT_HAND)) == (56, 39)
    for name in LISTED:
        assert experiments.catalogue()[name].build(experiments.catalogue()[name].settings).learner.prior
    for name in AT_HAND:
        experiment, folder = experiments.catalogue()[name], runs / name / "seed0"
        oracle = name in ("maml/sinusoid-oracle", "maltml/sinusoid@oracle")
        pictured = ("sinusoid" in name and not oracle) or name.startswith("mumomaml/regression")
        of_modes = name.startswith("mumomaml/regression") and "maml" not in name.partition("@")[2]
        files = [
            "result.json",
            "scores.safetensors",
            "prior.safetensors",
            "curves.png",
            *["fits.png"] * pictured,
            *["modes.png"] * of_modes,
            *["training.png"] * (name != "maml/sinusoid-random"),
        ]
        assert {p.name for p in folder.iterdir()} >= {*files}
        assert (folder / "curves.png").read_bytes().startswith(b"\x89PNG")
        [line] = (folder / "result.json").read_text().splitlines()
        row = json.loads(line)
        assert row["experiment"] == name
        assert row["quick"] is True
        assert row["claims"] == {case: {str(k): v for k, v in claim.items()} for case, claim in experiment.claims.items()}
        if "sinusoid" in name:
            assert list(row["cases"]) == list(experiment.build(experiment.settings).cases)
            scored = 1 if oracle else experiment.settings.test_steps + 1
            assert {len(case["mean"]) for case in row["cases"].values()} == {scored}
        assert row["versions"]["torch"] == torch.__version__
        assert row["peak_memory_mb"] > 100


def test_a_run_loads_in_two_statements_and_predicts_from_ten_points(runs: Path) -> None:
    learner = il.load(runs / RUN)
    x = torch.linspace(-5, 5, 10)[:, None]
    y = il.predict(learner, support=(x, x.sin()), x=x)
    assert y.shape == (10, 1)
    assert len(learner.steps) == 10
    assert (y - x.sin()).square().mean() < (il.predict(learner, (x, x.sin()), x, steps=0) - x.sin()).square().mean()


def test_what_is_loaded_scores_what_was_written(runs: Path) -> None:
    for name in ("maml/sinusoid", "maml/sinusoid-multitask", "maml/sinusoid-oracle"):
        row = json.loads((runs / name / "seed0/result.json").read_text())
        learner = il.load(runs / name / "seed0", case="10-shot")
        tasks = il.Sinusoids(shots=10, queries=100, identity=name.endswith("oracle"))
        assert il.evaluate(learner, tasks, n_tasks=20).mean.tolist() == pytest.approx(row["cases"]["10-shot"]["mean"], rel=1e-4)


def test_own_learners_load_too(tmp_path: Path) -> None:
    net = il.mlp(1, 4, 1)
    trained = il.train(il.maml(net, il.mse(net)), il.Sinusoids(), 2, out=tmp_path, progress=False)
    loaded = il.load(tmp_path, il.maml(net, il.mse(net)))
    torch.testing.assert_close(loaded.prior, trained.prior, rtol=0, atol=0)
    with pytest.raises(InputError, match=r"holds no run of a listed experiment.*give load the learner too"):
        il.load(tmp_path)


def said(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> tuple[int, str, str]:
    code = main(arguments)
    captured = capsys.readouterr()
    return code, captured.out, captured.err


BAD = [
    (["rnu"], "no command 'rnu'; did you mean run?"),
    (["run"], "run needs the name of an experiment first; innerloop list shows them"),
    (["run", "maml/sinusod"], "no experiment 'maml/sinusod'; did you mean maml/sinusoid?"),
    (["run", "maml/sinusoid", "--iteratons", "5"], "Unrecognized options: --iteratons, 5; did you mean --iterations"),
    (["run", "maml/sinusoid", "--rate", "fast"], "Error parsing --rate: could not convert string to float: 'fast'; see innerloop run"),
    (["run", "maml/sinusoid", "--rate"], "Missing value for argument '--rate'"),
    (["run", "maml/sinusoid", "--resume"], "there is no run to resume in OUT/maml/sinusoid/seed0; leave --resume out to start one"),
    (["run", "maml/sinusoid", "--engine", "vmpa"], "no engine 'vmpa'; did you mean vmap?"),
    (["run", "maml/sinusoid", "--chunk", "0"], "chunk is 0"),
    (["run", "maml/sinusoid", "--meta-batch", "0"], "meta_batch is 0; it must be above 0"),
    (["run", "maml/sinusoid", "--outer-rate", "nan"], "outer_rate is nan; it must be above 0"),
    (["run", "maml/sinusoid", "--shots", "0"], "a task has 0 shots and 10 queries; it needs at least one of each"),
    (["run", "maml/sinusoid", "--device", "tpu9"], "device 'tpu9' cannot be used"),
    (["run", "maml/navigation", "--device", "tpu9"], "device 'tpu9' cannot be used"),
    (["run", "maml/sinusoid", "--test-tasks", "0", "--iterations", "1"], "test_tasks is 0 and test_steps 10; score at least 1 task"),
    (["run", "maml/sinusoid", "--rate", "-1"], "rate is -1.0; an inner rate must be 0 or more"),
    (["run", "maml/sinusoid", "--hidden", "0"], "the sizes are (1, 0, 0, 1); give inputs, hidden layers"),
    (["run", "maml/sinusoid", "--resume", "--overwrite"], "resume goes on with a run and overwrite starts it anew"),
    (["run", "maml/sinusoid-multitask", "--regressors", "0"], "there are 0 regressors and 50 points"),
    (["run", "maml/sinusoid", "--quick", "--track"], "track needs TensorBoard"),
    (["list", "omniglut"], "no experiment matches 'omniglut'"),
    (["evaluate", "nowhere"], "nowhere holds no run of a listed experiment"),
    (["compare", "nowhere", "there"], "nowhere holds no scores; give a run's folder"),
    (["compare", "nowhere"], "there is nothing to compare nowhere with; name one more run"),
    (["adapt", "nowhere", "--support", "a.csv", "--query", "b.csv"], "there is no file a.csv; check its name"),
    (["report", "--results", "nowhere"], "no result lines in nowhere"),
]


@pytest.mark.parametrize(("arguments", "message"), BAD, ids=[" ".join(arguments) for arguments, _ in BAD])
def test_bad_input_is_one_line_with_code_2_and_writes_nothing(
    arguments: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    out = ["--out", "OUT", "--no-progress"] if arguments[0] == "run" and len(arguments) > 1 and arguments[-1] != "--rate" else []
    code, _, err = said([*arguments, *out], capsys)
    assert code == 2
    assert err.count("\n") == 1
    assert err.startswith(f"innerloop: {message}")
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_is_not_writable_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "access", lambda path, mode: False)  # root may write everywhere, whatever the mode of a folder
    code, _, err = said(["run", "maml/sinusoid", "--quick", "--out", str(tmp_path / "runs")], capsys)
    assert (code, err.count("\n")) == (2, 1)
    assert err == f"innerloop: the folder {tmp_path}/runs/{RUN} is not writable; choose another with --out\n"
    assert list(tmp_path.iterdir()) == []


def test_an_output_folder_that_is_a_file_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text("mine")
    code, _, err = said(["run", "maml/sinusoid", "--quick", "--out", str(tmp_path / "file")], capsys)
    assert code == 2
    assert err.startswith(f"innerloop: cannot make the folder {tmp_path}/file/{RUN}: ")
    assert err.endswith("choose another with --out\n")
    assert (tmp_path / "file").read_text() == "mine"


def test_a_run_is_not_overwritten_by_mistake(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = (runs / RUN / "result.json").read_text()
    code, _, err = said(["run", "maml/sinusoid", "--quick", "--out", str(runs)], capsys)
    assert (code, err.count("\n")) == (2, 1)
    assert "holds a run already; go on with --resume, start anew with --overwrite, or choose another --out" in err
    code, _, err = said(["run", "maml/sinusoid", "--quick", "--out", str(runs), "--resume", "--rate", "0.5"], capsys)
    assert code == 2
    assert "was run with rate 0.01; resume it with the same" in err
    assert (runs / RUN / "result.json").read_text() == before


def test_a_damaged_run_is_refused(runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / RUN
    folder.mkdir(parents=True)
    for name in ("run.json", "result.json", "prior.safetensors", "checkpoint.safetensors"):
        content = (runs / RUN / name).read_bytes()
        (folder / name).write_bytes(content if name.endswith("json") else content[:-20])
    code, _, err = said(["evaluate", str(folder)], capsys)
    assert (code, err.count("\n")) == (2, 1)
    assert "prior.safetensors is truncated or no safetensors file" in err
    code, _, err = said(["run", "maml/sinusoid", "--quick", "--resume", "--out", str(tmp_path)], capsys)
    assert code == 2
    assert "checkpoint.safetensors is truncated or no safetensors file" in err
    for broken in ("{", "[]", "{}"):
        (folder / "run.json").write_text(broken)
        code, _, err = said(["evaluate", str(folder)], capsys)
        assert (code, err.count("\n")) == (2, 1)
        assert "run.json is damaged" in err


def test_the_prior_of_another_network_is_refused(runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / RUN
    folder.mkdir(parents=True)
    for name in ("run.json", "result.json"):
        (folder / name).write_bytes((runs / RUN / name).read_bytes())
    (folder / "prior.safetensors").write_bytes((runs / "maml/sinusoid-context/seed0/prior.safetensors").read_bytes())
    code, _, err = said(["evaluate", str(folder)], capsys)
    assert (code, err.count("\n")) == (2, 1)
    assert "prior.safetensors is of another learner" in err


def test_an_own_empty_folder_is_left(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, _, _ = said(["run", "maml/sinusoid", "--meta-batch", "0", "--out", str(tmp_path)], capsys)
    assert code == 2
    assert list(tmp_path.iterdir()) == []


def test_a_run_scored_for_fewer_steps_does_not_spoil_the_report(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for steps in ("3", "0"):
        how = ["--iterations", "1", "--test-steps", steps, "--test-tasks", "4", "--no-progress", "--overwrite", "--out", str(tmp_path)]
        assert main(["run", "maml/sinusoid", *how]) == 0
        code, out, _ = said(["report", "--results", str(tmp_path), "--figures", str(tmp_path / "figures")], capsys)
        assert code == 0
        assert f"test_steps {steps}" in out
        assert (tmp_path / "figures/curves-mse.png").read_bytes().startswith(b"\x89PNG")


def test_a_run_that_diverges_on_most_tasks_is_shown(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    how = ["--quick", "--rate", "1e18", "--iterations", "0", "--no-progress", "--out", str(tmp_path)]
    code, out, _ = said(["run", "maml/sinusoid", *how], capsys)
    assert code == 0
    assert "diverged on 20 tasks" in out


def test_a_run_of_the_command_goes_on_where_it_stopped(tmp_path: Path) -> None:
    how = ["--test-tasks", "10", "--no-progress", "--engine", "vmap"]
    assert main(["run", "maml/sinusoid", "--iterations", "12", "--out", str(tmp_path / "a"), *how]) == 0
    assert main(["run", "maml/sinusoid", "--iterations", "7", "--out", str(tmp_path / "b"), *how]) == 0
    assert main(["run", "maml/sinusoid", "--iterations", "12", "--out", str(tmp_path / "b"), *how, "--resume"]) == 0
    a, b = (json.loads((tmp_path / x / RUN / "result.json").read_text()) for x in "ab")
    assert a["cases"] == b["cases"]
    assert a["settings"] == b["settings"]


def test_list_shows_claims_and_what_is_done(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = said(["list", "--results", str(runs)], capsys)
    assert code == 0
    for name in experiments.catalogue():
        assert name in out
    assert "0.67" in out


def test_evaluate_compare_and_adapt(runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = said(["evaluate", str(runs / RUN), "--tasks", "20"], capsys)
    row = json.loads((runs / RUN / "result.json").read_text())
    assert code == 0
    assert f"{row['cases']['5-shot']['mean'][10]:.4f} ±" in out

    code, out, _ = said(["compare", str(runs / RUN), str(runs / "maml/sinusoid-random/seed0")], capsys)
    assert code == 0
    other = json.loads((runs / "maml/sinusoid-random/seed0/result.json").read_text())
    assert f"{row['cases']['20-shot']['mean'][10] - other['cases']['20-shot']['mean'][10]:.4f} ±" in out

    names = ["maml/sinusoid", "maml/sinusoid-random", "maml/sinusoid-pretrained"]
    code, out, _ = said(["compare", *(str(runs / name) for name in names)], capsys)
    assert code == 0
    assert out.count("---") == 12, "three cases of four columns"
    difference = other["cases"]["20-shot"]["mean"][10] - row["cases"]["20-shot"]["mean"][10]
    last = out[out.index("| 20-shot") :]
    assert f"| `{runs / names[1]}` | {other['cases']['20-shot']['mean'][10]:.2f} ± " in last
    assert f"| {difference:.2f} ± " in last
    assert f"| {difference:+.2f} |" in last
    code, _, err = said(["compare", str(runs / "maml"), str(runs / names[0])], capsys)
    assert code == 2
    assert "holds no scores; give a run's folder, or that of an experiment with a folder for each seed" in err
    code, _, err = said(["compare", str(runs / names[0]), str(runs / "l2f/sinusoid-apart-5s"), str(runs / names[1])], capsys)
    assert code == 2
    assert "the scores are of different tasks" in err

    (tmp_path / "support.csv").write_text("x,y\n0,0\n1,0.84\n2,0.91\n")
    (tmp_path / "query.csv").write_text("x\n0.5\n1.5\n")
    code, out, _ = said(["adapt", str(runs / RUN), "--support", f"{tmp_path}/support.csv", "--query", f"{tmp_path}/query.csv"], capsys)
    expected = il.predict(il.load(runs / RUN), ([[0.0], [1.0], [2.0]], [[0.0], [0.84], [0.91]]), [[0.5], [1.5]])
    assert [float(line) for line in out.split()] == pytest.approx(expected.flatten().tolist(), rel=1e-4)

    (tmp_path / "query.csv").write_text("1,2\n")
    code, _, err = said(["adapt", str(runs / RUN), "--support", f"{tmp_path}/support.csv", "--query", f"{tmp_path}/query.csv"], capsys)
    assert code == 2
    assert "the support needs its outputs behind the inputs" in err


def test_help_names_every_option(capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in (["run", "--help"], ["run", "maml/sinusoid", "--help"]):
        code, out, _ = said(arguments, capsys)
        assert code == 0
        assert set(re.findall(r"--[a-z-]+", out)) >= {
            "--iterations",
            "--rate",
            "--seed",
            "--device",
            "--quick",
            "--resume",
            "--out",
            "--engine",
        }
    code, out, _ = said([], capsys)
    assert code == 0
    assert all(name in out for name in ("list", "run", "evaluate", "compare", "report", "adapt", "doctor"))


def test_doctor_tries_things_out(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = said(["doctor"], capsys)
    assert code == 0
    assert torch.__version__ in out
    assert "torch.compile" in out


def test_the_command_is_installed() -> None:
    done = subprocess.run([sys.executable, "-m", "innerloop", "--version"], capture_output=True, text=True, check=True)
    assert done.stdout == f"{il.__version__}\n"


def test_a_run_can_be_watched(tmp_path: Path) -> None:
    assert main(["run", "maml/sinusoid", "--quick", "--watch", "5", "--out", str(tmp_path), "--no-progress"]) == 0
    folder = tmp_path / "maml/sinusoid/seed0"
    assert all((folder / name).read_bytes().startswith(b"\x89PNG") for name in ("conflict.png", "landscape.png"))
    assert [row["iteration"] for row in logged(folder) if "outer" in row] == [0, 5, 10]


def test_a_run_is_analysed_into_its_folder(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = runs / "l2f/sinusoid-5s/seed0"
    code, out, _ = said(["analyse", str(folder), "--tasks", "30", "--factors", "3"], capsys)
    assert code == 0
    assert all((folder / name).read_bytes().startswith(b"\x89PNG") for name in ("conflict-by-task.png", "kept.png", "attenuated.png"))
    lines = [line.split() for line in out.splitlines() if line.startswith("net.")]
    assert [line[0] for line in lines] == [f"net.{k}.{kind}" for k in (0, 2, 4) for kind in ("weight", "bias")]
    learner, experiment = il.load(folder), experiments.catalogue()["l2f/sinusoid-5s"]
    waves = next(iter(experiment.build(experiment.settings).cases.values()))
    assert "CKA of each layer's output before and after preparation: 0 " in out
    assert "CKA of each layer's output before and after adaptation: 0 " in out
    assert float(lines[0][3]) == pytest.approx(float(kept(learner, waves, 30)["net.0.weight"].quantile(0.5)), abs=0.006)
    whole = float(il.evaluate(learner, waves, n_tasks=30).mean[-1])
    assert [float(line[-1]) for line in lines[::2]] == pytest.approx([whole] * 3, abs=0.006)


def test_a_learner_whose_parts_have_other_names_is_analysed_by_these(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = str(runs / "mumomaml/regression-2modes@multi-maml/seed0")
    code, _, err = said(["analyse", folder, "--tasks", "5", "--factors", "2"], capsys)
    assert code == 2
    assert "pattern 'net' matches no parameter" in err
    code, out, _ = said(["analyse", folder, "--tasks", "5", "--factors", "2", "--only", "mode"], capsys)
    assert (code, "mode.net.0.weight" in out) == (0, True)
    assert said(["analyse", folder, "--factors", "1"], capsys)[2] == "innerloop: factors is 1; give 2 or more, from 0 to 1\n"
    assert "no split 'tset'; did you mean test?" in said(["analyse", folder, "--split", "tset"], capsys)[2]


def test_watching_less_than_never_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", "maml/sinusoid", "--quick", "--watch", "-1", "--out", str(tmp_path)]) == 2
    assert "watch is -1; give the iterations between measurements, or 0 for none" in capsys.readouterr().err


def test_runs_are_compared_over_the_seeds_that_both_have(runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for place in ("a/seed0", "a/seed1", "b/seed0", "c/seed2"):
        shutil.copytree(runs / RUN, tmp_path / place)
    code, out, _ = said(["compare", str(tmp_path / "a"), str(tmp_path / "b")], capsys)
    assert code == 0
    assert out.count("| 0.00 ± 0.00 | +0.00 |") == 3, "one seed, in three cases"
    code, out, _ = said(["compare", str(tmp_path / "a"), str(tmp_path / "a")], capsys)
    assert (code, "+0.00, +0.00" in out) == (0, False), "what is compared with itself is the first"
    code, _, err = said(["compare", str(tmp_path / "a"), str(tmp_path / "b"), str(tmp_path / "c")], capsys)
    assert code == 2
    assert "c has no seed that" in err
    code, out, _ = said(["compare", *(str(tmp_path / run) for run in ("a/seed0", "a/seed1", "c/seed2"))], capsys)
    assert (code, out.count("| 0.00 ± 0.00 | +0.00 |")) == (0, 6), "runs by name are compared whatever their seeds"
    assert "seed2 and seed0, seed1; run the same ones" in err


def test_runs_that_were_watched_are_drawn_together(runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folders = []
    for name in ("l2f/sinusoid-5s", "l2f/sinusoid-5s@maml"):
        assert main(["run", name, "--quick", "--watch", "5", "--out", str(tmp_path), "--no-progress"]) == 0
        folders.append(str(tmp_path / name))
    code, out, _ = said(["compare", *folders, "--figures", str(tmp_path / "drawn")], capsys)
    assert code == 0
    assert f"less {folders[0]}" in out
    scored = {"curves.png", "fits-before.png", "fits-after.png"}
    assert {file.name for file in (tmp_path / "drawn").iterdir()} == {"conflict.png", "landscape.png", *scored}
    code, _, _ = said(["compare", folders[0], str(runs / "l2f/sinusoid-5s@maml"), "--figures", str(tmp_path / "less")], capsys)
    assert code == 0
    assert {file.name for file in (tmp_path / "less").iterdir()} == scored, "without what was not watched of both"


def test_an_oracle_of_modes_is_compared_and_drawn_with_the_others(runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folders = [str(runs / f"mumomaml/regression-3modes{at}") for at in ("", "@multi-maml", "@maml")]
    code, out, _ = said(["compare", *folders, "--figures", str(tmp_path)], capsys)
    assert code == 0
    assert "parabolas" in out
    assert {file.name for file in tmp_path.iterdir()} == {"curves.png", "fits-before.png", "fits-after.png"}


def test_an_experiment_about_what_is_measured_is_watched_by_itself() -> None:
    named = {name: e.watch for name, e in experiments.catalogue().items() if e.watch}
    assert named == dict.fromkeys(["l2f/conflict", "l2f/conflict@maml", "l2f/landscape", "l2f/landscape@maml"], 1_000)
