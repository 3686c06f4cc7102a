"""The experiments of reinforcement learning: all can be built, those of each kind run, and what they leave can be used."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from torch.nn.functional import linear

import innerloop as il
from innerloop import InputError, experiments
from innerloop.cli import main
from innerloop.engine import meta_gradient
from innerloop.experiments.experiment import Options
from innerloop.experiments.kept import prior_of, trial_of
from innerloop.experiments.practice import PolicyTrial, Practice, policy_of
from innerloop.rl import Navigation, trpo

POLICIES = {name: e for name, e in experiments.catalogue().items() if e.metric.name == "return"}
AT_HAND = [name for name, e in POLICIES.items() if not e.needs]
LIKE_OTHERS = [
    "navigation@release",
    "squared",
    "low-variance",
    "dice",
    "context",
    "again",
    "navigation@maml",
    "navigation@mumomaml",
    "families@maml",
]
"""Ends of the names of those that differ from others by a setting or a task, and are only built."""
RUN = [name for name in AT_HAND if not name.endswith(tuple(LIKE_OTHERS))]
ROBOTS = ["maml/cheetah-direction", "maml/ant-velocity@rllab", "l2f/locomotion-velocity@rllab", "maltml/continual-rl@rllab"]
NAVIGATION = "maml/navigation/seed0"


def test_all_experiments_that_the_papers_have_are_listed_with_their_numbers() -> None:
    assert len(AT_HAND) == 21
    cells = [f"{robot}-{goal}" for robot in ("cheetah", "ant") for goal in ("direction", "velocity")]
    wanted = {f"maml/{cell}@rllab" for cell in cells} | {f"maml/{cell}" for cell in cells}
    wanted |= {"maml/navigation", "l2f/navigation", "l2f/locomotion-direction@rllab", "mumomaml/navigation"}
    assert wanted | {"maltml/navigation-families", "maltml/continual-rl@rllab"} <= POLICIES.keys()
    assert vars(POLICIES["maml/navigation@release"].settings)["rate"] == 0.5
    assert (
        POLICIES["maml/navigation@release"].claims
        == POLICIES["maml/navigation"].claims
        == {"2D navigation": {0: -40.41, 1: -11.68, 2: -3.33, 3: -3.23}}
    )
    for name, experiment in POLICIES.items():
        assert not (experiment.claims and "v5" in str(experiment.settings)), f"{name}: returns of other dynamics are no claim"


@pytest.mark.parametrize("name", POLICIES)
def test_every_one_of_them_can_be_built(name: str) -> None:
    if POLICIES[name].needs:
        pytest.importorskip("mujoco", reason="MuJoCo is missing")
    trial = POLICIES[name].build(POLICIES[name].settings.quick())
    assert isinstance(trial, PolicyTrial)
    assert trial.learner.prior["net.log_sd"].shape[0] in ((6, 8) if POLICIES[name].needs else (2,))


UNADAPTED = ("@pretrained", "@oracle")


@pytest.mark.parametrize("name", [name for name in AT_HAND if not name.endswith(UNADAPTED)])
def test_second_derivatives_can_be_left_out_of_every_method(name: str) -> None:
    settings = replace(POLICIES[name].settings.quick(), rate=1.0)
    whole, less = (POLICIES[name].build(replace(settings, first_order=first_order)) for first_order in (False, True))
    tasks = whole.tasks.gather(whole.learner, whole.learner.prior, "train", 0, 2)
    a, b = (meta_gradient(trial.learner)(trial.learner.prior, tasks)[0] for trial in (whole, less))
    assert any(not torch.allclose(a[part], b[part], rtol=1e-3) for part in a)


@pytest.mark.parametrize("name", AT_HAND)
def test_promp_trains_every_method_but_families(name: str) -> None:
    settings = replace(POLICIES[name].settings.quick(), outer="promp")
    if "families" in name:
        with pytest.raises(InputError, match="promp, which is not of families; trpo or adam would do"):
            POLICIES[name].build(settings)
        return
    trial = POLICIES[name].build(settings)
    tasks = trial.tasks.gather(trial.learner, trial.learner.prior, "train", 0, 2)
    assert meta_gradient(trial.learner)(trial.learner.prior, tasks)[1].isfinite()


@pytest.mark.parametrize(("nonlinearity", "between"), [("relu", torch.relu), ("tanh", torch.tanh)])
def test_policies_have_the_nonlinearity_that_is_asked_for(nonlinearity: Any, between: Callable[[Tensor], Tensor]) -> None:
    policy = policy_of(Practice(hidden=(3,), nonlinearity=nonlinearity), Navigation())
    p, seen = dict(policy.named_parameters()), torch.randn(5, 2, generator=torch.Generator().manual_seed(0))
    wanted = linear(between(linear(seen, p["mean.0.weight"], p["mean.0.bias"])), p["mean.2.weight"], p["mean.2.bias"])
    torch.testing.assert_close(policy(seen).mean, wanted, rtol=0, atol=0)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Policies, run with --quick."""
    out = tmp_path_factory.mktemp("runs")
    for name in RUN:
        assert main(["run", name, "--quick", "--out", str(out), "--no-progress"]) == 0
    return out


