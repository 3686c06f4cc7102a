"""MuMoMAML and Multi-MAML: what modulation is, what it leaves alone, and what switching it off gives."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import EAGER, built, differences, image_net, image_tasks, of_two_points, smooth_net
from torch import Tensor, nn

import innerloop as il
from innerloop import InputError, Learner, Task, analysis, experiments, gallery, meta_loss
from innerloop.batches import map_tensors, one, some
from innerloop.engine import Plan, meta_gradient
from innerloop.experiments.experiment import Options
from innerloop.losses import model
from innerloop.models import FiLM, convnet
from innerloop.params import Params, named, within
from innerloop.tasks import Told


def close(a: Any, b: Any) -> None:
    torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-14)


def silent(learner: Learner) -> Params:
    """The prior with heads that tell nothing."""
    return learner.prior | {name: torch.zeros_like(p) for name, p in within(learner.prior, "head").items()}


def plain(params: Params) -> Params:
    """The parameters of a network with FiLM by their names without it."""
    return {name.replace(".layer.", "."): p for name, p in within(params, ["net", "-net.*.scale", "-net.*.shift"]).items()}


@pytest.mark.parametrize("layers", [1, 2])
@pytest.mark.parametrize("cell", ["gru", "lstm"])
def test_the_encoder_reads_as_torchs_own_recurrent_networks(cell: Any, layers: int) -> None:
    ours = il.Recurrent(inputs=2, hidden=3, cell=cell, layers=layers).double()
    theirs = {"gru": nn.GRU, "lstm": nn.LSTM}[cell](2, 3, layers, bidirectional=True).double()
    with torch.no_grad():
        for k in range(layers):
            for suffix, readers in (("", ours.onward), ("_reverse", ours.backward)):
                for name, kind in (("ih", "of_point"), ("hh", "of_state")):
                    linear = getattr(readers[k], kind)
                    linear.weight.copy_(getattr(theirs, f"weight_{name}_l{k}{suffix}"))
                    linear.bias.copy_(getattr(theirs, f"bias_{name}_l{k}{suffix}"))
    x, y = torch.randn(2, 5, 1, dtype=torch.float64).unbind()
    last = theirs(torch.cat([x, y], dim=-1))[1]
    states = last[0] if cell == "lstm" else last
    close(ours(x, y), states[-2:].flatten())
    many = torch.func.vmap(lambda x, y: model(ours)(named("net", ours), x, y))(torch.stack([x, y]), torch.stack([y, x]))
    close(many, torch.stack([ours(x, y), ours(y, x)]))


def test_the_order_of_points_is_read_and_the_start_comes_from_the_generator() -> None:
    a, b = (il.Recurrent(2, 3, generator=torch.Generator().manual_seed(0)) for _ in range(2))
    x = torch.rand(4, 1)
    torch.testing.assert_close(a(x, x), b(x, x), rtol=0, atol=0)
    assert not torch.allclose(a(x, x), a(x.flip(0), x.flip(0)))
    assert max(p.abs().max() for p in a.parameters()) <= 3**-0.5


def test_film_scales_and_shifts_the_units_of_a_layer() -> None:
    x = torch.randn(2, 3, 4, 4)
    for layer, given in ((nn.Linear(4, 5), x), (nn.Conv2d(3, 5, 3), x), (nn.BatchNorm2d(3, affine=False), x), (nn.Linear(4, 5), x[0, 0])):
        film = FiLM(layer)
        close(film(given), layer(given))
        with torch.no_grad():
            film.scale.copy_(torch.arange(len(film.scale)) + 2.0)
            film.shift.copy_(torch.arange(len(film.shift)) - 1.0)
        axis = -1 if isinstance(layer, nn.Linear) else 1
        units, expected = film(given).movedim(axis, 0), layer(given).movedim(axis, 0)
        for k in range(len(film.scale)):
            torch.testing.assert_close(units[k], expected[k] * (k + 2) + k - 1)


def test_a_network_with_film_begins_as_the_network_and_keeps_its_last_layer() -> None:
    net = smooth_net()
    filmed = il.with_film(net)
    assert [name for name, layer in filmed.named_modules() if isinstance(layer, FiLM)] == ["0", "2"]
    close(filmed(torch.ones(3, 1).double()), net(torch.ones(3, 1).double()))
    assert [name for name, layer in il.with_film(net, ["2"]).named_modules() if isinstance(layer, FiLM)] == ["2"]
    assert not any(isinstance(layer, FiLM) for layer in net.modules()), "the network given stays as it is"


@pytest.mark.parametrize("norm", ["transductive", "shift", "none"])
def test_what_is_modulated_is_not_undone_by_the_normalisation_that_follows(norm: Any) -> None:
    """A scale in front of a batch normalisation changes nothing, and neither does a shift."""
    net = convnet((1, 8, 8), 3, 2, 2, norm=norm).double()
    filmed = il.with_film(net)
    layers = [name for name, layer in filmed.named_modules() if isinstance(layer, FiLM)]
    assert layers == [f"block{k}.{'conv' if norm == 'none' else 'norm'}" for k in (1, 2)]
    x = torch.rand(4, 1, 8, 8, dtype=torch.float64)
    close(filmed(x), net(x))
    for layer in layers:
        for part in ("scale", "shift"):
            moved = dict(filmed.named_parameters()) | {f"{layer}.{part}": torch.tensor([0.5, 3.0], dtype=torch.float64)}
            assert (torch.func.functional_call(filmed, moved, (x,)) - net(x)).abs().max() > 1e-2


def test_heads_that_tell_nothing_leave_the_base_learner(waves: Task) -> None:
    learner, base = built("mumomaml"), built("maml")
    blank = silent(learner)
    close(plain(blank), base.prior)
    found, loss = meta_gradient(learner)(blank, waves)
    expected, own = meta_gradient(base)(base.prior, waves)
    close(loss, own)
    close(plain(found), expected)
    assert all((found[f"head.{layer}.2.bias"] != 0).all() for layer in (0, 2)), "but heads are trained"


def test_of_an_encoder_frozen_layers_stay_and_nothing_is_dropped_out_in_test() -> None:
    encoder = OfFeatures()
    net = il.with_film(il.mlp(1, 8, 1))
    learner = il.mumomaml(net, il.mse(net), encoder=encoder, size=3)
    assert [name for name in learner.prior if name.startswith("encoder")] == ["encoder.last.weight", "encoder.last.bias"]
    before = encoder.features.weight.clone()
    trained = il.train(learner, il.Sinusoids(), 2, progress=False)
    assert not torch.equal(trained.prior["encoder.last.weight"], learner.prior["encoder.last.weight"])
    assert torch.equal(encoder.features.weight, before)
    first, second = (il.evaluate(trained, il.Sinusoids(), n_tasks=5, progress=False).values for _ in range(2))
    assert torch.equal(first, second)


def test_an_encoder_that_is_frozen_as_a_whole_still_tells_of_tasks() -> None:
    net = il.with_film(il.mlp(1, 8, 1))
    learner = il.mumomaml(net, il.mse(net), encoder=OfFeatures().requires_grad_(False), size=3)
    assert not [name for name in learner.prior if name.startswith("encoder")]
    assert analysis.embeddings(learner, il.Sinusoids(), 4).shape == (4, 3)


class OfFeatures(nn.Module):
    """An encoder of features that are given."""

    def __init__(self) -> None:
        super().__init__()
        self.features, self.drop, self.last = nn.Linear(2, 8).requires_grad_(False), nn.Dropout(0.5), nn.Linear(8, 3)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return self.last(self.drop(self.features(torch.cat([x, y], -1)).tanh())).mean(-2)


@pytest.mark.parametrize("operation", ["film", "sigmoid", "softmax"])
def test_units_are_modulated_before_their_activation_by_what_the_support_tells(operation: Any, waves: Task) -> None:
    learner = built("mumomaml", operation=operation)
    p, support = learner.prior, one(waves, 1).support
    net = learner.adapt(p, support)[1]
    encoder = il.Recurrent(2, 2).double()
    v = model(encoder, "encoder")(p, *support)
    x = torch.linspace(-1, 1, 3, dtype=torch.float64)[:, None]
    h = x
    for layer in (0, 2):
        t = p[f"head.{layer}.2.weight"] @ (p[f"head.{layer}.0.weight"] @ v + p[f"head.{layer}.0.bias"]).relu() + p[f"head.{layer}.2.bias"]
        scale, shift = {"film": (1 + t[:4], t[4:]), "sigmoid": (t.sigmoid(), 0 * t), "softmax": (t.softmax(0), 0 * t)}[operation]
        h = torch.tanh((h @ p[f"net.{layer}.layer.weight"].T + p[f"net.{layer}.layer.bias"]) * scale + shift)
    assert learner.model is not None
    close(learner.model(net, x), h @ p["net.4.weight"].T + p["net.4.bias"])
    close(net["embedding"], v)


def test_what_is_told_stays_through_the_steps_and_is_each_tasks_own(waves: Task) -> None:
    learner = built("mumomaml", steps=3)
    told = ["net.0.scale", "net.0.shift", "net.2.scale", "net.2.shift", "embedding"]
    paths = [learner.adapt(learner.prior, one(waves, k).support) for k in (0, 1)]
    for path in paths:
        for point in path[2:]:
            torch.testing.assert_close({n: point[n] for n in told}, {n: path[1][n] for n in told}, rtol=0, atol=0)
        assert not torch.equal(path[1]["net.0.scale"], path[0]["net.0.scale"])
        assert all(torch.equal(path[-1][name], p) for name, p in within(learner.prior, ["encoder", "head"]).items())
    assert not torch.equal(paths[0][1]["net.0.scale"], paths[1][1]["net.0.scale"])


@pytest.mark.parametrize("plan", EAGER, ids=str)
def test_the_encoder_sees_the_support_alone(plan: Plan, waves: Task) -> None:
    """The meta-gradient is that of losses at points that know nothing of the query."""
    learner = built("mumomaml")

    def by_hand(prior: Params, tasks: Task) -> Tensor:
        unknown = tasks._replace(query=map_tensors(torch.zeros_like, tasks.query))
        ends = [learner.adapt(prior, one(unknown, k).support)[-1] for k in range(3)]
        return torch.stack([learner.loss(end, one(tasks, k).query) for k, end in enumerate(ends)]).mean()

    found, loss = meta_gradient(learner, plan)(learner.prior, waves)
    expected, own = torch.func.grad_and_value(by_hand)(learner.prior, waves)
    torch.testing.assert_close((found, loss), (expected, own), rtol=1e-10, atol=1e-12)
    adapt = torch.func.vmap(lambda task: learner.adapt(learner.prior, task.support)[-1])
    other = waves._replace(support=map_tensors(lambda t: t + 1, waves.support))
    assert not torch.allclose(adapt(other)["embedding"], adapt(waves)["embedding"])


def test_encoder_and_heads_are_trained_through_every_use_of_what_they_tell(waves: Task) -> None:
    """In support losses too: were scales constants there, the encoder's gradient would be another."""
    learner = built("mumomaml")
    trained = within(learner.prior, ["encoder", "head"])
    expected = differences(lambda p: meta_loss(learner)({**learner.prior, **p}, waves), trained)
    found = meta_gradient(learner)(learner.prior, waves)[0]
    torch.testing.assert_close({name: found[name] for name in trained}, expected, rtol=1e-6, atol=1e-8)
    assert not any(found[name].any() for name in within(learner.prior, ["net.*.scale", "net.*.shift"])), "those of the prior are not used"


