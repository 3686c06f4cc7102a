"""The outer loop: what it computes, keeps, resumes and refuses."""

import json
import math
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import smooth_net
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.optim.lr_scheduler import LinearLR, MultiStepLR, SequentialLR
from torch.utils._python_dispatch import TorchDispatchMode

import innerloop as il
from innerloop import Diverged, InputError, Learner, Sinusoids, Task, experiments
from innerloop.batches import one
from innerloop.engine import meta_gradient
from innerloop.losses import model
from innerloop.train import train

SOURCE = Sinusoids()

GOLDEN = [4.53723, 2.54943, 4.8146, 3.11262, 3.99548]


ONE_PLAN: dict[str, Any] = {"engine": "vmap", "progress": False}
"""For runs that must agree to the bit: auto measures, and may choose another plan the next time."""


def learner(hidden: int = 8, steps: int = 1, rate: float = 0.01) -> Learner:
    net = il.mlp(1, hidden, 1, generator=torch.Generator().manual_seed(0))
    return il.maml(net, il.mse(net), steps, rate)


def same(a: il.learner.Params, b: il.learner.Params) -> None:
    torch.testing.assert_close(a, b, rtol=0, atol=0)


def test_an_iteration_is_the_meta_gradient_and_one_adam_step() -> None:
    start = learner()
    params = {name: p.clone().requires_grad_() for name, p in start.prior.items()}
    outer = torch.optim.Adam(params.values(), 1e-3)
    for n in range(3):
        gradient, _ = meta_gradient(start)({k: p.detach() for k, p in params.items()}, SOURCE.draw("train", 25 * n, 25))
        for name, p in params.items():
            p.grad = gradient[name]
        outer.step()
    trained = il.train(start, SOURCE, 3, progress=False)
    torch.testing.assert_close(trained.prior, {name: p.detach() for name, p in params.items()}, rtol=1e-6, atol=1e-8)
    assert trained.steps == start.steps
    same(start.prior, learner().prior)


def test_the_first_losses_of_the_experiment_are_what_they_were() -> None:
    """Golden numbers: a change that moves them moves results, and says so in CHANGELOG."""
    [experiment] = experiments.find("maml/sinusoid")
    trial = experiment.build(experiment.settings)
    losses: list[float] = []
    il.train(
        trial.learner, trial.tasks, 5, log_every=1, progress=False, log=lambda row: losses.append(row["loss"]) if "loss" in row else None
    )
    assert losses == pytest.approx(GOLDEN, rel=1e-4)


def test_any_torch_optimiser_steps_outside() -> None:
    start = learner()
    gradient, _ = meta_gradient(start)(start.prior, SOURCE.draw("train", 0, 25))
    trained = il.train(start, SOURCE, 1, optimizer=lambda params: torch.optim.SGD(params, 0.5), progress=False)
    torch.testing.assert_close(trained.prior, {name: p - 0.5 * gradient[name] for name, p in start.prior.items()})


def by_hand(iterations: int, outer_of: Callable[[list[torch.Tensor]], Any], who: Callable[[int], Learner]) -> il.learner.Params:
    """The outer loop in five lines; ``outer_of`` gives what steps, ``who`` the learner of an iteration."""
    params = {name: p.clone().requires_grad_() for name, p in learner().prior.items()}
    steps = outer_of(list(params.values()))
    for n in range(iterations):
        gradient, _ = meta_gradient(who(n))({k: p.detach() for k, p in params.items()}, SOURCE.draw("train", 25 * n, 25))
        for name, p in params.items():
            p.grad = gradient[name]
        for step in steps:
            step()
    return {name: p.detach() for name, p in params.items()}


def test_a_schedule_moves_the_outer_rate() -> None:
    def outer_of(params: list[torch.Tensor]) -> list[Any]:
        sgd = torch.optim.SGD(params, 0.5)

        def scaled() -> None:
            sgd.param_groups[0]["lr"] = 0.1 + (0.5 - 0.1) * (1 + math.cos(math.pi * next(count) / 4)) / 2

        count = iter(range(10))
        return [scaled, sgd.step]

    sgd = lambda params: torch.optim.SGD(params, 0.5)
    trained = il.train(learner(), SOURCE, 4, optimizer=sgd, schedule=il.cosine(4, least=0.1), progress=False)
    torch.testing.assert_close(trained.prior, by_hand(4, outer_of, lambda n: learner()), rtol=1e-5, atol=1e-7)


