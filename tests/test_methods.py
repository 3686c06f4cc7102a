"""What every method must hold, and each method's identity with its idea switched off."""

from collections.abc import Callable

import pytest
import torch
from conftest import built, smooth_net
from torch import Tensor, nn
from torch.autograd import gradcheck

import innerloop as il
from innerloop import Learner, Task, meta_loss
from innerloop.batches import count, map_tensors, one
from innerloop.engine import Plan, meta_gradient
from innerloop.models.rewrite import for_inner_loops
from innerloop.params import within

Build = Callable[..., Learner]

EAGER = [
    Plan(loop=True),
    Plan(chunk=2),
    Plan(chunk=1),
    Plan(recompute=True),
    Plan(recompute=True, chunk=2),
    Plan(loop=True, recompute=True),
]


def test_all_methods_are_under_test() -> None:
    assert sorted(il.METHODS) == ["anil", "boil", "context_vector", "fomaml", "maml", "meta_sgd", "per_step_rates"]


def differences(f: Callable[[il.learner.Params], Tensor], params: il.learner.Params, eps: float = 1e-6) -> il.learner.Params:
    """Central finite differences of a scalar function, one weight at a time."""
    slopes = {}
    for name, p in params.items():
        slopes[name] = torch.zeros_like(p)
        for k in range(p.numel()):
            nudge = torch.zeros_like(p).flatten().index_fill(0, torch.tensor(k), eps).reshape(p.shape)
            up, down = f({**params, name: p + nudge}), f({**params, name: p - nudge})
            slopes[name].view(-1)[k] = (up - down) / (2 * eps)
    return slopes


def test_the_meta_gradient_equals_finite_differences(method: Build, waves: Task) -> None:
    learner = method()
    if method.args == ("fomaml",):  # pyright: ignore[reportFunctionMemberAccess]
        pytest.skip("first order is not the gradient of the meta-loss; its own test says what it is")
    gradient, _ = meta_gradient(learner)(learner.prior, waves)
    torch.testing.assert_close(gradient, differences(lambda p: meta_loss(learner)(p, waves), learner.prior), rtol=1e-6, atol=1e-8)


def test_the_meta_loss_passes_gradcheck(method: Build, waves: Task) -> None:
    learner = method()
    if method.args == ("fomaml",):  # pyright: ignore[reportFunctionMemberAccess]
        pytest.skip("first order is not the gradient of the meta-loss; its own test says what it is")
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
    expected = meta_gradient(learner)(learner.prior, waves)
    torch.testing.assert_close(meta_gradient(learner, plan)(learner.prior, waves), expected, rtol=1e-10, atol=1e-12)


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
        ("anil", ["net.4"]),
        ("boil", ["net.0", "net.2"]),
        ("context_vector", ["net.context"]),
    ],
)
def test_only_what_should_move_moves(name: str, moving: list[str], waves: Task) -> None:
    learner = built(name)
    path = learner.adapt(learner.prior, one(waves, 0).support)
    moved = {n for n, p in learner.prior.items() if not torch.equal(p, path[-1][n])}
    assert moved == set(within(learner.prior, moving))


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


@pytest.mark.parametrize("name", ["meta_sgd", "per_step_rates"])
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
def test_plain_batch_normalisation_is_the_layer_it_replaces(affine: bool) -> None:
    x = torch.randn(6, 4, 5, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    norm = nn.BatchNorm2d(4, affine=affine, track_running_stats=False).double()
    for p in norm.parameters():
        nn.init.normal_(p)
    shared = nn.Sequential(norm, nn.Sequential(norm, nn.Dropout(0.5)))
    plain = for_inner_loops(shared.eval())
    assert plain[0] is plain[1][0], "a layer used twice is one layer"  # pyright: ignore[reportIndexIssue]
    assert plain[1][1] is shared[1][1], "other layers are the network's own"  # pyright: ignore[reportIndexIssue]
    assert plain.state_dict().keys() == shared.state_dict().keys()
    torch.testing.assert_close(plain(x), shared(x))
    torch.testing.assert_close(plain[0](x[..., 0, 0]), nn.functional.batch_norm(x[..., 0, 0], None, None, norm.weight, norm.bias, True))  # pyright: ignore[reportIndexIssue]
    assert for_inner_loops(norm.train()) is not norm
    assert for_inner_loops(linear := nn.Linear(1, 1)) is linear


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
