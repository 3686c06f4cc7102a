"""The engine: what is built how often, what is kept, and how a plan is chosen."""

import gc
import os
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from conftest import built
from torch import Tensor, nn

import innerloop as il
from innerloop import InputError, Learner, Sinusoids, Task, meta_loss
from innerloop.batches import one
from innerloop.engine import ENGINES, Plan, choose, compiled, meta_gradient
from innerloop.engine import choose as choosing
from innerloop.engine.compiled import Builder, _trial_of_instructions, compiled_vjp
from innerloop.engine.stepwise import stepwise, with_product
from innerloop.params import Params
from innerloop.steps import descend

STEPWISE = [Plan(stepwise=True), Plan(loop=True, stepwise=True), Plan(recompute=True), Plan(loop=True, recompute=True)]


def open_gate(params: Params, batch: Any) -> Params:
    """A step that adds a name, from what only it can see."""
    return {**params, "gate": torch.sigmoid(params["scale"] * batch[0].mean())}


def gated() -> Learner:
    """A prepared name, a shared one that nothing moves, and steps of two kinds."""
    base = built("maml", steps=3)
    loss = lambda params, batch: base.loss(params, batch) * (1 + params["gate"]) + params["gate"] ** 2
    prior = {**base.prior, "scale": torch.tensor(0.7, dtype=torch.float64)}
    return Learner(prior, (open_gate, descend(loss, 0.1), descend(loss, 0.05, "net.0")), loss, prepared=1)


@pytest.mark.parametrize("plan", STEPWISE, ids=str)
def test_any_pure_step_can_be_taken_stepwise(plan: Plan, waves: Task) -> None:
    learner = gated()
    torch.testing.assert_close(
        meta_gradient(learner, plan)(learner.prior, waves), meta_gradient(learner)(learner.prior, waves), rtol=1e-10, atol=1e-12
    )


@dataclass
class Shrink:
    """A step of a class that cannot be hashed."""

    factor: float

    def __call__(self, params: Params, batch: Any) -> Params:
        return {name: self.factor * p for name, p in params.items()}


