"""The same numbers on another device, and no host that waits for it: on a GPU where there is one, and everywhere on one that is made up."""

import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import elsewhere
import numpy
import pytest
import torch
from conftest import METHODS, Build, built, image_net, of_two_points, smooth_net
from torch import Tensor, nn

import innerloop as il
from innerloop import InputError, Learner, Mixture, Sinusoids, Task, analysis, rl
from innerloop.batches import onto
from innerloop.device import random_state, undrawn
from innerloop.engine import ENGINES, Plan, choose, meta_gradient
from innerloop.images import Class, images
from innerloop.tasks import Changes, ImageBatches, ImageFamilies, ImageTasks, Lines, Source, Streams, VariedTasks, VectorTasks

needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="torch can use no CUDA device here")


@pytest.fixture(params=[elsewhere.NAME, pytest.param("cuda", marks=needs_cuda)])
def device(request: pytest.FixtureRequest) -> str:
    """Each device in turn."""
    return request.param


def close(there: Any, here: Any, tolerance: float = 1e-9) -> None:
    """Numbers of a device are those of the CPU."""
    torch.testing.assert_close(onto(there, "cpu"), here, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("plan", [Plan(), Plan(loop=True), Plan(recompute=True, chunk=2)], ids=str)
def test_a_meta_gradient_is_that_of_the_cpu(plan: Plan, device: str, method: Build, waves: Task) -> None:
    learner = method()
    close(meta_gradient(learner, plan)(onto(learner.prior, device), onto(waves, device)), meta_gradient(learner)(learner.prior, waves))


def test_what_no_prior_holds_must_be_moved_with_the_network(device: str) -> None:
    net = nn.Sequential(nn.Linear(1, 4).requires_grad_(False), nn.Tanh(), nn.Linear(4, 1))
    with pytest.raises(InputError, match=f"0.weight of the network is on cpu and the prior on {device}.* net.to\\('{device}"):
        il.train(il.maml(net, il.mse(net)), Sinusoids(), 1, device=device, progress=False)


@needs_cuda
@pytest.mark.parametrize("engine", [engine for engine in ENGINES if "compile" in engine])
def test_a_compiled_meta_gradient_is_that_of_the_cpu(engine: str, method: Build, waves: Task) -> None:
    learner = method()
    there = meta_gradient(learner, Plan.named(engine) or Plan())(onto(learner.prior, "cuda"), onto(waves, "cuda"))
    close(there, meta_gradient(learner)(learner.prior, waves))


@needs_cuda
@pytest.mark.parametrize("precision", ["float32", "tf32", "bfloat16"])
def test_training_in_a_precision_ends_where_it_does_on_the_cpu(precision: str) -> None:
    net = il.mlp(1, 40, 40, 1, generator=torch.Generator().manual_seed(0))
    learner = il.maml(net, il.mse(net))
    expected = il.train(learner, Sinusoids(), 20, progress=False).prior
    found = il.train(learner, Sinusoids(), 20, device="cuda", precision=precision, progress=False).prior
    torch.testing.assert_close(onto(found, "cpu"), expected, rtol=1e-4 if precision == "float32" else 0.2, atol=1e-3)


def drawings() -> ImageTasks:
    """Three-way tasks of noise, turned."""
    noise = numpy.random.default_rng(0)
    every = [Class(f"{k}", noise.integers(256, size=(9, 4, 4, 1), dtype=numpy.uint8), f"family {k // 6}") for k in range(24)]
    return ImageTasks(images("noise", every), {"train": range(18), "val": range(18, 24), "test": range(18, 24)}, 3, 2, 1, turns="tasks")


def vectors() -> VectorTasks:
    x = torch.randn(40, 1, generator=torch.Generator().manual_seed(0))
    return VectorTasks(x, torch.arange(40) % 8, {"train": range(4), "val": range(4, 8), "test": range(4, 8)}, 1, 2, 3)


SOURCES: dict[str, Callable[[], Source]] = {
    "curves": Sinusoids,
    "mixture": lambda: Mixture({"waves": Sinusoids(), "lines": Lines()}),
    "images": drawings,
    "batches of images": lambda: ImageBatches(drawings(), 6),
    "varied images": lambda: VariedTasks({"noise": drawings()}),
    "families of images": lambda: ImageFamilies(drawings(), 2, 2, changes=Changes()),
    "vectors": vectors,
    "streams": lambda: Streams(Sinusoids(queries=5)),
}


@pytest.mark.parametrize("name", SOURCES)
def test_a_sources_tasks_are_drawn_for_a_device_without_waiting_for_it(name: str, device: str) -> None:
    source = SOURCES[name]()
    there, n = il.tasks.on(source, device), il.tasks.most_together(source) or 2
    onto(there.draw("train", 0, n), device)  # what is loaded once is there from here on
    elsewhere.waits.clear()
    drawn = onto(there.draw("train", n, n), device)
    assert elsewhere.waits == []
    close(drawn, source.draw("train", n, n), 1e-6)


def learner_of_images() -> Learner:
    net = image_net().float()
    return il.maml(net, il.cross_entropy(net), rate=0.1)


@pytest.mark.parametrize("name", [*METHODS, "images", "maml++", "multi-maml"])
def test_the_host_waits_for_nothing_in_an_iteration(name: str) -> None:
    device, tasks = elsewhere.NAME, Sinusoids()
    if name == "images":
        learner, tasks = learner_of_images(), drawings()
    elif name == "maml++":
        net = image_net().float()
        learner, tasks = il.maml_plus_plus(net, il.cross_entropy(net), steps=2, rate=0.1), drawings()
    elif name == "multi-maml":
        nets = [smooth_net(dtype=torch.float32) for _ in range(2)]
        learner, tasks = il.multi_maml([il.maml(net, il.mse(net)) for net in nets]), Mixture({"a": Sinusoids(), "b": Lines()}, told=True)
    else:
        learner = built(name, dtype=torch.float32)
    counted = []
    for iterations in (2, 5):
        elsewhere.waits.clear()
        il.train(
            learner, tasks, iterations, meta_batch=3, device=device, engine="vmap", optimizer=il.adam(1e-3, clip=1.0, longest=1.0),
            validation_tasks=0,progress=False,
        )  # fmt: skip
        counted.append(list(elsewhere.waits))
    assert len(counted[0]) == len(counted[1]), set(counted[1])


class Noisy(nn.Module):
    """A network that draws random numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.net, self.drop = smooth_net(dtype=torch.float32), nn.Dropout(0.5)

    def forward(self, x: Tensor) -> Tensor:
        return self.net(self.drop(x))


@pytest.mark.parametrize("engine", ["vmap", "loop+recompute"])
def test_a_continued_run_draws_what_the_device_would_have_drawn(engine: str, device: str, tmp_path: Path) -> None:
    net = Noisy()
    learner, start = il.maml(net, il.mse(net), steps=2), random_state(device).clone()
    ended = []
    for stops in ([6], [3, 6]):
        random_state(device, start.clone())
        for iterations in stops:
            out = tmp_path / f"{len(stops)}"
            how = {"engine": engine, "meta_batch": 3, "device": device, "validation_tasks": 0, "progress": False}
            ended.append(il.train(learner, Sinusoids(), iterations, out=out, resume=iterations > stops[0], **how).prior)
            random_state(device, start.clone())  # as in another process
    close(ended[-1], onto(ended[0], "cpu"), 0)


def test_a_run_may_go_on_elsewhere(device: str, tmp_path: Path) -> None:
    how = {"meta_batch": 3, "engine": "vmap", "validation_tasks": 0, "progress": False}
    il.train(built("maml", dtype=torch.float32), Sinusoids(), 2, out=tmp_path, **how)
    there = il.train(built("maml", dtype=torch.float32), Sinusoids(), 4, out=tmp_path, resume=True, device=device, **how)
    close(there.prior, il.train(built("maml", dtype=torch.float32), Sinusoids(), 4, **how).prior, 1e-6)


def test_what_is_drawn_aside_is_drawn_again(device: str) -> None:
    with undrawn(device):
        aside = torch.rand(3), torch.rand(3, device=device)
    close((torch.rand(3), torch.rand(3, device=device)), onto(aside, "cpu"), 0)


def test_plans_are_timed_until_the_device_is_done(monkeypatch: pytest.MonkeyPatch, waves: Task) -> None:
    device, learner, clock = elsewhere.NAME, built("maml"), [0.0]
    monkeypatch.setattr(time, "perf_counter", lambda: clock[0])  # which stands still but where a device is waited for
    monkeypatch.setattr(elsewhere.Module, "synchronize", staticmethod(lambda device=None: clock.append(clock.pop() + 1.0)))
    _, _, seconds = choose(learner, onto(learner.prior, device), onto(waves, device), 1)
    assert list(seconds.values()) == [3.0, 3.0, 1.0]  # a loop over three tasks is timed on one


@pytest.mark.parametrize("engine", ["vmap", "loop+recompute", "auto"])
def test_training_and_scores_are_those_of_the_cpu(engine: str, device: str) -> None:
    how = {"iterations": 3, "meta_batch": 3, "engine": engine, "validation_tasks": 2, "progress": False}
    there, here = (il.train(learner_of_images(), drawings(), device=where, **how) for where in (device, "cpu"))
    close(there.prior, here.prior, 1e-5)
    scores = [il.evaluate(here, drawings(), n_tasks=4, device=where) for where in (device, "cpu")]
    close(scores[0].values, scores[1].values, 1e-5)
    task = drawings().draw("test", 0, 1)
    given = [t[0] for t in task.support]
    close(
        il.predict(there, onto((given[0], given[1]), device), task.query[0][0]),
        il.predict(here, (given[0], given[1]), task.query[0][0]),
        1e-5,
    )


MEASURES: dict[str, Callable[..., Any]] = {
    "conflict": analysis.conflict,
    "conflict within": analysis.conflict_within,
    "outer landscape": lambda learner, tasks, device: analysis.outer_landscape(learner, tasks, 1e-3, 2, device=device).loss,
    "inner landscape": lambda learner, tasks, device: analysis.inner_landscape(learner, tasks, 0.1, 2, device=device).loss,
    "kept": lambda learner, tasks, device: analysis.kept(learner, tasks, 2, device=device),
    "reuse": lambda learner, tasks, device: analysis.reuse(learner, tasks, 2, device=device),
    "embeddings": lambda learner, tasks, device: analysis.embeddings(learner, tasks, 2, device=device),
}


@pytest.mark.parametrize("name", MEASURES)
def test_measures_are_those_of_the_cpu(name: str, device: str) -> None:
    learner = built({"embeddings": "mumomaml", "kept": "l2f"}.get(name, "maml"), dtype=torch.float32)
    there, here = (MEASURES[name](learner, Sinusoids(), device=where) for where in (device, "cpu"))
    close(there, here, 1e-5)


@pytest.mark.parametrize("outer", ["trust region", "promp"])
def test_policies_are_trained_and_scored_as_on_the_cpu(outer: str, device: str) -> None:
    policy = rl.gaussian_mlp(2, 8, 2, generator=torch.Generator().manual_seed(0))
    how: dict[str, Any]
    if outer == "promp":
        learner = rl.promp(il.maml(policy, rl.ratio(policy), steps=1, rate=0.1), policy)
        how = {"optimizer": il.adam(1e-3), "outer_steps": 2}
    else:
        learner = rl.judged(il.maml(policy, rl.score(policy), steps=1, rate=0.1), policy)
        how = {"outer": partial(rl.trpo, products=3)}
    met = rl.Experience(rl.Navigation(horizon=5), 4)
    there, here = (
        rl.train_policy(learner, met, 2, meta_batch=3, device=where, engine="vmap", progress=False, **how) for where in (device, "cpu")
    )
    close(there.prior, here.prior, 1e-4)
    scores = [rl.evaluate_policy(here, met, steps=2, n_tasks=3, device=where) for where in (device, "cpu")]
    close(scores[0].values, scores[1].values, 1e-4)


@pytest.mark.parametrize("plan", [Plan(compiled=True), Plan(stepwise=True, compiled=True)], ids=str)
def test_what_would_be_compiled_for_a_device_is_the_meta_gradient(
    plan: Plan, method: Build, waves: Task, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Inductor writes no code for it; its graph can be run.
    monkeypatch.setattr(torch._inductor, "compile", lambda graph, given, options: graph)
    device, learner, tasks = elsewhere.NAME, method(), of_two_points(waves)
    close(meta_gradient(learner, plan)(onto(learner.prior, device), onto(tasks, device)), meta_gradient(learner)(learner.prior, tasks))


class Recordings:
    """What a GPU's graphs do, on the CPU: a recording knows what was asked before it since the last beginning, and
    gives its results where it gave them when it was made; from the next beginning on there may lie anything.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch):
        self.made: dict[tuple[int, ...], list[Tensor]] = {}
        self.asked: tuple[int, ...] = ()
        monkeypatch.setattr(torch._inductor, "compile", self.compile)
        monkeypatch.setattr(torch.compiler, "cudagraph_mark_step_begin", self.begin)

    def begin(self) -> None:
        for k in range(len(self.asked)):
            for t in self.made[self.asked[: k + 1]]:
                t.fill_(torch.nan if t.is_floating_point() else 0)
        self.asked = ()

    def compile(self, graph: Any, given: list[Tensor], options: dict[str, Any] | None) -> Callable[..., Any]:
        if "triton.cudagraphs" not in (options or {}):
            return graph
        assert options == {"triton.cudagraphs": True}

        def replay(*leaves: Tensor) -> list[Tensor]:
            self.asked += (id(graph),)
            results = graph(*leaves)
            there = self.made.setdefault(self.asked, [torch.empty_like(t) for t in results])
            for place, t in zip(there, results, strict=True):
                place.copy_(t)
            return there

        return replay