def check(folder: Path, name: str) -> None:
    experiment, [line] = POLICIES[name], (folder / "result.json").read_text().splitlines()
    row = json.loads(line)
    assert (row["experiment"], row["quick"], row["metric"]) == (name, True, "return")
    points = 1 if "oracle" in name else experiment.settings.test_steps + 1
    assert {len(case["mean"]) for case in row["cases"].values()} == {points}
    assert all(value is not None for case in row["cases"].values() for value in case["mean"])
    assert {"scores.safetensors", "prior.safetensors", "curves.png"} <= {p.name for p in folder.iterdir()}


def test_every_experiment_on_the_plane_runs_and_draws_its_walks(runs: Path) -> None:
    for name in RUN:
        folder = runs / name / "seed0"
        check(folder, name)
        assert (folder / "walks.png").exists()
        assert (folder / "practice.png").exists() == (name != "maml/navigation@random")
    assert (runs / "mumomaml/navigation/seed0/modes.png").exists()
    tuned = json.loads((runs / "maml/navigation@random/seed0/result.json").read_text())["cases"]["2D navigation"]
    assert tuned["rate"] == float(max(tuned["tried"], key=lambda rate: tuned["tried"][rate]))
    assert len(json.loads((runs / "l2f/navigation/seed0/result.json").read_text())["cases"]) == 4


@pytest.mark.parametrize("name", ROBOTS)
def test_robots_run(name: str, tmp_path: Path) -> None:
    pytest.importorskip("mujoco", reason="MuJoCo is missing")
    assert main(["run", name, "--quick", "--out", str(tmp_path), "--no-progress"]) == 0
    check(tmp_path / name / "seed0", name)
    row = json.loads((tmp_path / name / "seed0" / "result.json").read_text())
    assert row["versions"].keys() >= {"gymnasium", "mujoco"}


def test_a_run_is_scored_again_loaded_and_compared(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["evaluate", str(runs / NAVIGATION), "--steps", "2", "--tasks", "3"]) == 0
    assert "3 tasks" in capsys.readouterr().out
    learner = il.load(runs / NAVIGATION)
    assert len(learner.steps) == 3
    trial, _ = trial_of(runs / NAVIGATION)
    assert torch.equal(learner.prior["net.log_sd"], prior_of(runs / NAVIGATION, trial)["net.log_sd"])
    assert main(["compare", str(runs / NAVIGATION), str(runs / "maml/navigation@first-order/seed0")]) == 0
    assert "4 tasks" in capsys.readouterr().out
    assert main(["compare", str(runs / NAVIGATION), str(runs / "mumomaml/navigation/seed0")]) == 2


def test_products_of_the_curvature_are_as_rough_as_asked_for(runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    asked = ["run", "maml/navigation", "--quick", "--no-progress", "--precision", "bfloat16", "--out", str(tmp_path)]
    assert main(asked) == 0
    exact, rough = (load_file(out / "maml/navigation/seed0" / "prior.safetensors") for out in (runs, tmp_path))
    assert any(not torch.equal(exact[name], p) for name, p in rough.items())
    assert main([*asked, "--overwrite", "--outer", "adam"]) == 2
    assert "precision is of outer trpo, and outer is adam; leave it out" in capsys.readouterr().err


OPTIONS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "trace": ({}, {"trace": 0.9}),
    "bootstrap": ({}, {"bootstrap": True}),
    "normalised": ({}, {"normalised": False}),
    "credit": ({"normalised": False}, {"credit": True}),
    "dice_weight": ({"estimator": "dice"}, {"dice_weight": 0.0}),
    "ratio_bound": ({"outer": "promp", "rate": 1.0}, {"ratio_bound": 0.01}),
    "inner_kl": ({"outer": "promp", "rate": 1.0}, {"inner_kl": 10.0}),
}
"""What each option is tried on, and a value that must matter there."""