@pytest.mark.parametrize("plan", STEPWISE, ids=str)
def test_a_step_need_not_be_hashable(plan: Plan, waves: Task) -> None:
    base = built("maml", steps=1)
    learner = replace(base, steps=(Shrink(0.5), *base.steps, Shrink(0.5)))
    expected = meta_gradient(learner)(learner.prior, waves)
    torch.testing.assert_close(meta_gradient(learner, plan)(learner.prior, waves), expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("plan", STEPWISE, ids=str)
def test_a_meta_step_can_be_taken_stepwise(plan: Plan, waves: Task) -> None:
    """A gradient step on a meta-loss, which is what meta-meta-learning is: three nested derivatives."""
    base = built("maml", steps=1)
    learner = Learner(base.prior, (descend(meta_loss(base), 0.1), *base.steps), base.loss)
    family = il.batches.stack([waves, waves])
    tasks = Task(
        [family, il.batches.map_tensors(lambda t: t[:, 0], family.support)], il.batches.map_tensors(lambda t: t[:, 1], family.query)
    )
    expected = meta_gradient(learner, Plan(loop=True))(learner.prior, tasks)
    torch.testing.assert_close(meta_gradient(learner, plan)(learner.prior, tasks), expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("plan", [Plan(loop=True), *STEPWISE], ids=str)
@pytest.mark.parametrize("weights", [(0.2, 0.3, 0.5), (0.1, 0.2, 0.3, 0.4), (1.0, 0.0), (0.5, 0.0, 0.25, 0.25)])
def test_losses_along_the_path(plan: Plan, weights: tuple[float, ...], waves: Task) -> None:
    learner = replace(built("maml", steps=3), weights=weights)
    expected = {name: torch.zeros_like(p) for name, p in learner.prior.items()}
    value = torch.zeros(())
    for k, weight in enumerate(weights):
        point = replace(learner, weights=(1.0,)).taking(4 - len(weights) + k)
        gradient, loss = meta_gradient(point)(learner.prior, waves)
        expected = {name: g + weight * gradient[name] for name, g in expected.items()}
        value = value + weight * loss
    found = meta_gradient(learner, plan)(learner.prior, waves)
    torch.testing.assert_close(found, (expected, value), rtol=1e-10, atol=1e-12, check_dtype=False)


@pytest.mark.parametrize("plan", STEPWISE, ids=str)
def test_a_learner_without_steps_has_a_plan_of_steps(plan: Plan, waves: Task) -> None:
    learner = il.pretrained(net := nn.Linear(1, 1).double(), il.mse(net))
    torch.testing.assert_close(meta_gradient(learner, plan)(learner.prior, waves), meta_gradient(learner)(learner.prior, waves))


def test_weights_must_fit_the_path() -> None:
    with pytest.raises(InputError, match="4 weights for a path of 3 points"):
        replace(built("maml"), weights=(0.25,) * 4)
    assert replace(built("maml"), weights=(0.2, 0.3, 0.5)).taking(1).weights == (0.3, 0.5)
    with pytest.raises(InputError, match="4 weights for a path of 3 points"):
        replace(built("l2f"), weights=(0.25,) * 4)  # its attenuation only prepares
    assert replace(built("l2f"), weights=(0.2, 0.3, 0.5)).taking(0).weights == (0.5,)


@pytest.mark.parametrize("plan", [Plan(), Plan(loop=True)], ids=str)
def test_support_and_query_are_of_as_many_tasks(plan: Plan, waves: Task) -> None:
    fewer = Task(tuple(t[:2] for t in waves.support), waves.query)
    with pytest.raises(InputError, match="a batch stacks 2 and 3 tasks; support and query must have as many"):
        meta_gradient(built("maml"), plan)(built("maml").prior, fewer)


@pytest.mark.parametrize("plan", STEPWISE, ids=str)
def test_a_recomputed_step_draws_what_it_drew(plan: Plan) -> None:
    """With dropout in the inner loop, the way back must see the masks of the way there."""
    net = nn.Sequential(nn.Linear(1, 32), nn.Dropout(0.5), nn.Linear(32, 1)).double()
    learner = il.maml(net, il.mse(net), steps=2, rate=0.1)
    x = torch.rand(1, 5, 1, dtype=torch.float64)
    tasks = Task((x, x), (x, x))

    def seeded(plan: Plan) -> tuple[Params, torch.Tensor, torch.Tensor]:
        gradient = meta_gradient(learner, plan)
        gradient(learner.prior, tasks)
        torch.manual_seed(0)
        return *gradient(learner.prior, tasks), torch.rand(1)

    torch.testing.assert_close(seeded(plan), seeded(Plan(loop=plan.loop)))


def test_a_repeated_step_is_built_once(waves: Task) -> None:
    """So that compiling does not take longer for more steps."""

    def pieces(steps: int, rate: Any) -> int:
        made: list[Any] = []
        noted = lambda f: made.append(f) or f
        learner = built("maml", steps=steps, rate=rate)
        stepwise(learner, False, build=noted, differentiate=lambda f: noted(with_product(f)))(learner.prior, waves)
        return len(made)

    assert [pieces(1, 0.1), pieces(5, 0.1), pieces(20, 0.1)] == [2, 2, 2]  # the loss and the step
    assert pieces(3, [0.1, 0.1, 0.2]) == 3
    assert pieces(3, [0.1, 0.2, 0.3]) == 4


@pytest.mark.parametrize(("recompute", "calls"), [(False, 4), (True, 7)])
def test_all_steps_but_the_last_are_computed_again(recompute: bool, calls: int, waves: Task) -> None:
    learner, seen = built("maml", steps=4), []
    counted = lambda f: lambda *inputs: seen.append(1) or with_product(f)(*inputs)
    found = stepwise(learner, False, recompute, differentiate=counted)(learner.prior, waves)
    assert len(seen) == calls
    torch.testing.assert_close(found, meta_gradient(learner)(learner.prior, waves), rtol=1e-10, atol=1e-12)


def test_a_compiled_function_and_its_product() -> None:
    """Of two arguments, one of them constant and a value of two parts, one of which nothing depends on."""
    f = lambda x, factor: {"y": factor * x["a"].sin() @ x["b"], "c": factor + 1}
    x = {"a": torch.randn(3, 4, dtype=torch.float64), "b": torch.randn(4, dtype=torch.float64)}
    factor, v = torch.tensor(2.0, dtype=torch.float64), {"y": torch.randn(3, dtype=torch.float64), "c": torch.tensor(1.0).double()}
    expected, expected_product = with_product(f)(x, factor)
    differentiable = compiled_vjp(f)
    for _ in range(2):
        found, product = differentiable(x, factor)
        torch.testing.assert_close(found, expected)
        torch.testing.assert_close(product(v), expected_product(v))
        strided = {**v, "y": v["y"].repeat(2, 1).T[:, 0]}
        torch.testing.assert_close(product(strided), expected_product(v))


def test_the_product_of_a_compiled_function_sees_what_was_drawn() -> None:
    x = torch.rand(1000) + 1
    value, product = compiled_vjp(lambda x: nn.functional.dropout(x, 0.5))(x)
    assert 400 < value.count_nonzero() < 600
    torch.testing.assert_close(product(torch.ones(1000)) * x, value)


def test_equal_graphs_are_compiled_once(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    monkeypatch.setattr(torch._inductor, "compile", lambda graph, leaves, options: calls.append(graph) or graph)
    build = Builder()
    offset = torch.ones(2)
    f, g, h = (compiled(f, build) for f in (lambda b: b["x"] + 1, lambda b: b["x"] + 1, lambda b: b["x"] + offset))
    two, three = {"x": torch.zeros(2)}, {"x": torch.zeros(3)}
    assert f(two).tolist() == g(two).tolist() == h(two).tolist() == [1, 1]
    assert len(calls) == 2
    assert f(three).tolist() == [1, 1, 1]
    assert f(two).tolist() == [1, 1]
    assert len(calls) == 3, "another shape is compiled anew, a known one is not"
    offset += 1
    assert h(two).tolist() == [2, 2], "a tensor from outside is read again"


def test_collection_goes_on_after_what_cannot_be_compiled() -> None:
    def fails(x: Tensor) -> Tensor:
        assert not gc.isenabled()
        raise ValueError("no")

    for makes in (compiled, compiled_vjp):
        with pytest.raises(ValueError, match="no"):
            makes(fails)(torch.ones(2))
        assert gc.isenabled()


def test_a_trial_of_instructions_that_fails_is_left_to_building(monkeypatch: pytest.MonkeyPatch) -> None:
    tried = []
    monkeypatch.setattr("torch._inductor.cpu_vec_isa.valid_vec_isa_list", lambda: tried.append(1) or 1 / 0)
    _trial_of_instructions.__wrapped__().join()  # without a warning, which would be an error here
    assert tried


SECOND = """
import time, torch, innerloop as il
from innerloop.engine import Plan, meta_gradient
from torch._dynamo.utils import counters
net = il.mlp(1, 8, 1)
learner = il.maml(net, il.mse(net), steps=2, rate=0.1)
meta_gradient(learner, Plan(compiled=True))(learner.prior, il.Sinusoids().draw("train", 0, 3))
print(counters["inductor"]["fxgraph_cache_hit"])
"""


def test_what_was_compiled_survives_the_process(tmp_path: Any) -> None:
    where = {**os.environ, "TORCHINDUCTOR_CACHE_DIR": str(tmp_path)}
    hits = [subprocess.run([sys.executable, "-c", SECOND], env=where, capture_output=True, text=True, check=True).stdout for _ in range(2)]
    assert hits == ["0\n", "1\n"]


def test_only_what_moves_is_kept_for_each_task(waves: Task) -> None:
    learner = built("anil")
    kept = []

    def watch(f: Any) -> Any:
        def run(both: tuple[Params, Params], batch: Any) -> Any:
            kept.append(tuple(map(set, both)))
            return with_product(f)(both, batch)

        return run

    stepwise(learner, False, differentiate=watch)(learner.prior, waves)
    head = {"net.4.weight", "net.4.bias"}
    assert kept == [(head, set(learner.prior) - head)] * 3  # both steps, and the first once more


def test_engines_have_names() -> None:
    assert ("auto", *map(str, (Plan.named(name) for name in ENGINES[1:]))) == ENGINES
    assert len(ENGINES) == 19
    assert Plan.named("auto") is None
    with pytest.raises(InputError, match="a plan is recorded and not compiled; only what is compiled can be recorded"):
        Plan(recorded=True)


def test_auto_times_the_candidates_and_says_so() -> None:
    net = il.mlp(1, 40, 40, 1)
    learner = il.maml(net, il.mse(net))
    said: list[str] = []
    plan, _, seconds = choose(learner, learner.prior, Sinusoids().draw("train", 0, 25), 10, say=said.append)
    assert (plan, said) == (Plan(), [])
    assert list(seconds) == ["one iteration, loop+recompute", "one iteration, loop", "one iteration, vmap"]
    assert seconds["one iteration, vmap"] == min(seconds.values())


def test_auto_goes_on_where_compiling_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    net = il.mlp(1, 40, 40, 1)
    learner, batch, warned, said = il.maml(net, il.mse(net)), Sinusoids().draw("train", 0, 25), [], []

    def fail(*args: object, **how: object) -> None:
        raise RuntimeError("no C++ compiler\nand much more")

    monkeypatch.setattr(torch._inductor, "compile", fail)
    plan, gradient_of, _ = choose(learner, learner.prior, batch, 10**9, say=said.append, warn=warned.append)
    assert plan == Plan()
    assert said == ["compiling"]
    assert warned == ["compiling vmap+compile failed, going on without: RuntimeError: no C++ compiler"]
    torch.testing.assert_close(gradient_of(learner.prior, batch), meta_gradient(learner)(learner.prior, batch))
    with pytest.raises(InputError, match=r"engine vmap\+compile does not work here: RuntimeError: no C\+\+ compiler; vmap would do"):
        choose(learner, learner.prior, batch, 10, Plan(compiled=True))


def test_auto_does_not_compile_what_would_take_longer_than_it_saves(monkeypatch: pytest.MonkeyPatch) -> None:
    net = il.mlp(1, 40, 40, 1)
    learner, batch, warned = il.maml(net, il.mse(net)), Sinusoids().draw("train", 0, 25), []
    monkeypatch.setattr(sys.modules[choosing.__module__], "EARNED_BACK", 0.0)
    plan = choose(learner, learner.prior, batch, 50, warn=warned.append)[0]
    assert plan == Plan()
    assert re.fullmatch(
        r"going on without vmap\+compile: \d+ operations, which would take about \d+ s to compile, .* too short .*", warned[0]
    )


class Looks(nn.Module):
    """Does one or another by a number, which differs between tasks."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.head = nn.Linear(1, 4), nn.Linear(4, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = self.first(x)
        return self.head(torch.tanh(h) if h.mean() > 0 else torch.sin(h))


class Read(nn.Module):
    """A recurrent layer with a forward pass of its own, in which torch's has no rule for vmap."""

    class Own(nn.GRU):
        def forward(self, x: torch.Tensor) -> torch.Tensor:  # type: ignore[override]
            return super().forward(x[None])[0][0]

    def __init__(self) -> None:
        super().__init__()
        self.cell, self.head = self.Own(1, 4, batch_first=True), nn.Linear(4, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.cell(x))


@pytest.mark.parametrize("kind", [Looks, Read])
def test_auto_goes_on_task_by_task_where_vmap_has_no_rule(kind: Callable[[], nn.Module], recwarn: pytest.WarningsRecorder) -> None:
    learner, warned = il.maml(net := kind(), il.mse(net), rate=0.1), []
    plan = choose(learner, learner.prior, Sinusoids().draw("train", 0, 3), 10, warn=warned.append)[0]
    assert plan.loop
    assert warned[-1].split(",")[0] == "engine vmap does not work here"
    trained = il.train(learner, Sinusoids(), 2, meta_batch=3, validation_tasks=9, progress=False)
    assert il.evaluate(trained, Sinusoids(), n_tasks=9).values.isfinite().all()
    never = replace(learner, loss=lambda params, batch: batch[0].view(-1, 7))
    with pytest.raises(RuntimeError, match="invalid for input of size"):
        choose(never, learner.prior, Sinusoids().draw("train", 0, 3), 10)


def test_auto_compiles_by_what_takes_the_time() -> None:
    module = sys.modules[choosing.__module__]
    loop, vmap, chunked = Plan(loop=True), Plan(), Plan(chunk=7)

    def compiled(steps: int, of_loop: float, of_vmap: float, together: Plan = vmap, iterations: int = 60) -> list[Plan]:
        seconds = {f"one iteration, {loop}": of_loop, f"one iteration, {together}": of_vmap}
        return module._worth_compiling(built("maml", steps=steps), [loop, together], seconds, iterations, 100)

    assert compiled(5, 3.0, 1.0, iterations=59) == []
    assert compiled(5, 3.0, 1.0) == [Plan(compiled=True)], "calls take the time"
    assert compiled(5, 1.0, 2.0, chunked) == [Plan(chunk=7, compiled=True)], "no more tasks than memory holds"
    assert compiled(20, 3.0, 1.0, chunked) == [Plan(chunk=7, stepwise=True, compiled=True)], "compiles in the time of one step"
    assert compiled(5, 30.0, 15.0) == [Plan(stepwise=True, compiled=True)], "arithmetic does"
    assert compiled(5, 30.0, 40.0) == [Plan(loop=True, stepwise=True, compiled=True)]
    scarce, seconds = Plan(loop=True, recompute=True), {"one iteration, loop+recompute": 30.0}
    assert module._worth_compiling(built("maml"), [scarce], seconds, 60, 1) == [replace(scarce, compiled=True)]


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="elsewhere the system tells the larger of parent's and child's")
def test_peak_memory_is_the_process_own() -> None:
    held = torch.ones(50_000_000)  # 200 MB that the child has not
    code = "from innerloop.engine.memory import peak_memory; print(peak_memory())"
    own = int(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout)
    here = choosing.__globals__["peak_memory"]()
    assert own < here - held.nbytes / 2


def test_auto_keeps_to_the_memory_there_is(monkeypatch: pytest.MonkeyPatch, waves: Task) -> None:
    module = sys.modules[choosing.__module__]
    learner = built("maml")  # two steps: three graphs
    peaks = iter([0, 100])
    monkeypatch.setattr(module, "peak_memory", lambda device: next(peaks))
    monkeypatch.setattr(module, "free_memory", lambda device: 1300)
    seconds: dict[str, float] = {}
    plans = module._uncompiled(learner, learner.prior, waves, None, seconds, print)
    assert plans == [Plan(loop=True, recompute=True), Plan(loop=True), Plan(chunk=2)]
    peaks = iter([0, 100])
    monkeypatch.setattr(module, "free_memory", lambda device: 500)
    assert module._uncompiled(learner, learner.prior, waves, None, seconds, print) == [Plan(loop=True, recompute=True)]


KEEPING = """
import resource, torch
from innerloop.engine import keep_freed_memory
def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(10):
        torch.zeros(10_000_000)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
faults()
before = faults()
print(keep_freed_memory())
faults()
print(before > 10 * faults())
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="asks glibc")
def test_freed_memory_is_used_again() -> None:
    def run(**more: str) -> str:
        return subprocess.run(
            [sys.executable, "-c", KEEPING], env={**os.environ, **more}, capture_output=True, text=True, check=True
        ).stdout

    assert run() == "True\nTrue\n"
    assert run(MALLOC_MMAP_THRESHOLD_="65536") == "False\nFalse\n", "a setting of the user's own stays"


def test_a_chunk_of_one_task_and_the_whole_batch_agree_step_by_step_for_a_network_of_images() -> None:
    net = nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4, track_running_stats=False), nn.Tanh(), nn.Flatten(), nn.Linear(36, 3)
    ).double()
    learner = il.maml(net, il.cross_entropy(net), steps=2, rate=0.1)
    g = torch.Generator().manual_seed(0)
    x, y = torch.randn(3, 6, 1, 5, 5, generator=g, dtype=torch.float64), torch.randint(0, 3, (3, 6), generator=g)
    tasks = Task((x, y), (x.flip(1), y.flip(1)))
    expected = meta_gradient(learner, Plan(loop=True))(learner.prior, tasks)
    for plan in (*STEPWISE, Plan(recompute=True, chunk=1)):
        torch.testing.assert_close(meta_gradient(learner, plan)(learner.prior, tasks), expected, rtol=1e-10, atol=1e-12)
    assert one(tasks, 0).support[0].shape == x.shape[1:]