RECORDED = [engine for engine in ENGINES if "record" in engine]


@pytest.mark.parametrize(("name", "engine"), [*(("maml", engine) for engine in RECORDED), ("l2f", RECORDED[1]), ("mumomaml", RECORDED[2])])
def test_what_a_recorded_meta_gradient_gives_is_kept_and_it_is_recorded_once(
    name: str, engine: str, waves: Task, monkeypatch: pytest.MonkeyPatch
) -> None:
    recordings, learner = Recordings(monkeypatch), built(name)
    other = {name: 1.1 * p for name, p in learner.prior.items()}
    gradient = meta_gradient(learner, Plan.named(engine, chunk=1 if "recompute" in engine else None) or Plan())
    results, counted = [], []
    for prior in (learner.prior, other, learner.prior):
        results.append(gradient(prior, waves))
        counted.append(len(recordings.made))
    recordings.begin()
    for prior, found in zip((learner.prior, other, learner.prior), results, strict=True):
        close(found, meta_gradient(learner)(prior, waves))
    assert counted == [counted[0]] * 3
    assert 1 <= counted[0] <= (3 * len(learner.steps) + 1 if "step" in engine or "recompute" in engine else 1)


def test_auto_takes_what_is_recorded_where_it_is_the_fastest(monkeypatch: pytest.MonkeyPatch, waves: Task) -> None:
    Recordings(monkeypatch)
    module, learner = sys.modules[choose.__module__], built("maml")
    with pytest.raises(InputError, match=r"engine vmap\+compile\+record is of NVIDIA GPUs, and the device is cpu; vmap\+compile would do"):
        choose(learner, learner.prior, waves, 1, Plan(compiled=True, recorded=True))
    monkeypatch.setattr(module, "records", lambda device: True)
    clock = [0.0]
    monkeypatch.setattr(time, "perf_counter", lambda: clock[0])

    def told(learner: Learner, plan: Plan) -> Callable[..., Any]:
        """A meta-gradient that takes 8 ms; compiled 4, and recorded 2 from its third call on."""
        calls, gradient = [], meta_gradient(learner, plan)

        def run(params: Any, tasks: Any) -> Any:
            calls.append(None)
            clock[0] += 0.002 if plan.recorded and len(calls) > 2 else 0.004 if plan.compiled else 0.008
            return gradient(params, tasks)

        return run

    monkeypatch.setattr(module, "meta_gradient", told)
    plan, gradient, seconds = choose(learner, learner.prior, waves, 10**5)
    assert str(plan) == "vmap+compile+record"
    taken = {"vmap": 8, "vmap+compile": 4, "vmap+compile+record": 2}
    assert {key: round(1000 * s) for key, s in seconds.items() if "vmap" in key} == {
        **{f"one iteration, {name}": s for name, s in taken.items()},
        "compiling vmap+compile": 4,
        "compiling vmap+compile+record": 10,
    }
    close(gradient(learner.prior, waves), meta_gradient(learner)(learner.prior, waves))
