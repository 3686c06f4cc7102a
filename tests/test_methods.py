"""What every method must hold, and each method's identity with its idea switched off."""

from collections.abc import Callable

import pytest
import torch
from conftest import EAGER, built, differences, image_net, image_tasks, of_two_points, smooth_net
from torch import Tensor, nn
from torch.autograd import gradcheck

import innerloop as il
from innerloop import Learner, Task, meta_loss
from innerloop.batches import count, map_tensors, one
from innerloop.engine import Plan, meta_gradient
from innerloop.models.exchange import exchanged
from innerloop.params import named, within

Build = Callable[..., Learner]


def test_all_methods_are_under_test() -> None:
    assert sorted(il.METHODS) == [
        *("anil", "boil", "context_vector", "fomaml", "l2f", "maml", "maml_plus_plus", "meta_sgd", "per_step_rates", "reptile")
    ]


def test_the_meta_gradient_equals_finite_differences(method: Build, waves: Task) -> None:
    learner = method()
    if method.args in (("fomaml",), ("reptile",)):  # pyright: ignore[reportFunctionMemberAccess]
        pytest.skip("what is detached is not in the gradient of the meta-loss; its own test says what it is")
    gradient, _ = meta_gradient(learner)(learner.prior, waves)
    torch.testing.assert_close(gradient, differences(lambda p: meta_loss(learner)(p, waves), learner.prior), rtol=1e-6, atol=1e-8)


def test_the_meta_loss_passes_gradcheck(method: Build, waves: Task) -> None:
    learner = method()
    if method.args in (("fomaml",), ("reptile",)):  # pyright: ignore[reportFunctionMemberAccess]
        pytest.skip("what is detached is not in the gradient of the meta-loss; its own test says what it is")
    inputs = tuple(p.clone().requires_grad_() for p in learner.prior.values())
    assert gradcheck(lambda *p: meta_loss(learner)(dict(zip(learner.prior, p, strict=True)), waves), inputs)