@pytest.mark.parametrize("base", [il.fomaml, il.meta_sgd, il.maml_plus_plus, il.l2f, il.anil], ids=lambda f: f.__name__)
@pytest.mark.parametrize("plan", [*EAGER, Plan(compiled=True)], ids=str)
def test_every_plan_agrees_in_front_of_other_learners(base: Callable[..., Learner], plan: Plan, waves: Task) -> None:
    if plan.compiled and base is not il.l2f:
        pytest.skip("one of them is enough to compile")
    net = il.with_film(smooth_net())
    encoder = il.Recurrent(2, 2, generator=torch.Generator().manual_seed(0)).double()
    learner = il.mumomaml(net, il.mse(net), 2, 0.1, encoder=encoder, base=base)
    assert learner.prepared == (2 if base is il.l2f else 1)
    tasks = of_two_points(waves) if plan.compiled else waves
    expected = meta_gradient(learner)(learner.prior, tasks)
    torch.testing.assert_close(meta_gradient(learner, plan)(learner.prior, tasks), expected, rtol=1e-10, atol=1e-12)


def test_normalisations_are_modulated_by_the_scale_and_shift_that_they_have() -> None:
    net, tasks = image_net(), image_tasks()
    encoder = il.OfImages((1, 4, 4), size=4, ways=3, filters=(2, 2)).double()
    learner = il.mumomaml(net, il.cross_entropy(net), 2, 0.1, encoder=encoder, hidden=None)
    path = learner.adapt(learner.prior, one(tasks, 0).support)
    assert sorted(name for name in learner.prior if name.startswith("head")) == ["head.1.0.bias", "head.1.0.weight"]
    t = learner.prior["head.1.0.weight"] @ path[1]["embedding"] + learner.prior["head.1.0.bias"]
    for point in path[1:]:
        close((point["net.1.weight"], point["net.1.bias"]), (1 + t[:3], t[3:]))
    for plan in (Plan(loop=True, recompute=True), Plan(stepwise=True)):
        expected = meta_gradient(learner)(learner.prior, tasks)
        torch.testing.assert_close(meta_gradient(learner, plan)(learner.prior, tasks), expected, rtol=1e-10, atol=1e-12)


