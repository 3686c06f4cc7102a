"""What users bring: networks that share, freeze and drop out, tasks in lists, tools of other libraries; and what they take away."""

import threading
from pathlib import Path
from typing import Any

import numpy
import pytest
import torch
from sklearn.metrics import mean_absolute_error
from torch import Tensor, nn
from torch.nn import functional

import innerloop as il
from innerloop import InputError, Stopped, Task
from innerloop.engine import meta_gradient
from innerloop.models.film import scales

WAVES = il.Sinusoids(shots=5, queries=5)


def started(net: nn.Module, seed: int = 0) -> nn.Module:
    generator = torch.Generator().manual_seed(seed)
    for p in net.parameters():
        nn.init.normal_(p, std=0.5, generator=generator)
    return net


class Twice(nn.Module):
    """One layer under two names."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.mid, self.last = nn.Linear(1, 1), nn.Tanh(), nn.Linear(1, 1)
        self.again = self.first

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.mid(self.again(self.mid(self.first(x)))))


def test_a_module_with_two_names_stays_as_it_is() -> None:
    net = started(Twice())
    before = {name: p.detach().clone() for name, p in net.named_parameters()}
    held = dict(net.named_parameters())
    learner = il.maml(net, il.mse(net), 2, 0.1)
    il.train(learner, WAVES, 3, meta_batch=2, progress=False)
    assert all(held[name] is p for name, p in net.named_parameters())
    for name, p in net.state_dict().items():
        torch.testing.assert_close(p, before.get(name, p), rtol=0, atol=0)
    assert net.again is net.first
    assert net(torch.ones(2, 1)).shape == (2, 1)
    il.l2f(net, il.mse(net))


def test_threads_predict_what_one_thread_predicts() -> None:
    net = nn.Sequential(nn.Linear(1, 16), nn.LayerNorm(16), nn.Tanh(), nn.Linear(16, 1))
    learner, x = il.maml(net, il.mse(net), 3, 0.05), torch.linspace(-1, 1, 5)[:, None]
    supports = [(x, k * x) for k in range(4)]
    expected = [il.predict(learner, support, x) for support in supports]
    norm, fused, held = torch.layer_norm, torch.backends.mha.get_fastpath_enabled(), dict(net.named_parameters())
    wrong: list[int] = []

    def ask(k: int) -> None:
        for _ in range(25):
            try:
                torch.testing.assert_close(il.predict(learner, supports[k], x), expected[k])
            except Exception:  # whatever goes wrong in a thread is a failure
                wrong.append(k)

    threads = [threading.Thread(target=ask, args=(k,)) for k in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    assert torch.layer_norm is norm
    assert torch.backends.mha.get_fastpath_enabled() == fused
    assert all(held[name] is p for name, p in net.named_parameters())


def test_nothing_is_dropped_out_in_test_where_only_a_part_of_the_network_trains() -> None:
    net = nn.Sequential(nn.Linear(1, 32), nn.Dropout(0.5), nn.Linear(32, 1))
    learner = il.maml(net, il.mse(net), 1, 0.01)
    expected = il.evaluate(learner, WAVES, n_tasks=5).values
    net.eval()
    net[1].train()
    torch.testing.assert_close(il.evaluate(learner, WAVES, n_tasks=5).values, expected)
    assert net[1].training
    assert not net.training


class HeadFirst(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.head, self.body = nn.Linear(8, 1), nn.Linear(1, 8)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(x))


@pytest.mark.parametrize(
    ("net", "head"),
    [
        (nn.Sequential(nn.Linear(1, 8), nn.PReLU(), nn.Linear(8, 1), nn.PReLU()), "net.2"),
        (nn.Sequential(nn.Linear(1, 8), nn.Linear(8, 4), nn.LayerNorm(4)), "net.1"),
        (nn.Sequential(nn.Linear(1, 8), nn.utils.parametrizations.weight_norm(nn.Linear(8, 1))), "net.1"),
        (nn.Sequential(nn.Linear(1, 8), nn.Linear(8, 1).requires_grad_(False)), "net.0"),
    ],
)
def test_the_head_is_the_last_layer_with_weights(net: nn.Module, head: str) -> None:
    learner, x = il.anil(net, il.mse(net), 1, 0.1), torch.ones(3, 1)
    before, after = learner.adapt(learner.prior, (x, torch.ones_like(net(x))))
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    assert moved == {name for name in before if name.startswith(head + ".")}


def test_a_head_that_cannot_be_told_is_named_by_the_user() -> None:
    net = HeadFirst()
    learner = il.anil(net, il.mse(net), 1, 0.1, head="net.head")
    before, after = learner.adapt(learner.prior, (torch.ones(3, 1), torch.ones(3, 1)))
    assert torch.equal(before["net.body.weight"], after["net.body.weight"])
    assert not torch.equal(before["net.head.weight"], after["net.head.weight"])
    tied = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    tied[1].weight = tied[0].weight
    with pytest.raises(InputError, match=r"the last layer, 1, has the weights of 0, so it is no head; name one with head='net\.…'"):
        il.boil(tied, il.mse(tied))
    with pytest.raises(InputError, match="no layer that could be its head"):
        il.anil(nn.Sequential(nn.PReLU()), il.mse(nn.PReLU()))


class Attending(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inp, self.att, self.out = nn.Linear(1, 8), nn.MultiheadAttention(8, 2, batch_first=True), nn.Linear(8, 1)

    def forward(self, x: Tensor) -> Tensor:
        h = self.inp(x).unsqueeze(0)
        return self.out((h + self.att(h, h, h, need_weights=False)[0]).squeeze(0))


@pytest.mark.parametrize("layer", ["attention", "transformer"])
def test_what_lies_in_attention_is_not_modulated(layer: str) -> None:
    if layer == "attention":
        plain, chosen = Attending(), ["inp"]
    else:
        plain = nn.Sequential(nn.Linear(1, 8), nn.TransformerEncoderLayer(8, 2, 8, 0.0), nn.Linear(8, 1))
        chosen = ["0", "1.linear1", "1.linear2"]
    net = il.with_film(started(plain))
    assert list(scales(net)) == chosen
    learner = il.mumomaml(net, il.mse(net), 2, 0.01, encoder=il.Recurrent(2, hidden=4))
    assert meta_gradient(learner)(learner.prior, WAVES.draw("train", 0, 2))[1].isfinite()
    assert il.evaluate(learner, WAVES, n_tasks=3).mean.isfinite().all()
    with pytest.raises(InputError, match=r"att\.out_proj is a part of att, whose attention reads its weights without it"):
        il.with_film(Attending(), ["att.out_proj"])


def test_a_prior_that_is_found_is_of_the_run_that_ended_last(tmp_path: Path) -> None:
    net = il.mlp(1, 4, 1)
    learner = il.maml(net, il.mse(net), 1, 0.01)
    how: dict[str, Any] = {"progress": False, "out": tmp_path, "meta_batch": 2, "engine": "vmap", "validation_tasks": 0}
    il.train(learner, WAVES, 2, **how)

    def interrupted(row: dict[str, Any]) -> None:
        if row.get("loss"):
            raise KeyboardInterrupt

    with pytest.raises((Stopped, KeyboardInterrupt)):
        il.train(learner, WAVES, 5, log=interrupted, log_every=1, **how)
    with pytest.raises(
        InputError, match=r"is not finished: it has a checkpoint and no prior\.safetensors; go on with train\(…, resume=True\)"
    ):
        il.load(tmp_path, learner)
    trained = il.train(learner, WAVES, 5, resume=True, **how)
    assert all(torch.equal(p, trained.prior[name]) for name, p in il.load(tmp_path, learner).prior.items())


class Features(nn.Module):
    """Random features that are no part of a prior, under a layer that is."""

    def __init__(self, seed: int, frozen: bool = False):
        super().__init__()
        w = torch.randn(1, 16, generator=torch.Generator().manual_seed(seed))
        if frozen:
            self.w = nn.Parameter(w, requires_grad=False)
        else:
            self.register_buffer("w", w)
        self.head = started(nn.Linear(16, 1))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.sin(x @ self.w))


@pytest.mark.parametrize("frozen", [False, True])
def test_a_prior_of_other_buffers_or_frozen_parameters_is_refused(frozen: bool, tmp_path: Path) -> None:
    def learner(seed: int) -> il.Learner:
        net = Features(seed, frozen)
        return il.maml(net, il.mse(net), 1, 0.01)

    how: dict[str, Any] = {"progress": False, "out": tmp_path, "meta_batch": 2, "engine": "vmap"}
    trained = il.train(learner(0), WAVES, 2, **how)
    assert torch.equal(il.load(tmp_path, learner(0)).prior["net.head.weight"], trained.prior["net.head.weight"])
    with pytest.raises(InputError, match=r"w of the network, a buffer or frozen parameter, is not what the prior in .* was trained with"):
        il.load(tmp_path, learner(1))
    with pytest.raises(InputError, match="made with buffers and frozen parameters"):
        il.train(learner(1), WAVES, 4, resume=True, **how)


def test_a_network_that_writes_into_its_buffers_is_not_changed_by_training() -> None:
    net = nn.Sequential(nn.Linear(1, 8), nn.Tanh(), nn.utils.parametrizations.spectral_norm(nn.Linear(8, 8)), nn.Linear(8, 1))
    before = {name: b.clone() for name, b in net.named_buffers()}
    assert before
    learner = il.maml(net, il.mse(net), 1, 0.01)
    il.train(learner, WAVES, 2, meta_batch=2, engine="loop", progress=False)
    assert all(torch.equal(b, before[name]) for name, b in net.named_buffers())


class Counting(nn.Linear):
    """A layer that counts its calls, in a buffer or in a tensor that nobody is told of."""

    def __init__(self, buffer: bool) -> None:
        super().__init__(1, 1)
        if buffer:
            self.register_buffer("n", torch.zeros(()))
        else:
            self.n = torch.zeros(())

    def forward(self, input: Tensor) -> Tensor:
        self.n += 1
        return super().forward(input)


def test_a_network_that_counts_in_a_buffer_is_not_changed() -> None:
    net = Counting(buffer=True)
    il.train(il.maml(net, il.mse(net)), WAVES, 2, meta_batch=2, progress=False)
    assert net.n == 0
    net(torch.ones(1, 1))
    assert net.n == 1


def test_a_network_that_writes_into_what_tasks_share_is_told_so() -> None:
    net = Counting(buffer=False)
    with pytest.raises(InputError, match=r"writes into a tensor of its own as it runs, which all tasks share; call net\.eval\(\)"):
        il.train(il.maml(net, il.mse(net)), WAVES, 2, progress=False)


def lines(*sizes: int) -> list[Task]:
    x = torch.linspace(-1, 1, 8)[:, None]
    return [Task((x[:n], (k + 1) * x[:n]), (x, (k + 1) * x)) for k, n in enumerate(sizes)]


def test_tasks_in_lists_are_each_met_once_in_every_pass() -> None:
    source = il.from_tasks(lines(3, 3, 3, 3, 3), val=lines(3), test=lines(3, 3))
    slopes = source.draw("train", 0, 10).query[1][:, -1, 0].round().tolist()
    assert sorted(slopes[:5]) == sorted(slopes[5:]) == [1, 2, 3, 4, 5]
    assert slopes[:5] != slopes[5:]
    torch.testing.assert_close(source.draw("train", 7, 2).query[1][:, -1, 0].round().tolist(), slopes[7:9])
    assert source.draw("test", 0, 2).query[1][:, -1, 0].tolist() == [1, 2]
    pairs = il.from_tasks([((torch.ones(2, 1), torch.ones(2, 1)), (torch.ones(3, 1), torch.ones(3, 1)))])
    assert pairs.draw("train", 0, 4).query[0].shape == (4, 3, 1)
    net = nn.Linear(1, 1)
    learner = il.pretrained(net, il.mse(net))
    for make, message in (
        (lambda: source.draw("test", 1, 2), "there are 2 test tasks, and number 2 was asked for; ask for 2 at most"),
        (lambda: pairs.draw("val", 0, 1), "there are no val tasks"),
        (lambda: il.from_tasks([]), "no tasks to train on"),
        (lambda: il.from_tasks([torch.ones(3)]), r"train has a Tensor; give innerloop\.Task"),
        (lambda: il.train(learner, lines(3), 1), "or of lists of tasks with innerloop.from_tasks"),  # type: ignore[arg-type]
        (lambda: il.train(learner, source, 1, progress=False), "of validation tasks: there are 1 val tasks, and number 99 was asked for"),
    ):
        with pytest.raises(InputError, match=message):
            make()


def test_tasks_of_several_shapes_make_one_meta_batch() -> None:
    net = started(nn.Sequential(nn.Linear(1, 8), nn.Tanh(), nn.Linear(8, 1)))
    learner, tasks = il.maml(net, il.mse(net), 2, 0.05), lines(3, 5, 2, 4)
    source = il.from_tasks(tasks, test=tasks)
    assert source.together == 1
    order = [source._number("train", i) for i in range(4)]
    prior = {name: p.clone() for name, p in learner.prior.items()}
    for first in (0, 2):
        alone = [meta_gradient(learner)(prior, source.draw("train", first + k, 1))[0] for k in range(2)]
        prior = {name: p - 0.1 * (alone[0][name] + alone[1][name]) / 2 for name, p in prior.items()}
    sgd = lambda params: torch.optim.SGD(params, 0.1)
    trained = il.train(learner, source, 2, meta_batch=2, optimizer=sgd, validation_tasks=0, progress=False)
    torch.testing.assert_close(trained.prior, prior)
    assert sorted(order) == [0, 1, 2, 3]
    assert il.evaluate(trained, source, n_tasks=4).values.shape == (4, 3)


def test_a_task_that_diverges_is_named_by_its_number_in_a_meta_batch_of_several_shapes() -> None:
    net = started(nn.Linear(1, 1))
    tasks = lines(3, 5, 2, 4)
    source = il.from_tasks(tasks)
    wild = next(i for i in range(4) if source._number("train", i) == 2)
    tasks[2].support[1].mul_(1e30)
    learner = il.maml(net, il.mse(net), 2, 0.1)
    with pytest.raises(il.Diverged, match=f"task {wild} of 'train'"):
        il.train(learner, il.from_tasks(tasks), 1, meta_batch=4, validation_tasks=0, progress=False)


class Two(nn.Module):
    """One input that is a tuple of two tensors."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(2, 1), nn.Linear(3, 1)

    def forward(self, x: Any) -> Tensor:
        a, b = (x["a"], x["b"]) if isinstance(x, dict) else x
        return self.a(a) + self.b(b)