@pytest.mark.parametrize("plan", EAGER, ids=str)
def test_every_plan_gives_the_same_meta_gradient(method: Build, waves: Task, plan: Plan) -> None:
    learner = method()
    expected = meta_gradient(learner)(learner.prior, waves)
    torch.testing.assert_close(meta_gradient(learner, plan)(learner.prior, waves), expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("plan", EAGER, ids=str)
def test_every_plan_agrees_in_single_precision(method: Build, waves: Task, plan: Plan) -> None:
    learner, tasks = method(dtype=torch.float32), map_tensors(lambda t: t.float(), waves)
    expected, loss = meta_gradient(learner)(learner.prior, tasks)
    found = meta_gradient(learner, plan)(learner.prior, tasks)
    torch.testing.assert_close(found[1], loss, rtol=1e-5, atol=0)
    for name, g in expected.items():  # relative to the tensor's largest entry: single entries may cancel
        torch.testing.assert_close(found[0][name], g, rtol=1e-4, atol=1e-4 * g.abs().max().item())


@pytest.mark.parametrize("plan", [Plan(compiled=True), Plan(loop=True, recompute=True, compiled=True)], ids=str)
def test_compiled_equals_eager(method: Build, waves: Task, plan: Plan) -> None:
    # Two steps take twice as long to compile as one, and show more only where steps differ.
    learner = method(steps=2 if method.args in (("maml",), ("per_step_rates",)) else 1)  # pyright: ignore[reportFunctionMemberAccess]
    tasks = of_two_points(waves)
    expected = meta_gradient(learner)(learner.prior, tasks)
    torch.testing.assert_close(meta_gradient(learner, plan)(learner.prior, tasks), expected, rtol=1e-10, atol=1e-12)


def test_adaptation_leaves_the_prior_as_it_was(method: Build, waves: Task) -> None:
    learner = method()
    before = {name: p.clone() for name, p in learner.prior.items()}
    path = learner.adapt(learner.prior, one(waves, 0).support)
    assert any(not torch.equal(path[-1][name], p) for name, p in before.items()), "something moved"
    torch.testing.assert_close(path[0], before, rtol=0, atol=0)
    torch.testing.assert_close(learner.prior, before, rtol=0, atol=0)


def test_the_network_itself_is_not_touched(waves: Task) -> None:
    net = smooth_net()
    before = {name: p.clone() for name, p in net.state_dict().items()}
    learner = il.maml(net, il.mse(net))
    meta_gradient(learner)(learner.prior, waves)
    torch.testing.assert_close(dict(net.state_dict()), before, rtol=0, atol=0)


@pytest.mark.parametrize(
    ("name", "moving"),
    [
        ("maml", ["net.0", "net.2", "net.4"]),
        ("fomaml", ["net.0", "net.2", "net.4"]),
        ("meta_sgd", ["net.0", "net.2", "net.4"]),
        ("per_step_rates", ["net.0", "net.2", "net.4"]),
        ("maml_plus_plus", ["net.0", "net.2", "net.4"]),
        ("reptile", ["net.0", "net.2", "net.4"]),
        ("anil", ["net.4"]),
        ("boil", ["net.0", "net.2"]),
        ("context_vector", ["net.context"]),
        ("l2f", ["net.0", "net.2", "net.4"]),
        ("mumomaml", ["net.0", "net.2", "net.4"]),
    ],
)
def test_only_what_should_move_moves(name: str, moving: list[str], waves: Task) -> None:
    learner = built(name)
    path = learner.adapt(learner.prior, one(waves, 0).support)
    moved = {n for n, p in learner.prior.items() if not torch.equal(p, path[-1][n])}
    assert moved == set(within(learner.prior, moving))


@pytest.mark.parametrize(("name", "moving"), [("anil", ["net.4.weight"]), ("boil", ["net.0.weight", "net.2.weight", "net.2.bias"])])
def test_what_is_left_out_stays_with_head_and_body_too(name: str, moving: list[str], waves: Task) -> None:
    learner = built(name, only=["net", "-net.4.bias", "-net.0.bias"])
    path = learner.adapt(learner.prior, one(waves, 0).support)
    assert {n for n, p in learner.prior.items() if not torch.equal(p, path[-1][n])} == set(moving)


def test_first_order_is_the_gradient_at_the_adapted_parameters(waves: Task) -> None:
    learner = built("fomaml")
    expected = {name: torch.zeros_like(p) for name, p in learner.prior.items()}
    for k in range(count(waves)):
        task: Task = one(waves, k)
        adapted = learner.adapt(learner.prior, task.support)[-1]
        for name, slope in differences(lambda p, task=task: learner.loss(p, task.query), adapted).items():
            expected[name] += slope / count(waves)
    torch.testing.assert_close(meta_gradient(learner)(learner.prior, waves)[0], expected, rtol=1e-6, atol=1e-8)


def test_first_order_adapts_like_maml_and_differs_in_the_meta_gradient(waves: Task) -> None:
    first, full = built("fomaml"), built("maml")
    torch.testing.assert_close(meta_loss(first)(first.prior, waves), meta_loss(full)(full.prior, waves), rtol=0, atol=0)
    gap = meta_gradient(first)(first.prior, waves)[0]["net.0.weight"] - meta_gradient(full)(full.prior, waves)[0]["net.0.weight"]
    assert gap.abs().max() > 1e-3


def test_an_inner_gradient_is_clipped_element_by_element(waves: Task) -> None:
    net, support = smooth_net(), one(waves, 0).support
    clipped, free = (il.maml(net, il.mse(net), 1, 1.0, clip=clip) for clip in (0.05, None))
    start = free.prior
    slopes = {name: p - free.adapt(start, support)[1][name] for name, p in start.items()}
    assert any(s.abs().max() > 0.05 for s in slopes.values())
    expected = {name: p - slopes[name].clamp(-0.05, 0.05) for name, p in start.items()}
    torch.testing.assert_close(clipped.adapt(start, support)[1], expected, rtol=1e-12, atol=1e-14)
    gradient = meta_gradient(clipped)(start, waves)[0]
    torch.testing.assert_close(gradient, differences(lambda p: meta_loss(clipped)(p, waves), start), rtol=1e-6, atol=1e-8)
    with pytest.raises(il.InputError, match="clip is 0; the largest element of a gradient must be above 0"):
        il.maml(net, il.mse(net), clip=0)


@pytest.mark.parametrize("name", ["meta_sgd", "per_step_rates", "maml_plus_plus"])
def test_learned_rates_at_their_start_are_maml(name: str, waves: Task) -> None:
    learned, base = built(name), built("maml")
    loss = meta_loss(learned)(learned.prior, waves)
    torch.testing.assert_close(loss, meta_loss(base)(base.prior, waves), rtol=0, atol=0)
    gradient, expected = meta_gradient(learned)(learned.prior, waves)[0], meta_gradient(base)(base.prior, waves)[0]
    torch.testing.assert_close({n: gradient[n] for n in expected}, expected, rtol=1e-12, atol=1e-14)


def test_meta_sgd_learns_a_rate_for_every_weight_and_maml_pp_for_every_tensor_and_step() -> None:
    per_weight, per_step = built("meta_sgd").prior, built("per_step_rates").prior
    assert per_weight["rate.net.0.weight"].shape == (4, 1)
    assert per_step["rate.net.0.weight"].shape == (2,)
    assert sum(name.startswith("rate.") for name in per_step) == 6


def test_each_step_takes_its_own_rate(waves: Task) -> None:
    learner = built("per_step_rates")
    off = {name: p.clone() for name, p in learner.prior.items()}
    for name in off:
        if name.startswith("rate."):
            off[name][1] = 0.0
    once = built("maml", steps=1)
    torch.testing.assert_close(meta_loss(learner)(off, waves), meta_loss(once)(once.prior, waves), rtol=0, atol=0)
    listed = built("maml", rate=[0.1, 0.0])
    torch.testing.assert_close(meta_loss(listed)(listed.prior, waves), meta_loss(once)(once.prior, waves), rtol=0, atol=0)


def test_anil_of_a_headless_body_is_maml_of_the_head(waves: Task) -> None:
    assert il.METHODS["anil"] is il.anil
    named = built("maml", only="net.4")
    learner = built("anil")
    torch.testing.assert_close(meta_loss(learner)(learner.prior, waves), meta_loss(named)(named.prior, waves), rtol=0, atol=0)


def test_anil_and_boil_together_move_what_maml_moves(waves: Task) -> None:
    support = one(waves, 0).support
    all_, head, body = (built(name, steps=1).adapt(built(name).prior, support)[-1] for name in ("maml", "anil", "boil"))
    start = built("maml").prior
    for name in start:
        torch.testing.assert_close(all_[name] - start[name], (head[name] - start[name]) + (body[name] - start[name]), rtol=0, atol=0)


def test_a_context_vector_of_zero_rate_is_the_plain_network(waves: Task) -> None:
    learner = built("context_vector", rate=0.0)
    still = il.pretrained(net := il.WithContext(smooth_net(inputs=3), size=2).double(), il.mse(net))
    torch.testing.assert_close(meta_loss(learner)(learner.prior, waves), meta_loss(still)(learner.prior, waves), rtol=0, atol=0)


def test_no_steps_is_pretraining(waves: Task) -> None:
    learner, still = built("maml", steps=0), il.pretrained(net := smooth_net(), il.mse(net))
    torch.testing.assert_close(meta_gradient(learner)(learner.prior, waves), meta_gradient(still)(still.prior, waves), rtol=0, atol=0)


def test_one_step_on_a_linear_model_has_a_closed_form() -> None:
    """w' = w − α (2/n) Xᵀ(Xw − y), and its meta-gradient (I − α (2/n) XᵀX)ᵀ (2/m) Zᵀ(Zw' − t)."""
    g = torch.Generator().manual_seed(2)
    x, y, z, t = (torch.randn(*shape, generator=g, dtype=torch.float64) for shape in [(6, 3), (6, 1), (5, 3), (5, 1)])
    net, rate = nn.Linear(3, 1, bias=False).double(), 0.05
    learner = il.maml(net, il.mse(net), rate=rate)
    w = learner.prior["net.weight"].T
    adapted = w - rate * 2 / 6 * x.T @ (x @ w - y)
    [_, moved] = learner.adapt(learner.prior, (x, y))
    torch.testing.assert_close(moved["net.weight"].T, adapted, rtol=1e-12, atol=1e-14)
    expected = (torch.eye(3, dtype=torch.float64) - rate * 2 / 6 * x.T @ x).T @ (2 / 5 * z.T @ (z @ adapted - t))
    twice = [p.expand(2, *p.shape) for p in (x, y, z, t)]  # the mean over tasks that are alike is that of one
    tasks = Task((twice[0], twice[1]), (twice[2], twice[3]))
    torch.testing.assert_close(meta_gradient(learner)(learner.prior, tasks)[0]["net.weight"].T, expected, rtol=1e-12, atol=1e-14)


def test_reptile_goes_to_where_adaptation_ends(waves: Task) -> None:
    learner, base = built("reptile", steps=3), built("maml", steps=3)
    ends = [base.adapt(base.prior, one(waves, k).support)[-1] for k in range(count(waves))]
    expected = {name: p - sum(end[name] for end in ends) / 3 for name, p in base.prior.items()}
    gradient, loss = meta_gradient(learner)(learner.prior, waves)
    torch.testing.assert_close(gradient, expected, rtol=1e-12, atol=1e-14)
    apart = [torch.stack([((p - end[name]) ** 2).sum() for name, p in base.prior.items()]).sum() / 2 for end in ends]
    torch.testing.assert_close(loss, sum(apart) / 3)
    assert learner.loss(learner.prior, None) == 0, "where no step was taken, nothing is away from the start"


def test_reptile_of_one_step_is_training_on_all_tasks(waves: Task) -> None:
    learner, joint = built("reptile", steps=1, rate=0.1), built("maml", steps=0)
    expected, _ = meta_gradient(joint)(joint.prior, Task(waves.support, waves.support))
    found = {name: g / 0.1 for name, g in meta_gradient(learner)(learner.prior, waves)[0].items()}
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-12)