def test_a_rate_that_fell_along_a_cosine_stays_where_it_ends() -> None:
    outer = torch.optim.SGD([torch.zeros(1)], 0.5)
    falling, rates = il.cosine(3, least=0.1)(outer), []
    for _ in range(8):
        outer.step()
        falling.step()
        rates.append(outer.param_groups[0]["lr"])
    assert rates == pytest.approx([0.4, 0.2] + 6 * [0.1])


def test_each_element_of_the_meta_gradient_is_clipped() -> None:
    def outer_of(params: list[torch.Tensor]) -> list[Any]:
        outer = torch.optim.Adam(params, 1e-2)
        return [lambda: torch.nn.utils.clip_grad_value_(params, 0.05), outer.step]

    clipped, free = (il.train(learner(), SOURCE, 3, optimizer=il.adam(1e-2, clip), progress=False) for clip in (0.05, None))
    torch.testing.assert_close(clipped.prior, by_hand(3, outer_of, lambda n: learner()), rtol=1e-5, atol=1e-7)
    assert max((clipped.prior[name] - p).abs().max() for name, p in free.prior.items()) > 1e-3


@pytest.mark.parametrize(
    ("made", "message"),
    [
        (lambda: il.adam(0.0), "rate is 0.0; it must be above 0"),
        (lambda: il.adam(1e-3, clip=-1.0), "clip is -1.0; it must be above 0"),
        (lambda: il.cosine(0), "iterations is 0; it must be above 0"),
        (lambda: il.cosine(5, least=-1.0), "least is -1.0; a rate must be 0 or more"),
    ],
)
def test_outer_settings_that_cannot_be_used_are_refused(made: Callable[[], Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        made()


def in_phases() -> dict[int, Learner]:
    net = il.mlp(1, 8, 1, generator=torch.Generator().manual_seed(0))
    return {3: il.fomaml(net, il.mse(net), 2, 0.1), 7: replace(il.maml(net, il.mse(net), 2, 0.1), weights=(0.5, 0.5))}


def test_a_phase_trains_by_another_learner_from_its_iteration_on() -> None:
    phases, rows = in_phases(), []
    trained = il.train(learner(), SOURCE, 9, phases=phases, log_every=1, validation_tasks=5, progress=False, log=rows.append)
    who = lambda n: learner() if n < 3 else phases[3] if n < 7 else phases[7]
    expected = by_hand(9, lambda params: [torch.optim.Adam(params, 1e-3).step], who)
    torch.testing.assert_close(trained.prior, expected, rtol=1e-5, atol=1e-7)
    assert [row["iteration"] for row in rows if "engine" in row] == [0, 3, 7]
    assert all(row["measured"] for row in rows if "engine" in row), "the engine is chosen anew"
    assert (trained.steps[1:], trained.weights) == ((), (1.0,)), "what is given back is the learner"
    [val] = [row["val"] for row in rows if "val" in row]
    assert val == pytest.approx(il.meta_loss(trained)(trained.prior, SOURCE.draw("val", 0, 5)).item())


def test_a_learner_may_be_trained_by_another_method_altogether() -> None:
    start = learner(steps=3, rate=0.1)
    net = il.mlp(1, 8, 1)
    trained = il.train(
        start, SOURCE, 1, meta_batch=1, phases={0: il.reptile(net, il.mse(net), 3, 0.1)}, optimizer=lambda p: torch.optim.SGD(p, 1.0),
        progress=False,
    )  # fmt: skip
    torch.testing.assert_close(trained.prior, start.adapt(start.prior, one(SOURCE.draw("train", 0, 1), 0).support)[-1])
    assert trained.loss is start.loss


@pytest.mark.parametrize("stop", [2, 3, 5, 7, 8])
def test_a_run_of_phases_goes_on_bit_for_bit(stop: int, tmp_path: Path) -> None:
    """Inside of a phase and where one begins, with a schedule that keeps to its milestones."""
    how: dict[str, Any] = {"phases": in_phases(), "engine": "vmap", "log_every": 2, "checkpoint_every": 100, "progress": False}
    for name, schedule in {"cosine": il.cosine(12), "steps": lambda outer: MultiStepLR(outer, [4, 8], 0.1)}.items():
        folder = tmp_path / name
        straight = il.train(learner(), SOURCE, 10, schedule=schedule, **how)
        il.train(learner(), SOURCE, stop, schedule=schedule, out=folder, **how)
        resumed = il.train(learner(), SOURCE, 10, schedule=schedule, out=folder, resume=True, **how)
        same(resumed.prior, straight.prior)
    unscheduled = il.train(learner(), SOURCE, 10, **how)
    assert not torch.equal(unscheduled.prior["net.0.weight"], straight.prior["net.0.weight"])  # pyright: ignore[reportPossiblyUnboundVariable]


def test_a_continued_run_keeps_the_plan_of_its_phase_and_chooses_the_next_one(tmp_path: Path) -> None:
    il.train(learner(), SOURCE, 5, phases=in_phases(), engine="loop", out=tmp_path, progress=False)
    rows: list[dict] = []
    il.train(learner(), SOURCE, 10, phases=in_phases(), out=tmp_path, resume=True, progress=False, log=rows.append)
    first, second = (row for row in rows if "engine" in row)
    assert (first["iteration"], first["engine"], first["measured"]) == (5, "loop", {})
    assert second["iteration"] == 7
    assert second["measured"]
    rows.clear()
    il.train(learner(), SOURCE, 7, phases=in_phases(), engine="loop", out=tmp_path / "7", progress=False)
    il.train(learner(), SOURCE, 8, phases=in_phases(), out=tmp_path / "7", resume=True, progress=False, log=rows.append)
    assert rows[0]["measured"], "where a phase begins, the plan of the one before says nothing"


def test_phases_share_one_prior() -> None:
    net = il.mlp(1, 9, 1)
    with pytest.raises(
        InputError, match=r"the phase from iteration 3 on has another prior: net.0.bias is \[9\] there and \[8\] in the learner"
    ):
        il.train(learner(), SOURCE, 5, phases={3: il.maml(net, il.mse(net))}, progress=False)
    net = il.mlp(1, 8, 1)
    with pytest.raises(InputError, match=r"rate.net.0.bias is \[5\] there and missing in the learner"):
        il.train(learner(), SOURCE, 5, phases={3: il.per_step_rates(net, il.mse(net))}, progress=False)
    with pytest.raises(InputError, match="a phase begins at iteration -1; the first iteration is 0"):
        il.train(learner(), SOURCE, 5, phases={-1: learner()}, progress=False)


def test_maml_plus_plus_trains_through_its_phases() -> None:
    net = smooth_net(dtype=torch.float32)
    net.insert(1, nn.BatchNorm1d(4, track_running_stats=False))
    how: dict[str, Any] = {"steps": 2, "rate": 0.05}
    start = il.maml_plus_plus(net, il.mse(net), **how)
    phases = il.maml_plus_plus_phases(net, il.mse(net), **how, iterations=200, first_order=0.25, multi_step=0.5, levels=2)
    assert list(phases) == [0, 50, 100]
    trained = il.train(start, SOURCE, 200, phases=phases, schedule=il.cosine(200, 1e-5), outer_rate=1e-2, progress=False)
    before, after = (il.evaluate(x, SOURCE, n_tasks=100).mean for x in (start, trained))
    assert after[2] < 0.9 * before[2]
    assert (trained.prior["norm.net.1.weight"][0] - trained.prior["norm.net.1.weight"][1]).abs().max() > 1e-3
    assert after.shape == (3,)


def test_training_lowers_the_loss_after_adaptation() -> None:
    rows: list[dict] = []
    net = smooth_net(dtype=torch.float32)
    start = il.maml(net, il.mse(net))
    trained = il.train(start, SOURCE, 300, outer_rate=1e-2, progress=False, log=rows.append)
    before, after = (il.evaluate(x, SOURCE, n_tasks=100).mean[1] for x in (start, trained))
    assert after < 0.75 * before
    assert [row["iteration"] for row in rows if "loss" in row] == [100, 200, 300]
    assert rows[0]["engine"] == "vmap"
    [val] = [row["val"] for row in rows if "val" in row]
    assert val == pytest.approx(il.meta_loss(trained)(trained.prior, SOURCE.draw("val", 0, 100)).item())


def test_a_line_of_metrics_is_the_mean_loss_since_the_last(tmp_path: Path) -> None:
    each = tmp_path / "each"
    il.train(learner(), SOURCE, 6, log_every=1, out=each, progress=False)
    il.train(learner(), SOURCE, 6, log_every=3, out=tmp_path / "three", progress=False)
    losses, means = (
        [row["loss"] for row in map(json.loads, (folder / "metrics.jsonl").read_text().splitlines()) if "loss" in row]
        for folder in (each, tmp_path / "three")
    )
    assert means == pytest.approx([sum(losses[:3]) / 3, sum(losses[3:]) / 3])


KILLED = """
import os, signal, sys, torch
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from test_train import ONE_PLAN, SOURCE, learner
import innerloop as il
def kill(row):
    if row["iteration"] == 64:  # the last checkpoint is of 60
        os.kill(os.getpid(), signal.SIGKILL)
torch.manual_seed(0)
il.train(learner(), SOURCE, 100, out=sys.argv[1], checkpoint_every=20, log_every=8, log=kill, **ONE_PLAN)
"""


def test_a_killed_run_goes_on_bit_for_bit(tmp_path: Path) -> None:
    how = {"checkpoint_every": 20, "log_every": 8, **ONE_PLAN}
    torch.manual_seed(0)
    straight = il.train(learner(), SOURCE, 100, out=tmp_path / "straight", **how)
    done = subprocess.run([sys.executable, "-c", KILLED, tmp_path / "killed", Path(__file__).parent], check=False)
    assert done.returncode == -signal.SIGKILL
    assert il.checkpoint.read(tmp_path / "killed" / "checkpoint.safetensors")[1]["iteration"] == 60
    with (tmp_path / "killed" / "metrics.jsonl").open("a") as file:
        file.write('{"iteration": 6')  # a kill may come in the middle of a line
    resumed = il.train(learner(), SOURCE, 100, out=tmp_path / "killed", resume=True, **how)
    same(resumed.prior, straight.prior)
    same(load_file(tmp_path / "killed" / "checkpoint.safetensors"), load_file(tmp_path / "straight" / "checkpoint.safetensors"))
    lines = [
        [
            {k: v for k, v in json.loads(line).items() if k in ("iteration", "loss", "val")}
            for line in text.splitlines()
            if "engine" not in line
        ]
        for text in ((tmp_path / name / "metrics.jsonl").read_text() for name in ("killed", "straight"))
    ]
    assert lines[0] == lines[1]


def test_a_run_may_be_made_longer(tmp_path: Path) -> None:
    il.train(learner(), SOURCE, 10, out=tmp_path, **ONE_PLAN)
    longer = il.train(learner(), SOURCE, 30, out=tmp_path, resume=True, **ONE_PLAN)
    same(longer.prior, il.train(learner(), SOURCE, 30, **ONE_PLAN).prior)
    same(il.train(learner(), SOURCE, 30, out=tmp_path, resume=True, **ONE_PLAN).prior, longer.prior)


def test_resuming_restores_the_random_state(tmp_path: Path) -> None:
    net = nn.Sequential(nn.Linear(1, 8), nn.Dropout(0.5), nn.Linear(8, 1))
    start = il.pretrained(net, il.mse(net))
    torch.manual_seed(0)
    straight = il.train(start, SOURCE, 20, checkpoint_every=5, out=tmp_path / "a", **ONE_PLAN)
    torch.manual_seed(0)
    il.train(start, SOURCE, 10, checkpoint_every=5, out=tmp_path / "b", **ONE_PLAN)
    torch.manual_seed(99)
    same(
        il.train(start, SOURCE, 20, checkpoint_every=5, validation_tasks=0, out=tmp_path / "b", resume=True, **ONE_PLAN).prior,
        straight.prior,
    )


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_saves_and_ends_the_run(number: signal.Signals, code: int, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "innerloop", "run", "maml/sinusoid", "--out", str(tmp_path), "--engine", "vmap"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        metrics = tmp_path / "maml/sinusoid/seed0/metrics.jsonl"
        for _ in range(600):
            if metrics.exists() and metrics.read_text().count("loss"):
                break
            time.sleep(0.1)
        os.kill(process.pid, number)
        _, said = process.communicate(timeout=60)
    assert process.returncode == code
    assert "Traceback" not in said
    assert "stopped after iteration" in said.splitlines()[-1]
    kept = il.checkpoint.read(metrics.with_name("checkpoint.safetensors"))[1]["iteration"]
    assert f"stopped after iteration {kept} of 70000" in said


def test_a_loss_that_is_no_number_stops_the_run_and_leaves_the_checkpoint(tmp_path: Path) -> None:
    def late(generator: torch.Generator) -> Task:
        x = torch.rand(4, 1, generator=generator)
        return Task((x, x), (x, x * calls["scale"]))

    calls = {"scale": 1.0}
    start = learner()

    def explode(row: dict) -> None:
        if "val" in row:
            calls["scale"] = 1e30  # the checkpoint of iteration 5 follows, and then the tasks that break it

    with pytest.raises(
        Diverged, match=r"iteration 5: task 125 of 'train' has a NaN or infinite loss after step 1; lower the inner or the outer"
    ):
        il.train(start, il.from_function(late), 10, checkpoint_every=5, out=tmp_path, progress=False, log=explode)
    assert il.checkpoint.read(tmp_path / "checkpoint.safetensors")[1]["iteration"] == 5


def test_the_step_that_diverged_is_named() -> None:
    with pytest.raises(Diverged, match=r"iteration 0: task 0 of 'train' has NaN or infinite parameters after step 2; lower the inner rate"):
        il.train(learner(steps=3, rate=1e30), SOURCE, 1, progress=False)


class Broken:
    """Sinusoids with one NaN in the query of task 30."""

    seed = 0

    def draw(self, split: str, first: int, count: int) -> Task:
        task = il.batches.map_tensors(torch.clone, SOURCE.draw(split, first, count))
        if first <= 30 < first + count:
            task.query[1][30 - first, 2] = torch.nan
        return task


def test_nan_in_the_data_is_told_from_divergence() -> None:
    with pytest.raises(InputError, match=r"iteration 1: task 30 of 'train' holds NaN or infinity in its query"):
        il.train(learner(), Broken(), 3, progress=False)


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ({"meta_batch": 0}, "meta_batch is 0; it must be above 0"),
        ({"outer_rate": -1.0}, "outer_rate is -1.0; it must be above 0"),
        ({"iterations": -1}, "iterations is -1"),
        ({"engine": "vmpa"}, "no engine 'vmpa'; did you mean vmap?"),
        ({"chunk": 0}, "chunk is 0; give the number of tasks"),
        ({"resume": True}, "resume and track need the folder"),
    ],
)
def test_settings_that_cannot_be_used_are_refused(how: dict, message: str) -> None:
    with pytest.raises(InputError, match=message.replace("?", r"\?")):
        il.train(learner(), SOURCE, **({"iterations": 1, "progress": False} | how))


def test_shapes_and_kinds_of_numbers_are_checked_before_the_first_iteration() -> None:
    def source(**shapes: torch.Tensor) -> il.tasks.Source:
        x, y = shapes.get("x", torch.ones(5, 1)), shapes.get("y", torch.ones(5, 1))
        return il.from_function(lambda g: Task((x, y), (x, y)))

    for wrong, message in [
        (source(x=torch.ones(5, 2)), r"does not take x of shape \[5, 2\]"),
        (source(y=torch.ones(5)), r"gives \[5, 1\] but y is \[5\]; they must agree"),
        (source(x=torch.ones(5, 1).double()), "x is float64 but the network is float32; convert one"),
        (source(y=torch.ones(5, 1).double()), "gives torch.float32 but y is torch.float64; convert y"),
    ]:
        with pytest.raises(InputError, match=message):
            il.train(learner(), wrong, 1, progress=False)
    conv = nn.Conv2d(1, 1, 3)
    with pytest.raises(InputError, match=r"the loss of a task with tensors of shapes \[5, 1\], .* cannot be computed: .*see that they fit"):
        il.train(il.maml(conv, il.mse(conv)), source(), 1, progress=False)
    other, points = il.mlp(1, 3, 1), lambda params, batch: (model(il.mlp(1, 8, 1))(params, batch[0]) - batch[1]).square()
    for wrong, message in [
        (il.maml(other, il.mse(nn.Linear(1, 1))), r"cannot be computed: Error\(s\) in .*Linear: .*key\(s\).*see that they fit"),
        (replace(learner(), loss=points, steps=()), r"the loss of one task must be a scalar, not of shape \[5, 1\]; reduce it to its mean"),
        (replace(learner(), steps=(lambda params, batch: None,)), "cannot be computed: 'NoneType' object has no attribute"),
        (il.maltml(learner()), "cannot be computed: 'tuple' object has no attribute 'support'"),
    ]:
        with pytest.raises(InputError, match=message):
            il.train(wrong, source(), 1, progress=False)
    with pytest.raises(InputError, match="tasks is a function and no source; make one of a function with innerloop"):
        il.train(learner(), lambda g: None, 1, progress=False)  # type: ignore[arg-type]
    for setting in ("iterations", "meta_batch", "validation_tasks"):
        with pytest.raises(InputError, match=f"{setting} is 2.5; it must be a whole number from 0 on"):
            il.train(learner(), source(), **{"iterations": 1, setting: 2.5}, progress=False)
    with pytest.raises(InputError, match=r"a batch must be a pair \(x, y\), not Tensor of shape \[5, 1\]"):
        il.train(learner(), il.from_function(lambda g: Task(torch.ones(5, 1), torch.ones(5, 1))), 1, progress=False)


def test_checkpoints_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    il.train(learner(), SOURCE, 4, out=tmp_path, progress=False)
    with pytest.raises(InputError, match=r"is of another network: net.0.weight is \[8, 1\] there but \[9, 1\] in the learner"):
        il.train(learner(9), SOURCE, 8, out=tmp_path, resume=True, progress=False)
    net = il.mlp(1, 8, 8, 1)
    with pytest.raises(InputError, match=r"is of another learner: the file has no net.4.bias"):
        il.train(il.maml(net, il.mse(net)), SOURCE, 8, out=tmp_path, resume=True, progress=False)
    path = tmp_path / "checkpoint.safetensors"
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(InputError, match="is truncated or no safetensors file"):
        il.train(learner(), SOURCE, 8, out=tmp_path, resume=True, progress=False)
    with pytest.raises(InputError, match="there is no run to resume in"):
        il.train(learner(), SOURCE, 8, out=tmp_path / "none", resume=True, progress=False)


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ({"outer_rate": 0.5}, "was made with outer_rate 0.001, not 0.5; go on with the same"),
        ({"meta_batch": 5}, "was made with meta_batch 25, not 5"),
        ({"optimizer": lambda params: torch.optim.SGD(params, 0.1)}, "was made with optimizer Adam, not SGD"),
        ({"optimizer": il.adam(0.5)}, "was made with outer_rate 0.001, not 0.5"),
        ({"learner": learner(steps=2)}, "was made with steps 1, not 2"),
        ({"learner": replace(learner(), prepared=1)}, "was made with prepared 0, not 1"),
        ({"learner": replace(learner(), weights=(0.5, 0.5))}, r"was made with weights \[1.0\], not \[0.5, 0.5\]"),
        ({"phases": {0: learner(steps=2)}}, r"was made with steps by phase \[1\], not \[2\]"),
        ({"schedule": il.cosine(10)}, "was made with schedule none, not CosineAnnealingLR"),
        ({"phases": {6: learner()}}, r"was made with phases \[0\], not \[0, 6\]"),
        ({"tasks": Sinusoids(seed=1)}, "was made with tasks Sinusoids"),
        ({"learner": learner(rate=0.02)}, r"has a loss of \d\.\d+ on its first task, and with this learner \d\.\d+; go on with the same"),
        ({"learner": replace(learner(), loss=lambda params, batch: 2 * learner().loss(params, batch))}, "on its first task, and with this"),
        ({"phases": {0: learner(rate=0.02)}}, "on its first task, and with this learner"),
        ({"iterations": 2}, "has taken 4 iterations already; ask for 4 or more"),
    ],
)
def test_a_run_goes_on_only_as_it_began(how: dict, message: str, tmp_path: Path) -> None:
    il.train(learner(), SOURCE, 4, out=tmp_path, progress=False)
    with pytest.raises(InputError, match=message):
        il.train(**({"learner": learner(), "tasks": SOURCE, "iterations": 8, "out": tmp_path, "resume": True, "progress": False} | how))


