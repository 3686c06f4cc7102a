"""What is measured of a learner equals its closed forms."""

from dataclasses import dataclass
from math import acos, pi, sqrt
from pathlib import Path

import pytest
import torch
from conftest import built, image_net, image_tasks
from torch import nn
from torch.func import grad, grad_and_value
from torch.nn.functional import cross_entropy

import innerloop as il
from innerloop import InputError, Task, plots
from innerloop.analysis import (
    along_slope,
    angles,
    cka,
    conflict,
    conflict_within,
    embeddings,
    inner_landscape,
    kept,
    outer_landscape,
    probe,
    reuse,
    sweep,
    watch,
)
from innerloop.batches import one, some
from innerloop.methods import multi_maml
from innerloop.outer import logged
from innerloop.params import under, within
from innerloop.tasks import Families, Goals, Lines, Mixture


def bowl(steps: int = 1, rate: float = 0.1, curvature: float = 1.0) -> il.Learner:
    """MAML on L(w) = ½ c |w − target|², whose steps shrink w − target by 1 − rate · c."""
    net = nn.Linear(2, 1, bias=False).double()
    learner = il.maml(net, lambda params, batch: curvature * (params["net.weight"] - batch).square().sum() / 2, steps, rate)
    return il.Learner({"net.weight": torch.tensor([[3.0, 4.0]]).double()}, learner.steps, learner.loss)


@dataclass(frozen=True)
class Given:
    """A source of tasks that are there already."""

    tasks: Task
    seed: int = 0

    def draw(self, split: str, first: int, count: int) -> Task:
        return some(self.tasks, first, first + count)


def targets(*points: tuple[float, float]) -> Given:
    there = torch.tensor(points).double()[:, None]
    return Given(Task(there, there))