def test_what_is_modulated_has_no_value_for_every_step_of_maml_plus_plus() -> None:
    net, tasks = image_net(), image_tasks()
    encoder = il.OfImages((1, 4, 4), size=4, ways=3, filters=(2, 2)).double()
    learner = il.mumomaml(net, il.cross_entropy(net), 2, 0.1, encoder=encoder, hidden=None, base=il.maml_plus_plus)
    assert not within(learner.prior, ["net", "rate", "head"]).keys() & {"norm.net.1.weight", "rate.net.1.weight"}
    path = learner.adapt(learner.prior, one(tasks, 0).support)
    t = learner.prior["head.1.0.weight"] @ path[1]["embedding"] + learner.prior["head.1.0.bias"]
    for point in path[1:]:
        close((point["net.1.weight"], point["net.1.bias"]), (1 + t[:3], t[3:]))


def test_the_encoder_of_images_knows_labels_where_it_is_told_ways_and_no_order() -> None:
    x, y = torch.rand(6, 1, 8, 8), torch.tensor([0, 0, 1, 1, 2, 2])
    told, blind = (il.OfImages((1, 8, 8), 4, ways, (2, 2), torch.Generator().manual_seed(0)) for ways in (3, None))
    order = torch.tensor([5, 3, 1, 0, 2, 4])
    for encoder in (told, blind):
        torch.testing.assert_close(encoder(x[order], y[order]), encoder(x, y))
    torch.testing.assert_close(blind(x, y.flip(0)), blind(x, y), rtol=0, atol=0)
    assert not torch.allclose(told(x, y.flip(0)), told(x, y))