def test_a_run_goes_on_with_a_source_that_does_not_give_its_tasks_again(tmp_path: Path) -> None:
    tasks = il.from_function(lambda g: Task((torch.rand(5, 1), torch.rand(5, 1)), (torch.rand(5, 1), torch.rand(5, 1))))
    for iterations in (2, 4):
        il.train(learner(), tasks, iterations, out=tmp_path, resume=iterations > 2, **ONE_PLAN)


def test_what_a_checkpoint_does_not_tell_is_taken_to_be_the_same(tmp_path: Path) -> None:
    il.train(learner(), SOURCE, 4, out=tmp_path, optimizer=il.adam(0.01), **ONE_PLAN)
    path = tmp_path / "checkpoint.safetensors"
    kept, about = il.checkpoint.read(path)
    told = {name: value for name, value in about["same"].items() if name in ("tasks", "meta_batch", "precision", "optimizer")}
    il.checkpoint.save(path, kept, {**about, "same": told})
    resumed = il.train(learner(), SOURCE, 8, out=tmp_path, resume=True, optimizer=il.adam(0.01), **ONE_PLAN)
    same(resumed.prior, il.train(learner(), SOURCE, 8, optimizer=il.adam(0.01), **ONE_PLAN).prior)


def warmed(outer: torch.optim.Optimizer) -> SequentialLR:
    return SequentialLR(outer, [LinearLR(outer, 0.1, total_iters=2), MultiStepLR(outer, [1, 1, 3], 0.3)], [2])