@pytest.mark.parametrize("kind", [tuple, dict])
def test_inputs_of_several_tensors_are_predicted(kind: type) -> None:
    net = started(Two())
    learner = il.maml(net, il.mse(net), 2, 0.1)
    a, b = torch.randn(4, 2), torch.randn(4, 3)
    x: Any = (a, b) if kind is tuple else {"a": a, "b": b}
    y = torch.randn(4, 1)
    expected = net(x).detach()
    assert learner.model is not None
    torch.testing.assert_close(il.predict(learner, (x, y), x, steps=0), expected)
    torch.testing.assert_close(il.predict(learner, (x, y), x), learner.model(learner.adapt(learner.prior, (x, y))[-1], x).detach())
    with pytest.raises(InputError, match="the support has 4 x but 3 y"):
        il.predict(learner, (x, y[:3]), x)


METHODS = {name: il.METHODS[name] for name in ("maml", "anil", "boil", "meta_sgd", "per_step_rates", "l2f")}


@pytest.mark.parametrize("method", METHODS)
def test_an_adapted_network_is_an_ordinary_module(method: str, tmp_path: Path) -> None:
    net = started(nn.Sequential(nn.Linear(1, 8), nn.Tanh(), nn.Dropout(0.5), nn.Linear(8, 1)))
    kept = {name: p.clone() for name, p in net.state_dict().items()}
    learner = METHODS[method](net, il.mse(net), steps=2, rate=0.05)
    x = torch.linspace(-1, 1, 5)[:, None]
    there = il.adapted_net(learner, (x, 2 * x))
    torch.testing.assert_close(there(x).detach(), il.predict(learner, (x, 2 * x), x))
    assert not torch.allclose(there(x), net.eval()(x))
    torch.save(there.state_dict(), tmp_path / "net.pt")
    net.load_state_dict(torch.load(tmp_path / "net.pt"))
    torch.testing.assert_close(net(x), there(x))
    assert not any(torch.equal(kept[name], p) for name, p in there.state_dict().items() if name in ("3.weight", "0.weight")) or method in (
        "anil",
        "boil",
    )
    with pytest.raises(InputError, match="not those of one network alone"):
        il.adapted_net(il.prototypical(net, ways=2), (x, torch.tensor([0, 1, 0, 1, 0])))