def test_reptile_takes_a_batch_for_each_step_and_keeps_its_start(waves: Task) -> None:
    learner, base = built("reptile", steps=2), built("maml", steps=2)
    first, second = one(waves, 0).support, one(waves, 1).support
    end = base.adapt(base.prior, [first, second])[-1]
    path = learner.adapt(learner.prior, [first, second])
    torch.testing.assert_close({name: path[-1][name] for name in end}, end)
    for longer in (path[-1], built("reptile", steps=1).taking(3).adapt(base.prior, first)[-1]):
        torch.testing.assert_close({name: longer[f"start.{name}"] for name in base.prior}, base.prior, rtol=0, atol=0)


@pytest.mark.parametrize("plan", EAGER, ids=str)
@pytest.mark.parametrize(
    ("name", "how"),
    [
        (name, how)
        for name in ("maml", "anil", "boil", "meta_sgd", "per_step_rates", "maml_plus_plus")
        for how in ({}, {"first_order": True})
    ]
    + [("reptile", {})],
)
def test_classifiers_with_batch_normalisation_agree_in_every_plan(name: str, how: dict, plan: Plan) -> None:
    net, tasks = image_net(), image_tasks()
    learner = il.METHODS[name](net, il.cross_entropy(net), steps=2, rate=0.1, **how)
    gradient, loss = meta_gradient(learner, Plan(loop=True))(learner.prior, tasks)
    assert all(g.abs().max() > 1e-6 for n, g in gradient.items() if n in ("net.5.weight", "net.0.weight")), "there is something to agree on"
    torch.testing.assert_close(meta_gradient(learner, plan)(learner.prior, tasks), (gradient, loss), rtol=1e-9, atol=1e-11)
    assert learner.model is not None
    path = learner.adapt(learner.prior, one(tasks, 0).support)[learner.prepared :]
    assert {learner.model(point, one(tasks, 0).query[0]).shape for point in path} == {(6, 3)}