def two() -> list[Learner]:
    """MAML from two starts."""
    other = smooth_net()
    for p in other.parameters():
        nn.init.normal_(p, std=0.5, generator=torch.Generator().manual_seed(9))
    return [built("maml"), il.maml(other, il.mse(other), 2, 0.1)]


@pytest.mark.parametrize("plan", [Plan(), *EAGER], ids=str)
def test_multi_maml_of_one_mode_is_maml(plan: Plan, waves: Task) -> None:
    base = built("maml")
    multi = il.multi_maml([base])
    told = waves._replace(support=Told(waves.support, torch.zeros(3, dtype=torch.long)))
    found, loss = meta_gradient(multi, plan)(multi.prior, told)
    expected, own = meta_gradient(base)(base.prior, waves)
    torch.testing.assert_close(loss, own, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(found, {f"mode.{name}": g[None] for name, g in expected.items()}, rtol=1e-10, atol=1e-12)


def test_each_mode_is_trained_by_its_own_tasks(waves: Task) -> None:
    learners = two()
    multi = il.multi_maml(learners)
    told = waves._replace(support=Told(waves.support, torch.tensor([1, 0, 1])))
    found, _ = meta_gradient(multi)(multi.prior, told)
    for mode, mine in enumerate(([1], [0, 2])):
        tasks = map_tensors(lambda t, mine=mine: t[mine], waves)
        expected, _ = meta_gradient(learners[mode])(learners[mode].prior, tasks)
        for name, g in expected.items():
            close(found[f"mode.{name}"][mode], g * len(mine) / 3)
        path = multi.adapt(multi.prior, one(told, mine[0]).support)
        close(path[-1]["net.0.weight"], learners[mode].adapt(learners[mode].prior, one(waves, mine[0]).support)[-1]["net.0.weight"])


def test_an_oracle_is_compared_on_the_same_tasks() -> None:
    mixed = {told: il.Mixture({"waves": il.Sinusoids(5), "lines": il.tasks.Lines(5)}, told=told) for told in (False, True)}
    net = il.mlp(1, 4, 1)
    base = il.maml(net, il.mse(net))
    alone, multi = il.evaluate(base, mixed[False], n_tasks=6), il.evaluate(il.multi_maml([base, base]), mixed[True], n_tasks=6)
    torch.testing.assert_close(il.compare(alone, multi).values, torch.zeros(6, 2), rtol=0, atol=1e-6)
    with pytest.raises(InputError, match="different tasks"):
        il.compare(alone, il.evaluate(base, il.Mixture({"lines": il.tasks.Lines(5)}), n_tasks=6))


def test_mumomaml_trains_on_a_mixture_and_goes_on_from_its_folder(tmp_path: Any) -> None:
    both = il.Mixture({"waves": il.Sinusoids(5), "lines": il.tasks.Lines(5)})
    net = il.with_film(il.mlp(1, 16, 16, 1, generator=torch.Generator().manual_seed(0)))
    encoder = il.Recurrent(2, 8, generator=torch.Generator().manual_seed(1))
    learner = il.mumomaml(net, il.mse(net), 1, 0.01, encoder=encoder, hidden=8, generator=torch.Generator().manual_seed(2))
    trained = il.train(learner, both, 300, meta_batch=20, outer_rate=1e-2, out=tmp_path, progress=False, engine="vmap")
    before, after = (il.evaluate(x, both, n_tasks=100).mean for x in (learner, trained))
    assert after[1] < before[1] / 3
    torch.testing.assert_close(il.load(tmp_path, learner).prior, trained.prior, rtol=0, atol=0)


@pytest.mark.parametrize("variant", ["", "@multi-maml", "@maml"])
def test_sets_of_images_are_modes_of_one_distribution(variant: str, sets: Path) -> None:
    [experiment] = experiments.find(f"mumomaml/images-5w1s{variant}")
    named = ("meta-birds", "meta-omniglot")
    how: dict[str, Any] = {"sets": named, "size": 16, "ways": 4, "queries": 2, "test_queries": 3, "filters": 4, "test_tasks": 8}
    row = experiments.run(experiment, replace(experiment.settings, **how), Options(out=sets / "runs", quick=True, progress=False))
    assert list(row["cases"]) == ["4-way 1-shot", *named]
    assert {len(case["mean"]) for case in row["cases"].values()} == {6}
    learner = il.load(sets / f"runs/mumomaml/images-5w1s{variant}/seed0")
    assert ("modes.png" in gallery.of_run(sets / f"runs/mumomaml/images-5w1s{variant}/seed0", row)) == (not variant), (
        "where there is an encoder"
    )
    groups = {"": {"net", "encoder", "head"}, "@multi-maml": {"mode"}, "@maml": {"net"}}
    assert {name.split(".")[0] for name in learner.prior} == groups[variant]


@pytest.mark.parametrize(("norm", "scale"), [("transductive", "weight"), ("shift", "scale"), ("none", "scale")])
def test_omniglots_network_is_modulated_behind_the_normalisation_that_is_asked_for(norm: Any, scale: str) -> None:
    [experiment] = experiments.find("mumomaml/omniglot-5w1s")
    settings: Any = experiment.settings
    assert settings.norm == "transductive", "what a result line tells is what is run"
    learner = experiment.build(replace(settings, norm=norm, filters=4)).learner
    layer = "conv" if norm == "none" else "norm"
    assert {f"net.block{k}.{layer}.{scale}" for k in (1, 2, 3, 4)} <= learner.prior.keys()
    assert {name.removesuffix(".0.weight") for name in learner.prior if name.startswith("head.") and name.endswith(".0.weight")} == {
        f"head.block{k}.{layer}" for k in (1, 2, 3, 4)
    }


def test_several_sets_have_splits_of_their_own() -> None:
    [experiment] = experiments.find("mumomaml/images-5w1s")
    with pytest.raises(InputError, match="each of several sets has the split that it was built with"):
        experiment.build(replace(experiment.settings, split="vinyals"))


def test_a_mixture_has_exact_parts_and_leaves_no_task_out() -> None:
    sources = {"waves": il.Sinusoids(3, 2), "lines": il.tasks.Lines(3, 2), "parabolas": il.tasks.Parabolas(3, 2)}
    mixed = il.Mixture(sources, shares=(1, 2, 1))
    assert mixed.modes(0, 9).tolist() == [0, 1, 1, 2, 0, 1, 1, 2, 0]
    drawn, modes = mixed.draw("train", 3, 8), mixed.modes(3, 8)
    seen = {"waves": 1, "lines": 2, "parabolas": 0}  # of the tasks 0, 1 and 2
    for k, mode in enumerate(modes.tolist()):
        name = list(sources)[mode]
        torch.testing.assert_close(some(drawn, k, k + 1), sources[name].draw("train", seen[name], 1), rtol=0, atol=0)
        seen[name] += 1
    torch.testing.assert_close(mixed.draw("train", 7, 1), some(drawn, 4, 5), rtol=0, atol=0)
    told = il.Mixture(sources, shares=(1, 2, 1), told=True).draw("train", 3, 8).support
    assert isinstance(told, Told)
    assert told.mode.tolist() == modes.tolist()
    torch.testing.assert_close(told.batch, drawn.support, rtol=0, atol=0)
    lines = il.Mixture(sources, shares=(1, 2, 1), told=True).alone("lines")
    assert lines.modes(0, 3).tolist() == [1, 1, 1]
    torch.testing.assert_close(lines.draw("train", 4, 3).query, sources["lines"].draw("train", 4, 3).query, rtol=0, atol=0)


def test_lines_and_parabolas_are_what_the_paper_says() -> None:
    lines, parabolas = il.tasks.Lines(50, 4, noise=0.0), il.tasks.Parabolas(50, 4, noise=0.3, query_noise=0.0)
    (x, y), (a, b) = lines.draw("test", 0, 2000).support, lines.coefficients("test", 0, 2000).unbind(1)
    torch.testing.assert_close(y, a[:, None, None] * x + b[:, None, None])
    assert a.min() < -2.98 < 2.98 < a.max()
    (x, y), (a, c, b, sign) = parabolas.draw("test", 0, 2000).query, parabolas.coefficients("test", 0, 2000).unbind(1)
    curve = lambda x: (sign.sign() * a)[:, None, None] * (x - c[:, None, None]) ** 2 + b[:, None, None]
    torch.testing.assert_close(y, curve(x), rtol=1e-4, atol=1e-5)
    assert (sign > 0).float().mean().item() == pytest.approx(0.5, abs=0.04)
    assert 0.02 <= a.min() < 0.021 < 0.149 < a.max() <= 0.15
    x, y = parabolas.draw("test", 0, 2000).support
    assert (y - curve(x)).std().item() == pytest.approx(0.3, rel=0.02)


def _film(**how: Any) -> Learner:
    net = il.with_film(smooth_net())
    given: dict[str, Any] = {"encoder": il.Recurrent(2, 2)} | how
    return il.mumomaml(net, il.mse(net), **given)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: il.mumomaml(net := smooth_net(), il.mse(net), encoder=il.Recurrent(2)), "no layer that can be modulated; make it with w"),
        (lambda: _film(base=il.context_vector), "of a context vector's learner the context alone moves"),
        (lambda: _film(operation="flim"), "operation is 'flim'; did you mean film"),
        (lambda: _film(encoder=nn.Linear(1, 1)), "how many numbers does a Linear give. say so with size"),
        (lambda: il.with_film(smooth_net(), ["7"]), "there is no layer '7'"),
        (lambda: il.with_film(smooth_net(), ["1"]), "the units of a Tanh cannot be modulated"),
        (lambda: il.mumomaml(net := convnet((1, 4, 4), 2, 2, 2, norm="shift"), il.mse(net), encoder=il.Recurrent(2)), "no layer that can"),
        (lambda: il.with_film(nn.Linear(1, 1)), "no linear layer or convolution before its last"),
        (lambda: il.Recurrent(2, cell="rnn"), "cell is 'rnn' with 1 layers"),  # pyright: ignore[reportArgumentType]
        (lambda: il.multi_maml([]), "there are no learners"),
        (lambda: il.multi_maml([built("maml"), built("meta_sgd")]), "priors differ in names or shapes"),
        (lambda: il.evaluate(il.multi_maml([built("maml", torch.float32)]), il.Sinusoids(), n_tasks=1), "does not tell the mode"),
        (lambda: il.Mixture({}), "there are 0 sources"),
        (lambda: il.Mixture({"a": il.Sinusoids()}).alone("b"), "there is no mode 'b'"),
        (lambda: il.Mixture({"a": il.Sinusoids()}, shares=(1, 2)), r"1 sources with shares \[1, 2\]"),
        (lambda: il.Mixture({"a": il.Sinusoids(3), "b": il.Sinusoids(4, seed=1)}).draw("train", 0, 2), "tasks of a and b differ in shape"),
        (lambda: il.Mixture({"a": il.Sinusoids(), "b": il.Sinusoids(noise=1.0)}), r"a and b are both Sinusoids of seed 0.*seed=1\)"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_said(make: Callable[[], Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        make()