def by_tensor(params: list[torch.Tensor]) -> torch.optim.Optimizer:
    return torch.optim.Adam(params, torch.tensor(1e-2))


@pytest.mark.filterwarnings("ignore:The epoch parameter")  # of SequentialLR itself
@pytest.mark.parametrize("how", [{"schedule": warmed}, {"optimizer": by_tensor}, {"optimizer": by_tensor, "schedule": il.cosine(6)}])
def test_optimisers_and_schedules_go_on_whatever_their_state_is(how: dict, tmp_path: Path) -> None:
    il.train(learner(), SOURCE, 3, out=tmp_path, **how, **ONE_PLAN)
    same(
        il.train(learner(), SOURCE, 6, out=tmp_path, resume=True, **how, **ONE_PLAN).prior,
        il.train(learner(), SOURCE, 6, **how, **ONE_PLAN).prior,
    )


def test_a_schedule_that_no_checkpoint_can_keep_is_refused_at_the_start(tmp_path: Path) -> None:
    def odd(outer: torch.optim.Optimizer) -> MultiStepLR:
        made = MultiStepLR(outer, [3])
        made.inner = made  # type: ignore[attr-defined]
        return made

    with pytest.raises(InputError, match=r"schedule\.inner is of the kind MultiStepLR, which checkpoints cannot keep"):
        il.train(learner(), SOURCE, 3, out=tmp_path, schedule=odd, **ONE_PLAN)