def trained_on_ten_classes() -> tuple[nn.Sequential, il.learner.Params]:
    net = image_net(classes=10)
    return net, {name: 2 * p for name, p in il.pretrained(net, il.cross_entropy(net)).prior.items()}


def test_a_new_head_sits_on_the_trained_network_and_knows_nothing() -> None:
    net, prior = trained_on_ten_classes()
    fresh = il.with_new_head(net, prior, ways=3)
    learner, tasks = il.maml(fresh, il.cross_entropy(fresh), steps=5, rate=0.01), image_tasks()
    assert {name: list(p.shape) for name, p in learner.prior.items() if "5" in name} == {"net.5.weight": [3, 12], "net.5.bias": [3]}
    body = {name: p for name, p in prior.items() if "5" not in name}
    torch.testing.assert_close({name: learner.prior[name] for name in body}, body, rtol=0, atol=0)
    path = learner.adapt(learner.prior, one(tasks, 0).support)
    losses = [learner.loss(point, one(tasks, 0).support).item() for point in path]
    assert losses[0] == pytest.approx(torch.tensor(3.0).log().item())
    assert losses == sorted(losses, reverse=True), "fine-tuning goes down"
    assert net[5].out_features == 10


def test_a_new_head_may_start_at_random() -> None:
    net, prior = trained_on_ten_classes()
    before = torch.get_rng_state()
    a, b = (il.with_new_head(net, prior, 3, std=0.01, generator=torch.Generator().manual_seed(1)).get_submodule("5") for _ in range(2))
    torch.testing.assert_close(a.weight, b.weight, rtol=0, atol=0)
    assert 0.003 < a.weight.std() < 0.03  # pyright: ignore[reportCallIssue]
    assert not a.bias.any()  # pyright: ignore[reportCallIssue]
    assert torch.equal(torch.get_rng_state(), before), "other random numbers stay as they are"