def test_a_metric_may_be_of_another_library() -> None:
    net = started(nn.Linear(1, 1))
    learner = il.maml(net, il.mse(net), 1, 0.01)
    absolute = lambda p, y: mean_absolute_error(numpy.asarray(y), numpy.asarray(p.detach()))
    found = il.evaluate(learner, il.from_tasks(lines(3, 4), test=lines(3, 4)), n_tasks=2, metric=absolute)
    expected = il.evaluate(learner, il.from_tasks(lines(3, 4), test=lines(3, 4)), n_tasks=2, metric=lambda p, y: (p - y).abs().mean())
    torch.testing.assert_close(found.values, expected.values, check_dtype=False)


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ({"optimizer": torch.optim.SGD([torch.zeros(1)], 0.1)}, "optimizer is a SGD that is made"),
        ({"optimizer": torch.optim.LBFGS}, "optimizer makes a LBFGS"),
        ({"optimizer": lambda params: None}, "optimizer makes a NoneType"),
        ({"optimizer": il.adam(1e-3), "outer_rate": 0.1}, r"outer_rate is 0\.1, but an optimizer has a rate of its own"),
        (
            {"schedule": torch.optim.lr_scheduler.ReduceLROnPlateau},
            "schedule makes a ReduceLROnPlateau; give one of torch's that steps by the",
        ),
    ],
)
def test_optimisers_and_schedules_that_cannot_be_used_are_refused(how: dict[str, Any], message: str) -> None:
    net = nn.Linear(1, 1)
    with pytest.raises(InputError, match=message):
        il.train(il.maml(net, il.mse(net)), WAVES, 2, progress=False, **how)
    with pytest.raises(InputError, match=r"steps is 1\.5; it must be a whole number"):
        il.maml(net, il.mse(net)).taking(1.5)  # type: ignore[arg-type]