def test_a_run_can_be_resumed_from_its_first_moment(tmp_path: Path) -> None:
    class Stop(Exception):
        pass

    def stop(row: dict) -> None:
        if "loss" in row:
            raise Stop

    with pytest.raises(Stop):
        il.train(learner(), SOURCE, 9, log_every=1, out=tmp_path, log=stop, **ONE_PLAN)
    same(
        il.train(learner(), SOURCE, 9, out=tmp_path, resume=True, **ONE_PLAN).prior,
        il.train(learner(), SOURCE, 9, **ONE_PLAN).prior,
    )


def test_a_file_that_cannot_be_finished_leaves_the_old_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "file"
    il.checkpoint.write_whole(path, "old")

    def fail(descriptor: int) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="disk full"):
        il.checkpoint.write_whole(path, "new")
    assert path.read_text() == "old"


def test_events_for_tensorboard(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard", reason="the extra 'track' is not installed")
    il.train(learner(), SOURCE, 4, out=tmp_path, track=True, log_every=2, progress=False)
    [events] = tmp_path.glob("events.out.tfevents.*")
    assert events.stat().st_size > 100


class Reads(TorchDispatchMode):
    """Counts the numbers that are fetched from tensors, for each of which a GPU would be waited for."""

    count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.count += func is torch.ops.aten._local_scalar_dense.default
        return func(*args, **(kwargs or {}))


def test_an_iteration_reads_nothing_but_its_loss() -> None:
    def reads(iterations: int) -> int:
        with Reads() as seen:
            il.train(learner(), SOURCE, iterations, engine="loop+recompute", validation_tasks=0, progress=False)
        return seen.count

    assert reads(30) - reads(10) == 20


class Breaking:
    """Sinusoids that are far too high from task 125 on."""

    seed = 0

    def draw(self, split: str, first: int, count: int) -> Task:
        task = SOURCE.draw(split, first, count)
        return task if first < 125 else task._replace(query=(task.query[0], 1e30 * task.query[1]))


def test_a_loss_may_be_read_an_iteration_later(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """As on a GPU: the same run, the same lines, and the same words for what went wrong."""

    def lines(name: str) -> list[dict]:
        rows: list[dict] = []
        il.train(learner(), SOURCE, 7, log_every=3, checkpoint_every=5, out=tmp_path / name, log=rows.append, **ONE_PLAN)
        return [{k: row[k] for k in ("iteration", "loss", "val") if k in row} for row in rows]

    at_once = lines("at once")
    monkeypatch.setattr(sys.modules["innerloop.train"], "_late", lambda device: 1)
    assert lines("later") == at_once
    same(*(load_file(tmp_path / name / "prior.safetensors") for name in ("at once", "later")))
    with pytest.raises(Diverged, match=r"iteration 5: task 125 of 'train' has a NaN or infinite loss after step 1; lower the inner or"):
        il.train(learner(), Breaking(), 9, progress=False)


def test_training_in_a_thread_leaves_signals_alone() -> None:
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor() as pool:
        trained = pool.submit(train, learner(), SOURCE, 3, **ONE_PLAN).result()
    same(trained.prior, il.train(learner(), SOURCE, 3, **ONE_PLAN).prior)


@pytest.mark.parametrize(
    ("before", "after", "message"),
    [
        ({"schedule": il.cosine(2)}, {"schedule": il.cosine(6)}, "the schedule's T_max 2, not 6"),
        ({"optimizer": il.adam(1e-3)}, {"optimizer": il.adam(1e-3, clip=0.1)}, "the optimiser's clip None, not 0.1"),
        (
            {"optimizer": lambda params: torch.optim.SGD(params, 0.1, momentum=0.9)},
            {"optimizer": lambda params: torch.optim.SGD(params, 0.1)},
            "the optimiser's momentum 0.9, not 0",
        ),
    ],
)
def test_a_run_goes_on_with_the_settings_of_its_optimiser_and_schedule(before: dict, after: dict, message: str, tmp_path: Path) -> None:
    il.train(learner(), SOURCE, 2, out=tmp_path, progress=False, **before)
    with pytest.raises(InputError, match=message):
        il.train(learner(), SOURCE, 6, out=tmp_path, resume=True, progress=False, **after)
    il.train(learner(), SOURCE, 6, out=tmp_path, resume=True, progress=False, **before)


def test_complex_parameters_are_trained() -> None:
    class Waves(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.z = nn.Parameter(torch.ones(4, dtype=torch.cfloat))

        def forward(self, x: Tensor) -> Tensor:
            return (self.z * torch.exp(1j * x * torch.arange(4))).real.sum(-1, keepdim=True)

    net = Waves()
    trained = il.train(il.maml(net, il.mse(net)), SOURCE, 2, progress=False)
    assert trained.prior["net.z"].is_complex()
    assert not torch.equal(trained.prior["net.z"], net.z)
    assert il.predict(trained, ([[0.0], [1.0]], [[0.0], [0.8]]), [[0.5]]).shape == (1, 1)