@pytest.mark.parametrize("name", OPTIONS)
def test_an_option_of_estimators_and_returns_changes_what_is_learned(name: str) -> None:
    base, change = OPTIONS[name]
    small = replace(POLICIES["maml/navigation"].settings.quick(), **base)
    without, given = (POLICIES["maml/navigation"].build(replace(small, **more)) for more in ({}, change))

    def gradient(trial: Any) -> Any:
        # away from the prior that acted, where ratios are not 1
        learner = trial.learner
        met = trial.tasks.gather(learner, learner.prior, "train", 0, 2)
        return meta_gradient(learner)({part: 1.1 * p for part, p in learner.prior.items()}, met)[0]

    a, b = gradient(without), gradient(given)
    assert any(not torch.allclose(a[part], b[part], rtol=1e-4) for part in a)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"dice_weight": 0.5}, "dice_weight is of estimator dice, and estimator is score; leave it out"),
        ({"outer_rate": 0.01}, "outer_rate is of outer adam or promp, and outer is trpo"),
        ({"inner_kl": 0.1, "outer": "adam"}, "inner_kl is of outer promp, and outer is adam"),
    ],
)
def test_an_option_that_would_change_nothing_is_refused(given: dict[str, Any], message: str, tmp_path: Path) -> None:
    settings = replace(POLICIES["maml/navigation"].settings.quick(), **given)
    with pytest.raises(InputError, match=message):
        experiments.run(POLICIES["maml/navigation"], settings, Options(out=tmp_path, progress=False))


def test_e_maml_trains_and_families_refuse_it() -> None:
    settings = replace(POLICIES["maml/navigation"].settings.quick(), credit=True, normalised=False)
    trial = POLICIES["maml/navigation"].build(settings)
    met = trial.tasks.gather(trial.learner, trial.learner.prior, "train", 0, 2)
    there, did = trpo(trial.learner, limit=0.01)(trial.learner.prior, met)
    assert did.moved > 0
    assert there.keys() == trial.learner.prior.keys()
    with pytest.raises(InputError, match="E-MAML's term, is not of families"):
        POLICIES["maltml/navigation-families"].build(replace(POLICIES["maltml/navigation-families"].settings.quick(), credit=True))


def test_families_are_scored_again_by_as_many_meta_steps_and_as_many_steps(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = runs / "maltml/navigation-families/seed0"
    [case] = json.loads((folder / "result.json").read_text())["cases"].values()
    assert len(il.load(folder).steps) == 1
    assert main(["evaluate", str(folder), "--steps", "3", "--tasks", "4"]) == 0
    rows = [line.split() for line in capsys.readouterr().out.splitlines()]
    means = [float(row[1]) for row in rows if row and row[0].isdigit() and len(row) > 3]
    assert means == pytest.approx(case["mean"], abs=1e-3)


def test_the_oracle_of_families_is_asked_of_the_same_goals_as_the_others(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ours, oracle = (runs / f"maltml/navigation-families{at}/seed0" for at in ("", "@oracle"))
    assert main(["compare", str(ours), str(oracle)]) == 0
    table = capsys.readouterr().out
    assert "(4 tasks)" in table
    assert "rectangles" in table


def test_what_cannot_be_done_with_a_policy_is_said(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for arguments, message in (
        (["run", "maml/navigation", "--quick", "--reward", "square"], "reward"),
        (["run", "maml/navigation", "--quick", "--out", str(runs)], "holds a run already"),
        (["analyse", str(runs / NAVIGATION)], "policies"),
        (["run", "maml/navigation", "--quick", "--video"], "no robot"),
        (["run", "maml/navigation", "--quick", "--out", str(runs / "new"), "--watch", "5"], "leave them out"),
    ):
        with_exit = 0
        try:
            with_exit = main(arguments)
        except SystemExit as stop:
            with_exit = int(str(stop.code))
        assert with_exit == 2
        captured = capsys.readouterr()
        assert message in captured.err + captured.out


def test_a_gallery_films_robots_alone(runs: Path) -> None:
    from innerloop import gallery

    with pytest.raises(InputError, match="only robots"):
        gallery.film(runs / NAVIGATION)