def test_a_loaders_lists_are_told_from_tuples() -> None:
    net = nn.Linear(1, 1)
    x = torch.ones(3, 1)
    with pytest.raises(InputError, match=r"or one alone for all of them, such as a tuple \(x, y\)"):
        il.maml(net, il.mse(net), 1).adapt({}, [x, x])
    learner = il.maml(net, il.mse(net), 2)
    with pytest.raises(InputError, match="a list as support is one batch for each step, so give a tuple"):
        learner.adapt(learner.prior, [x, x])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda net, maml, l2f: maml(net, nn.MSELoss()), r"loss is MSELoss\(\), which knows no network; .* such as mse\(net\)"),
        (lambda net, maml, l2f: l2f(net, functional.cross_entropy), r"loss is cross_entropy, .* supervised\(net, cross_entropy\)"),
        (lambda net, maml, l2f: maml(net, None), "loss is None, which knows no network"),
        (lambda net, maml, l2f: maml(il.mse(net), net), "a network is a Supervised; give an nn.Module, and its loss behind it"),
        (lambda net, maml, l2f: maml(net, il.mse(net), 1.5), "steps is 1.5; it must be a whole number"),
        (
            lambda net, maml, l2f: maml(net, il.mse(net), 1, {"net": 0.1}),
            "rate is {'net': 0.1}; an inner rate must be 0 or more, or a function",
        ),
        (lambda net, maml, l2f: maml(net, il.mse(net), 2, [0.1]), "steps is 2 and there are 1 rates; give one rate, or one for each step"),
        (lambda net, maml, l2f: maml(net, il.mse(net), only=lambda name: True), "patterns are a function; give names or parts of names"),
    ],
)
def test_what_is_no_learner_is_refused_when_it_is_made(make: Any, message: str) -> None:
    anything: Any = il  # so that types, too, may be wrong
    with pytest.raises(InputError, match=message):
        make(nn.Linear(1, 1), anything.maml, anything.l2f)