def test_the_rate_of_fine_tuning_is_chosen_on_validation_tasks() -> None:
    net, prior = trained_on_ten_classes()
    fresh = il.with_new_head(net, prior, ways=3)
    source = il.from_function(lambda g: one(image_tasks(), 0))
    rate, tried = il.tune(lambda rate: il.maml(fresh, il.cross_entropy(fresh), 1, rate), [1e-4, 0.1, 1e4], source, steps=3, n_tasks=2)
    assert rate == min(tried, key=lambda rate: tried[rate])
    assert tried[1e4] > tried[1e-4]


def test_a_network_without_its_head_is_its_features() -> None:
    net, x = image_net(), image_tasks().query[0][0]
    torch.testing.assert_close(net[5](il.without_head(net)(x)), net(x))
    assert isinstance(net[5], nn.Linear)


@pytest.mark.parametrize(
    ("net", "prior", "ways", "message"),
    [
        (nn.Sequential(nn.Linear(1, 2), nn.BatchNorm1d(2)), None, 3, "the last layer net.1 is BatchNorm1d; a new head takes the place"),
        (nn.Sequential(nn.Linear(1, 2), nn.Linear(2, 3)), {}, 3, "the prior is of another network: net.0.bias is not the same"),
        (nn.Sequential(nn.Linear(1, 2), nn.Linear(2, 3)), {"net.9.weight": torch.ones(1)}, 3, "net.0.bias is not the same"),
        (nn.Sequential(nn.Linear(1, 2), nn.Linear(2, 3)), None, 0, "ways is 0"),
        (nn.Linear(1, 2), None, 3, "Linear has no layer that could be its head"),
    ],
)  # fmt: skip
def test_heads_that_cannot_be_replaced_are_refused(net: nn.Module, prior: il.learner.Params | None, ways: int, message: str) -> None:
    own = named("net", net) if prior is None else prior
    with pytest.raises(il.InputError, match=message):
        il.with_new_head(net, own, ways)


def test_independent_networks_train_as_if_alone() -> None:
    nets = [smooth_net(), smooth_net()]
    nn.init.normal_(nets[1][0].weight, generator=torch.Generator().manual_seed(5))  # pyright: ignore[reportArgumentType]
    together = il.methods.independent(nets, il.mse)
    x, y = torch.rand(2, 5, 1, dtype=torch.float64), torch.rand(2, 5, 1, dtype=torch.float64)
    gradient, _ = meta_gradient(together)(together.prior, Task((x[None], y[None]), (x[None], y[None])))
    for k, net in enumerate(nets):
        alone = torch.autograd.grad(nn.functional.mse_loss(net(x[k]), y[k]), list(net.parameters()))
        for stacked, single in zip(gradient.values(), alone, strict=True):
            torch.testing.assert_close(stacked[k], single)


def test_networks_are_pulled_to_zero_or_to_the_mean_of_those_before() -> None:
    net = nn.Linear(1, 1, bias=False)
    prior = {"net.weight": torch.tensor([1.0, 4.0, 7.0]).reshape(3, 1, 1)}
    nothing = torch.zeros(1, 3, 1, 1)
    tasks = Task((nothing, nothing), (nothing, nothing))
    for pull, expected in {"zero": [1.0, 4.0, 7.0], "mean": [0.0, 3.0, 4.5], "none": [0.0, 0.0, 0.0]}.items():
        learner = il.methods.independent([net] * 3, il.mse, strength=0.5, pull=pull)  # pyright: ignore[reportArgumentType]
        assert meta_gradient(learner)(prior, tasks)[0]["net.weight"].flatten().tolist() == expected
    assert il.methods.averaged(prior)["net.weight"].tolist() == [[4.0]]