def test_angles_are_the_arccosines_of_the_paper() -> None:
    wishes = torch.randn(7, 3, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    rows = wishes.flatten(1)
    cosines = (rows / rows.norm(dim=1, keepdim=True)) @ rows.sum(0) / rows.sum(0).norm()
    torch.testing.assert_close(angles(wishes), cosines.arccos(), rtol=1e-12, atol=0)


def test_identical_tasks_have_no_conflict_and_opposite_ones_a_right_angle() -> None:
    same = conflict(bowl(), targets((0, 0), (0, 0), (0, 0)), 3)["net.weight"]
    assert same.tolist() == [0, 0, 0]
    equal = conflict(bowl(), targets((0, 0), (6, 8)), 2)["net.weight"]  # on both sides of (3, 4), as far away
    torch.testing.assert_close(equal, torch.full((2,), pi / 2, dtype=torch.float64), rtol=1e-12, atol=0)
    longer = conflict(bowl(), targets((0, 0), (9, 12)), 2)["net.weight"]
    torch.testing.assert_close(longer, torch.tensor([pi, 0.0], dtype=torch.float64), rtol=1e-12, atol=1e-12)
    assert float(longer.mean()) == pytest.approx(pi / 2)


def test_conflict_is_by_the_meta_gradient_of_each_task() -> None:
    found = conflict(bowl(), targets((3, 0), (0, 4)), 2)["net.weight"]  # they want to go along (0, −4) and (−3, 0)
    torch.testing.assert_close(found, torch.tensor([acos(4 / 5), acos(3 / 5)], dtype=torch.float64), rtol=1e-12, atol=0)
    net, tasks = image_net(), image_tasks()
    learner = il.l2f(net, il.cross_entropy(net), 2, 0.1, only=["net", "-net.1"], generator=torch.Generator().manual_seed(1))
    by_name = conflict(learner, Given(tasks), 2, only=["net.0.weight", "gate"])
    own = [grad(il.task_loss(learner))(learner.prior, one(tasks, k)) for k in range(2)]
    assert list(by_name) == [n for n in learner.prior if n.startswith(("net.0.weight", "gate"))]
    for name, angle in by_name.items():
        a, b = (g[name].flatten() for g in own)
        whole = (a + b) / (a + b).norm()
        torch.testing.assert_close(angle, torch.stack([(x / x.norm() @ whole).arccos() for x in (a, b)]), rtol=1e-6, atol=1e-7)


def test_conflict_is_measured_of_an_oracle_that_is_told_the_mode() -> None:
    nets = [il.mlp(1, 4, 1, generator=torch.Generator().manual_seed(k)) for k in range(2)]
    learner = multi_maml([il.maml(net, il.mse(net)) for net in nets])
    modes = Mixture({"waves": il.Sinusoids(5), "lines": Lines(5)}, told=True)
    found = conflict(learner, modes, 4, only="mode")["mode.net.0.weight"]
    apart = {"waves": nets[0], "lines": nets[1]}  # each mode's own prior has its part of the stack
    own = {k: grad(il.task_loss(il.maml(net, il.mse(net)))) for k, net in apart.items()}
    priors = {k: il.maml(net, il.mse(net)).prior for k, net in apart.items()}
    slopes = torch.zeros(4, 2, 4, 1)
    for i, mode in enumerate(("waves", "lines", "waves", "lines")):
        slopes[i, i % 2] = own[mode](priors[mode], one(modes.sources[mode].draw("train", i // 2, 1), 0))["net.0.weight"]
    torch.testing.assert_close(found, angles(slopes), rtol=1e-4, atol=1e-5)


def test_unrelated_tasks_are_as_far_apart_as_their_number_says() -> None:
    n = 16
    found = angles(torch.eye(n))
    torch.testing.assert_close(found, torch.full((n,), acos(1 / sqrt(n))))


def test_a_task_that_wants_nothing_has_no_angle() -> None:
    found = conflict(bowl(), targets((3, 4), (0, 0)), 2)["net.weight"]
    assert found[0].isnan()
    assert found[1] == 0


def test_conflict_within_a_task_is_by_each_example_in_its_batch() -> None:
    net, tasks = image_net(), image_tasks()
    task = one(tasks, 0)
    learner = il.maml(net, il.cross_entropy(net), 1, 0.1)
    found = conflict_within(learner, Given(tasks), 2)
    assert learner.model is not None
    model = learner.model
    x, y = task.query

    def alone(j: int) -> dict[str, torch.Tensor]:
        return grad(lambda p: cross_entropy(model(learner.adapt(p, task.support)[-1], x), y, reduction="none")[j])(learner.prior)

    slopes = [alone(j) for j in range(len(y))]
    del found["net.0.bias"]  # normalisation takes it off again, so that its slopes are rounding
    for name, angle in found.items():
        torch.testing.assert_close(angle[0], angles(torch.stack([s[name] for s in slopes])), rtol=1e-6, atol=1e-8)
    whole = grad(il.task_loss(learner))(learner.prior, task)
    torch.testing.assert_close(sum(s["net.0.weight"] for s in slopes) / len(y), whole["net.0.weight"])
    few = conflict_within(learner, Given(tasks), 2, examples=3)["net.0.weight"]
    torch.testing.assert_close(few[0], angles(torch.stack([slopes[j]["net.0.weight"] for j in (0, 2, 5)])), rtol=1e-6, atol=1e-8)
    assert conflict_within(learner, Given(tasks), 2, examples=1)["net.0.weight"].tolist() == [[0], [0]]


def test_examples_of_one_wish_have_no_conflict_and_opposite_ones_a_right_angle() -> None:
    net = nn.Linear(1, 1, bias=False).double()
    nn.init.zeros_(net.weight)
    learner, x = il.maml(net, il.mse(net), 1, 0.1), torch.ones(1, 2, 1).double()
    for wishes, angle in (([1.0, 3.0], 0.0), ([-1.0, 1.0], pi / 2)):
        support = (x, torch.zeros_like(x))  # moves nothing
        query = (x, torch.tensor(wishes).double().view(1, 2, 1))
        found = conflict_within(learner, Given(Task(support, query)), 1)["net.weight"]
        torch.testing.assert_close(found, torch.full((1, 2), angle).double())


def test_what_is_kept_is_the_factor(waves: Task) -> None:
    learner = built("l2f")
    found = kept(learner, Given(waves), 3)
    for k in range(3):
        start = learner.adapt(learner.prior, one(waves, k).support)[1]
        for name, share in found.items():
            torch.testing.assert_close(share[k] * learner.prior[name], start[name], rtol=1e-10, atol=1e-14)
    assert found["net.0.weight"].unique().numel() == 3
    for whole in kept(built("maml"), Given(waves), 3).values():
        torch.testing.assert_close(whole, torch.ones(3).double())
    base = built("maml")
    halved = il.attenuated_for_all(base, "layer")
    halved = il.Learner(
        halved.prior | {"factor.net.2.weight": torch.tensor(0.5).double()},
        halved.steps,
        halved.loss,
        halved.model,
        halved.prepared,
    )
    assert under(halved.prior, "factor")
    torch.testing.assert_close(kept(halved, Given(waves), 3, only="net.2.weight")["net.2.weight"], torch.full((3,), 0.5).double())


def test_a_sweep_scores_the_prior_attenuated_by_hand() -> None:
    net = il.mlp(1, 8, 8, 1, generator=torch.Generator().manual_seed(0))
    learner, tasks = il.maml(net, il.mse(net), 1, 0.01), il.Sinusoids(shots=5)
    found = sweep(learner, tasks, (0.0, 0.5, 1.0), layers=["net.0", "net.4.weight"], n_tasks=20)
    assert found.shape == (2, 3)
    plain = il.evaluate(learner, tasks, n_tasks=20).mean[-1]
    assert (found[:, 2] == plain).all()
    blank = il.Learner(learner.prior | {"net.4.weight": torch.zeros(1, 8)}, learner.steps, learner.loss, learner.model)
    assert found[1, 0] == il.evaluate(blank, tasks, n_tasks=20).mean[-1]
    assert found[0, 1] != found[1, 1]
    assert sweep(learner, tasks, (1.0,), n_tasks=5).shape == (6, 1), "one row a tensor"


def test_the_landscape_of_a_quadratic() -> None:
    curvature = torch.tensor([1.0, 4.0]).double()
    here = torch.tensor([3.0, 1.0]).double()
    loss = grad_and_value(lambda params: (curvature * params["net.w"].square()).sum() / 2)
    rates = (0.1, 0.3)
    found = along_slope(loss, {"net.w": here}, rates)
    slope = curvature * here
    losses = [float((curvature * (here - r * slope).square()).sum() / 2) for r in rates]
    assert found.loss.tolist() == pytest.approx(losses)
    assert found.difference.tolist() == pytest.approx([r * float((curvature * slope).norm()) for r in rates])
    assert float(found.smoothness) == pytest.approx(float((curvature * slope).norm() / slope.norm()))
    assert found.variation == pytest.approx(max(losses) - min(losses))


def test_the_inner_landscape_is_the_mean_over_tasks_and_steps() -> None:
    steps, rate, c = 2, 0.1, 2.0
    learner = bowl(steps, rate, c)
    found = inner_landscape(learner, targets((0, 0), (3, 0)), rate, 2, rates=(1.0, 2.0))
    assert float(found.smoothness) == pytest.approx(c)
    losses, differences = torch.zeros(2).double(), torch.zeros(2).double()
    for distance in (5.0, 4.0):  # of (3, 4) from the targets
        for step in range(steps):
            away = distance * (1 - rate * c) ** step
            losses += torch.tensor([c * (away * (1 - rate * r * c)) ** 2 / 2 for r in (1, 2)]).double() / 4
            differences += torch.tensor([rate * r * c * c * away for r in (1, 2)]).double() / 4
    torch.testing.assert_close(found.loss, losses)
    torch.testing.assert_close(found.difference, differences)


def test_the_outer_landscape_is_that_of_the_meta_loss() -> None:
    rate, c = 0.1, 2.0
    found = outer_landscape(bowl(3, rate, c), targets((0, 0), (0, 0)), 0.5, 2, rates=(1.0,))
    curvature = c * (1 - rate * c) ** 6  # the meta-loss is ½ c ((1 − rate c)³ |w|)²
    assert float(found.smoothness) == pytest.approx(curvature)
    assert found.loss.tolist() == pytest.approx([curvature * (5 * (1 - 0.5 * curvature)) ** 2 / 2])


def test_l2f_is_looked_at_from_where_it_begins(waves: Task) -> None:
    learner = built("l2f")
    found = inner_landscape(learner, Given(waves), 0.1, 3)
    start = [learner.adapt(learner.prior, one(waves, k).support)[1:3] for k in range(3)]
    one_by_one = [
        along_slope(grad_and_value(lambda p, k=k: learner.loss(p, one(waves, k).support)), point, [0.1 * r for r in (0.5, 1.0, 2.0, 4.0)])
        for k in range(3)
        for point in start[k]
    ]
    torch.testing.assert_close(found.loss, torch.stack([f.loss for f in one_by_one]).mean(0))
    assert float(found.smoothness) == pytest.approx(float(sum(f.smoothness for f in one_by_one)) / 6)


def test_an_embedding_is_what_the_encoder_tells_of_the_support_alone() -> None:
    net, encoder = il.with_film(il.mlp(1, 4, 1)), il.Recurrent(2, 3, generator=torch.Generator().manual_seed(0))
    learner, waves = il.mumomaml(net, il.mse(net), 2, 0.1, encoder=encoder), il.Sinusoids(5)
    found = embeddings(learner, waves, 6)
    with torch.no_grad():
        expected = [encoder(*one(waves.draw("test", 0, 6), k).support) for k in range(6)]
    torch.testing.assert_close(found, torch.stack(expected), rtol=1e-5, atol=1e-6)
    with pytest.raises(InputError, match="the learner has no encoder"):
        embeddings(il.maml(net, il.mse(net)), waves, 6)


def test_a_probe_reads_modes_that_are_there_and_no_others() -> None:
    generator = torch.Generator().manual_seed(0)
    modes = torch.arange(300) % 3
    noise = torch.randn(300, 4, generator=generator)
    assert probe(noise, modes) == pytest.approx(1 / 3, abs=0.12)
    assert probe(noise + 8 * torch.eye(4)[modes], modes) == 1.0
    assert probe(torch.tensor([[0.0], [1.0], [0.1], [1.1]]), torch.tensor([0, 1, 0, 1])) == 1.0, "of two tasks each"
    with pytest.raises(InputError, match="there are 2 modes, one of 1 tasks; give two tasks or more"):
        probe(noise[:3], torch.tensor([0, 0, 1]))


def test_cka_is_one_of_turned_copies_and_zero_of_unrelated_features() -> None:
    x = torch.randn(30, 4, generator=torch.Generator().manual_seed(0)).double()
    turn = torch.linalg.qr(torch.randn(4, 4, generator=torch.Generator().manual_seed(1)).double())[0]
    assert float(cka(x, 3 * x @ turn + 1)) == pytest.approx(1)
    a = torch.tensor([1.0, 1, -1, -1])[:, None]
    assert float(cka(a, torch.tensor([1.0, -1, 1, -1])[:, None])) == pytest.approx(0, abs=1e-7)
    y = torch.randn(30, 7, generator=torch.Generator().manual_seed(2)).double()
    centred = [t - t.mean(0) for t in (x, y)]
    product = (centred[1].T @ centred[0]).norm() ** 2 / ((centred[0].T @ centred[0]).norm() * (centred[1].T @ centred[1]).norm())
    assert float(cka(x, y)) == pytest.approx(float(product))


def test_what_does_not_move_is_reused_at_its_level_alone() -> None:
    net = il.mlp(1, 8, 8, 1, generator=torch.Generator().manual_seed(0))
    families = Goals(Families(il.Sinusoids(5, 10)))
    base = il.anil(net, il.mse(net), 3, 0.05)
    found = reuse(il.meta_finetuned(il.maltml(base, 1, 0.05), base), families, 5)
    assert list(found) == ["preparation", "adaptation"]
    assert list(found["adaptation"]) == ["0", "2", "4"], "layers with parameters"
    for name in ("0", "2"):
        torch.testing.assert_close(found["adaptation"][name], torch.ones(5))
    assert found["preparation"]["2"].mean() < 0.9999
    body = il.boil(net, il.mse(net), 3, 0.05)
    alone = reuse(body, il.Sinusoids(5, 10), 5)
    assert list(alone) == ["adaptation"]
    assert alone["adaptation"]["2"].mean() < 0.9999
    x = il.Sinusoids(5, 10).draw("test", 0, 1)
    point = body.adapt(body.prior, one(x, 0).support)[-1]
    hidden = [x.query[0][0] @ p["net.0.weight"].T + p["net.0.bias"] for p in (body.prior, point)]
    assert float(alone["adaptation"]["0"][0]) == pytest.approx(float(cka(*hidden)), rel=1e-4)
    chosen = reuse(multi_maml([body, body]), Mixture({"waves": il.Sinusoids(5, 10)}, told=True), 5)
    torch.testing.assert_close(dict(chosen), dict(alone))  # its network is there only when the mode is chosen
    assert reuse(il.pretrained(net, il.mse(net)), il.Sinusoids(5, 10), 5) == {}, "nothing adapts"
    line = nn.Linear(1, 1)
    whole = reuse(il.maml(line, il.mse(line), rate=0.1), il.Sinusoids(5, 10), 5)
    assert whole["adaptation"].keys() == {""}, "a network of one layer"
    with pytest.raises(InputError, match="is not of a network whose layers could be looked at"):
        reuse(bowl(), targets((0, 0)), 1)


def test_what_cannot_be_measured_is_refused(waves: Task) -> None:
    learner = built("maml")
    with pytest.raises(InputError, match="n_tasks is 1; conflict is between two or more"):
        conflict(learner, Given(waves), 1)
    with pytest.raises(InputError, match="n_tasks is 0; give 1 or more"):
        kept(learner, Given(waves), 0)
    with pytest.raises(InputError, match="pattern 'nett' matches no parameter"):
        conflict(learner, Given(waves), 3, only="nett")
    with pytest.raises(InputError, match="examples is 0; give 1 or more, or None for all"):
        conflict_within(learner, Given(waves), 3, examples=0)
    with pytest.raises(InputError, match="loss does not tell predictions from labels; build it with supervised"):
        conflict_within(bowl(), targets((0, 0)), 1)
    with pytest.raises(InputError, match=r"the rates are \(0.0,\); give one or more above 0"):
        along_slope(grad_and_value(lambda p: learner.loss(p, one(waves, 0).query)), learner.prior, (0.0,))
    with pytest.raises(InputError, match="takes no steps after preparation"):
        inner_landscape(il.Learner(learner.prior, (), learner.loss), Given(waves), 0.1)
    assert within(learner.prior, "net")


def test_a_training_is_watched_and_not_disturbed(tmp_path: Path) -> None:
    net = il.mlp(1, 8, 1, generator=torch.Generator().manual_seed(0))
    learner, tasks = il.l2f(net, il.mse(net), 1, 0.01), il.Sinusoids()
    how: dict = {"meta_batch": 3, "validation_tasks": 0, "progress": False, "log_every": 2, "engine": "vmap"}  # auto goes by the clock
    rows: list[dict] = []
    watched = il.train(learner, tasks, 5, watch=watch(tasks, 0.01, 1e-3), watch_every=2, log=rows.append, out=tmp_path, **how)
    plain = il.train(learner, tasks, 5, **how)
    torch.testing.assert_close(watched.prior, plain.prior, rtol=0, atol=0)
    looks = [row for row in rows if "conflict" in row]
    assert [row["iteration"] for row in looks] == [0, 2, 4, 5]
    last = looks[-1]
    names = [name for name in learner.prior if name.startswith("net")]
    assert list(last["conflict"]) == list(last["conflict_within"]) == list(last["kept"]) == names
    found = conflict(watched, tasks, 10)["net.0.weight"].mean()
    assert last["conflict"]["net.0.weight"] == pytest.approx(float(found), rel=1e-5)
    within_tasks = conflict_within(watched, tasks, 2, 10)["net.0.weight"].mean()
    assert last["conflict_within"]["net.0.weight"] == pytest.approx(float(within_tasks), rel=1e-5)
    assert last["kept"]["net.0.weight"] == pytest.approx(float(kept(watched, tasks, 10, split="train")["net.0.weight"].mean()), rel=1e-5)
    assert last["inner_val"]["smoothness"] == pytest.approx(
        float(inner_landscape(watched, tasks, 0.01, 10, split="val").smoothness), rel=1e-4
    )
    assert last["outer"]["loss"] == pytest.approx(outer_landscape(watched, tasks, 1e-3, 10).loss.tolist(), rel=1e-5)
    assert "kept" not in watch(tasks, 0.01, 1e-3)(il.maml(net, il.mse(net)))
    assert [row for row in logged(tmp_path) if "conflict" in row][-1]["outer"] == last["outer"], "and written as JSON"


def test_figures_of_what_was_watched() -> None:
    net = il.mlp(1, 8, 1)
    tasks, runs = il.Sinusoids(), {}
    for title, learner in {"MAML": il.maml(net, il.mse(net)), "L2F": il.l2f(net, il.mse(net), 1)}.items():
        rows: list[dict] = []
        il.train(learner, tasks, 4, watch=watch(tasks, 0.01, 1e-3, 3), watch_every=2, validation_tasks=0, progress=False, log=rows.append)
        runs[title] = rows
    for panels, figure in ((4, plots.conflicts(runs)), (9, plots.landscapes(runs))):
        assert len(figure.axes) == panels
        assert plots.png(figure).startswith(b"\x89PNG")
    assert [panel.get_title() for panel in plots.landscapes(runs).axes[:3]] == ["loss", "difference of slopes", "effective β"]
    assert len(plots.conflicts(runs).axes[0].lines) == 4, "a line for each tensor"
    assert plots.png(plots.spread(kept(il.l2f(net, il.mse(net)), tasks, 10), "L2F", "kept")).startswith(b"\x89PNG")