def test_a_loss_of_torchs_is_made_one_of_the_network() -> None:
    net = nn.Linear(1, 1)
    x, y = torch.ones(2, 1), torch.tensor([[1.0], [5.0]])
    assert il.supervised(net, nn.L1Loss())({"net.weight": torch.ones(1, 1), "net.bias": torch.zeros(1)}, (x, y)) == 2


@pytest.mark.parametrize(("support", "query", "part"), [(0, 2, "support"), (2, 0, "query")])
def test_tasks_without_examples_are_refused(support: int, query: int, part: str) -> None:
    net = nn.Linear(1, 1)
    tasks = il.from_function(lambda generator: Task((torch.ones(support, 1),) * 2, (torch.ones(query, 1),) * 2))
    with pytest.raises(InputError, match=rf"the {part} of a task has no examples \(tensors of shapes \[0, 1\], \[0, 1\]\)"):
        il.train(il.maml(net, il.mse(net)), tasks, 2, meta_batch=2, progress=False)
    if part == "query":
        with pytest.raises(InputError, match="the query of a task has no examples"):
            il.evaluate(il.maml(net, il.mse(net)), tasks, n_tasks=2)
    else:  # nothing is taken from a support where there are no steps
        assert il.evaluate(il.maml(net, il.mse(net), 0), tasks, n_tasks=2).mean.isfinite().all()