class Conv(nn.Module):
    """Convolutions, normalisation, a shared weight, a buffer, and dropout in evaluation mode."""

    def __init__(self, norm: nn.Module) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 4, 3, padding=1)
        self.norm = norm
        self.again = nn.Conv2d(4, 4, 3, padding=1)
        self.twin = nn.Conv2d(4, 4, 3, padding=1)
        self.twin.weight = self.again.weight
        self.register_buffer("scale", torch.tensor(2.0))
        self.drop = nn.Dropout(0.5).eval()
        self.head = nn.Linear(4, 3)
        generator = torch.Generator().manual_seed(0)
        for p in self.parameters():
            nn.init.normal_(p, std=0.5, generator=generator)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.tanh(self.norm(self.conv(x)))
        return self.head(self.drop(self.twin(self.again(x))).mean((-2, -1)) * self.scale)


def images() -> Task:
    g = torch.Generator().manual_seed(0)
    x, y = torch.randn(2, 6, 1, 5, 5, generator=g, dtype=torch.float64), torch.randint(0, 3, (2, 6), generator=g)
    return Task((x, y), (x.flip(1), y.flip(1)))


def test_any_module_works_unchanged() -> None:
    net, tasks = Conv(nn.GroupNorm(2, 4)).double(), images()
    learner = il.maml(net, il.cross_entropy(net), steps=2, rate=0.1)
    assert sum("again" in name or "twin" in name for name in learner.prior) == 3, "a shared weight is one parameter"
    gradient, _ = meta_gradient(learner)(learner.prior, tasks)
    torch.testing.assert_close(gradient, differences(lambda p: meta_loss(learner)(p, tasks), learner.prior), rtol=1e-6, atol=1e-8)
    torch.testing.assert_close(meta_gradient(learner, Plan(loop=True))(learner.prior, tasks)[0], gradient)


def test_batch_normalisation_by_the_batch_itself_is_exact_in_every_plan() -> None:
    """torch's own layer is not under vmap: the bias in front of it, whose gradient is 0, gets 0.2."""
    norm = nn.BatchNorm2d(4, track_running_stats=False)
    net, tasks = Conv(norm).double(), images()
    learner = il.maml(net, il.cross_entropy(net), steps=2, rate=0.1)
    gradient, _ = meta_gradient(learner, Plan(loop=True))(learner.prior, tasks)
    torch.testing.assert_close(gradient, differences(lambda p: meta_loss(learner)(p, tasks), learner.prior), rtol=1e-6, atol=1e-7)
    torch.testing.assert_close(meta_gradient(learner)(learner.prior, tasks)[0], gradient, rtol=1e-10, atol=1e-12)
    assert net.norm is norm, "the network itself stays as it is"


@pytest.mark.parametrize("affine", [True, False])
def test_plain_normalisations_are_those_they_replace(affine: bool) -> None:
    x = torch.randn(6, 4, 5, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    norms = [
        nn.BatchNorm2d(4, affine=affine, track_running_stats=False),
        nn.BatchNorm2d(4, affine=affine, track_running_stats=False).eval(),
        nn.BatchNorm2d(4, affine=affine).eval(),
        nn.InstanceNorm2d(4, affine=affine),
        nn.LayerNorm([5, 5], elementwise_affine=affine),
    ]
    for norm in norms:
        for p in norm.double().parameters():
            nn.init.normal_(p)
    expected, torchs = [norm(x) for norm in norms], torch.layer_norm
    with exchanged([]):
        assert torch.layer_norm is not torchs
        torch.testing.assert_close([norm(x) for norm in norms], expected)
    assert torch.layer_norm is torchs


def test_running_statistics_are_refused_while_they_would_be_updated() -> None:
    net = nn.Sequential(nn.Linear(1, 4), nn.BatchNorm1d(4), nn.Linear(4, 1))
    with pytest.raises(il.InputError, match=r"BatchNorm1d '1' updates running statistics.*track_running_stats=False"):
        il.mse(net)
    frozen = il.maml(net.eval(), il.mse(net))
    x = torch.rand(3, 5, 1)
    assert meta_gradient(frozen)(frozen.prior, Task((x, x), (x, x)))[1].isfinite()


def test_dropout_draws_its_own_mask_for_each_task() -> None:
    net = nn.Sequential(nn.Linear(1, 64), nn.Dropout(0.5), nn.Linear(64, 1))
    learner = il.pretrained(net, il.mse(net))
    x = torch.ones(2, 1, 1)
    losses = il.learner.over_tasks(il.task_loss(learner), learner.prior, Task((x, x), (x, x)))
    assert losses[0] != losses[1]
