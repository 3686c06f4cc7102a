"""Our own layers: equal to torch's, with derivatives of every order that finite differences agree with."""

import subprocess
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import differences
from torch import Tensor, nn
from torch.autograd import gradcheck, gradgradcheck
from torch.func import vmap
from torch.nn.functional import batch_norm, layer_norm

import innerloop as il
from innerloop import Task, meta_loss
from innerloop.engine import Plan, meta_gradient, traced
from innerloop.losses import model
from innerloop.models import kernels
from innerloop.models.conv import Conv, Gather, InputSlope, Patches, Pool, Spread
from innerloop.models.exchange import InTurn, Joined, exchanged, exchanges
from innerloop.params import named

built = pytest.mark.skipif(kernels.library() is None, reason="no C++ compiler to build the kernels with")


def numbers(*shape: int, seed: int = 0) -> Tensor:
    g = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=g, dtype=torch.float64).requires_grad_()


SIGN = torch.tensor([[1.0, -1, 1, 1], [-1, 1, 1, -1]], dtype=torch.float64)
SHIFT = numbers(2, 4, seed=9).detach()
IMAGES, POOLED = (2, 3, 5, 5, 4), (2, 3, 2, 2, 4)
FUNCTIONS: dict[str, tuple[Callable[..., Any], list[tuple[int, ...]]]] = {
    "pool": (lambda x: Pool.apply(x, SIGN, SHIFT), [IMAGES]),
    "spread": (lambda o, f, x, g: Spread.apply(o, f, x, g, SIGN), [(2, 4), (2, 4), IMAGES, POOLED]),
    "gather": (lambda v, x: Gather.apply(v, x, SIGN), [IMAGES, IMAGES]),
    "patches": (lambda x: Patches.apply(x, 3, 2, 1), [(2, 5, 6, 3)]),
    "conv": (lambda x, w: Conv.apply(x, w, 2, 1, False), [(2, 3, 5, 6), (4, 3, 3, 3)]),
    "conv over tasks": (vmap(lambda x, w: Conv.apply(x, w, 2, 1, False)), [(3, 2, 2, 5, 6), (3, 4, 2, 3, 3)]),
    "conv over tasks, innermost": (
        vmap(lambda x, w: Conv.apply(x.movedim(-1, 1), w, 2, 1, True).movedim(1, -1)), [(3, 2, 5, 6, 2), (3, 4, 2, 3, 3)],
    ),
    "conv over tasks, same images": (vmap(lambda x, w: Conv.apply(x, w, 1, 0, False), in_dims=(None, 0)), [(2, 1, 4, 4), (3, 5, 1, 2, 2)]),
    "conv over tasks, same filters": (vmap(lambda x, w: Conv.apply(x, w, 1, 1, True), in_dims=(0, None)), [(3, 2, 2, 4, 4), (2, 2, 3, 3)]),
}  # fmt: skip


@built
@pytest.mark.parametrize("name", FUNCTIONS)
def test_first_and_second_derivatives(name: str) -> None:
    f, shapes = FUNCTIONS[name]
    given = tuple(numbers(*shape, seed=k) for k, shape in enumerate(shapes))
    assert gradcheck(f, given)
    assert gradgradcheck(f, given)


@pytest.mark.parametrize(("size", "stride", "padding", "bias"), [(3, 1, 1, True), (3, 2, 1, False), (1, 1, 0, True), (5, 3, 2, True)])
def test_a_convolution_is_the_layer_it_replaces(size: int, stride: int, padding: int, bias: bool) -> None:
    conv = nn.Conv2d(3, 4, size, stride, padding, bias=bias).double()
    x = numbers(2, 3, 9, 8)
    assert [layer for layer, _ in exchanges(conv)] == [conv]
    torch.testing.assert_close(ours(conv)(x), conv(x))
    torch.testing.assert_close(ours(conv)(x[0]), conv(x[0]))  # a single image without a batch
    several = torch.stack([conv.weight, 2 * conv.weight, -conv.weight])
    with exchanged(exchanges(conv)):
        found = vmap(lambda w: torch.func.functional_call(conv, {"weight": w}, (x,)))(several)
    torch.testing.assert_close(found, torch.stack([torch.func.functional_call(conv, {"weight": w}, (x,)) for w in several]))


@pytest.mark.parametrize(
    "conv",
    [nn.Conv2d(4, 4, 3, groups=2), nn.Conv2d(4, 4, 3, dilation=2), nn.Conv2d(4, 4, 3, padding="same"), nn.Conv2d(4, 4, (3, 1)),
     nn.Conv2d(4, 4, 3, padding=1, padding_mode="circular"), nn.Conv1d(4, 4, 3)],
    ids=["groups", "dilation", "same", "oblong", "circular", "1d"],
)  # fmt: skip
def test_other_convolutions_stay_torchs(conv: nn.Module) -> None:
    assert exchanges(conv) == []


def ours(net: nn.Module) -> Callable[[Tensor], Tensor]:
    """The network as losses run it."""
    return lambda x: model(net)(named("net", net), x)


def joins(net: nn.Module) -> list[Joined]:
    """Layers of the network that are run as one, where it runs whole."""
    row = dict(exchanges(net))[net]
    assert isinstance(row, InTurn)
    return [piece for piece in row.pieces if isinstance(piece, Joined)]


def block(activation: nn.Module, affine: bool = True) -> nn.Sequential:
    norm = nn.BatchNorm2d(4, affine=affine, track_running_stats=False)
    for seed, p in enumerate(norm.parameters()):  # factors of both signs
        nn.init.normal_(p, generator=torch.Generator().manual_seed(seed))
    return nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), norm, activation, nn.MaxPool2d(2)).double()


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("size", [(8, 8), (7, 5)])
@pytest.mark.parametrize(("activation", "affine"), [(nn.ReLU(), True), (nn.LeakyReLU(0.1), True), (nn.ReLU(), False)])
def test_a_block_is_the_layers_it_replaces(activation: nn.Module, affine: bool, size: tuple[int, int], dtype: torch.dtype) -> None:
    """In bfloat16, which the kernels do not serve, by torch's own operations."""
    net = block(activation, affine).to(dtype)
    assert [len(joined.layers) for joined in joins(net)] == [4]
    x = numbers(6, 3, *size).detach().to(dtype)
    tolerance = {torch.float64: 1e-10, torch.float32: 1e-4, torch.bfloat16: 0.1}[dtype]
    torch.testing.assert_close(ours(net)(x), net(x), rtol=tolerance, atol=tolerance)


@built
def test_a_mean_far_from_zero_costs_no_accuracy() -> None:
    norm = nn.BatchNorm2d(1, track_running_stats=False)
    x = 1000 + numbers(8, 1, 16, 16).detach().float()
    expected = nn.functional.max_pool2d(torch.relu(norm.double()(x.double())), 2).float()
    torch.testing.assert_close(ours(nn.Sequential(norm.float(), nn.ReLU(), nn.MaxPool2d(2)))(x), expected, rtol=1e-3, atol=1e-3)


def images(n: int = 2, size: int = 8) -> Task:
    g = torch.Generator().manual_seed(0)
    x = torch.randn(n, 6, 3, size, size, generator=g, dtype=torch.float64)
    y = torch.randint(0, 2, (n, 6), generator=g)
    return Task((x, y), (x.flip(1), y.flip(1)))


def stock(net: nn.Module) -> il.learner.Loss:
    """Cross-entropy of the network with torch's own layers."""
    return lambda params, batch: nn.functional.cross_entropy(
        torch.func.functional_call(net, {name.removeprefix("net."): p for name, p in params.items()}, (batch[0],)), batch[1]
    )


@pytest.mark.parametrize(
    "plan",
    [Plan(loop=True), Plan(), Plan(recompute=True), Plan(loop=True, recompute=True), Plan(loop=True, stepwise=True, compiled=True)],
    ids=str,
)
def test_the_meta_gradient_is_that_of_torchs_layers(plan: Plan) -> None:
    net = nn.Sequential(block(nn.ReLU()), nn.Flatten(), nn.Linear(64, 2)).double()
    learner = il.maml(net, il.cross_entropy(net), steps=2, rate=0.1)
    by_torch = il.maml(net, stock(net), steps=2, rate=0.1)  # by autograd alone: torch.func's double backward is not right
    expected, loss = [torch.zeros_like(p) for p in learner.prior.values()], torch.zeros(())
    tasks = images()
    for k in range(2):
        task: Task = il.batches.one(tasks, k)
        leaves = {name: p.clone().requires_grad_() for name, p in learner.prior.items()}
        point = leaves
        for _ in range(2):
            slopes = torch.autograd.grad(by_torch.loss(point, task.support), list(point.values()), create_graph=True)
            point = {name: p - 0.1 * g for (name, p), g in zip(point.items(), slopes, strict=True)}
        value = by_torch.loss(point, task.query)
        expected = [e + g / 2 for e, g in zip(expected, torch.autograd.grad(value, list(leaves.values())), strict=True)]
        loss = loss + value.detach() / 2
    gradient, found = meta_gradient(learner, plan)(learner.prior, tasks)
    torch.testing.assert_close(list(gradient.values()), expected, rtol=1e-9, atol=1e-11)
    torch.testing.assert_close(found, loss, check_dtype=False)
    assert not gradient["net.0.0.bias"].any(), "a bias in front of a normalisation has no effect, and gradient 0"


@pytest.mark.parametrize(
    "after", [nn.GroupNorm(2, 4), nn.MaxPool2d(3, 1), nn.Dropout2d(0.0), nn.Conv2d(4, 4, 2, groups=2)], ids=lambda m: type(m).__name__
)
@pytest.mark.parametrize("first", [4, 3, 2, 1], ids=["a block", "an activation", "a normalisation", "a convolution"])
def test_torchs_layers_may_follow_under_vmap(after: nn.Module, first: int) -> None:
    """Some refuse images whose channels are innermost there."""
    net = nn.Sequential(block(nn.ReLU())[:first], after, nn.Flatten(), nn.LazyLinear(2)).double()
    tasks = images()
    net(tasks.support[0][0])
    learner = il.maml(net, il.cross_entropy(net), steps=1, rate=0.1)
    expected = meta_gradient(learner, Plan(loop=True))(learner.prior, tasks)
    torch.testing.assert_close(meta_gradient(learner)(learner.prior, tasks), expected, rtol=1e-9, atol=1e-11)


def test_blocks_within_a_row_of_layers() -> None:
    """Channels stay innermost from block to block where a convolution comes next, and nowhere else."""
    net = nn.Sequential(block(nn.ReLU()), nn.Sequential(nn.Sequential(nn.Conv2d(4, 4, 1))), block(nn.ReLU()), nn.Conv2d(3, 4, 1))
    assert [joined.together.args[0][-1].keywords["innermost"] for joined in joins(net)] == [True, True]  # type: ignore[attr-defined]
    twice = nn.Sequential(net[0], net[1], net[0], nn.Flatten())
    assert [joined.together.args[0][-1].keywords["innermost"] for joined in joins(twice)] == [True, False]  # type: ignore[attr-defined]


def test_images_of_several_tasks_lie_innermost_where_all_that_follows_takes_them_so() -> None:
    def strided(inputs: int, *after: nn.Module) -> nn.Sequential:
        return nn.Sequential(nn.Conv2d(inputs, 4, 3, 2, 1), nn.BatchNorm2d(4, track_running_stats=False), *after)

    def told(*rows: nn.Module) -> list[bool]:
        return [joined.together.args[0][0].keywords["innermost"] for joined in joins(nn.Sequential(*rows))]  # type: ignore[attr-defined]

    assert told(strided(3, nn.ReLU()), strided(4, nn.LeakyReLU()), nn.Flatten()) == [True, True]
    assert told(strided(3, nn.ReLU(), nn.Dropout2d()), strided(4, nn.ReLU())) == [False, False]
    assert told(block(nn.ReLU())) == [True], "what is joined with it does"


@built
@pytest.mark.parametrize("innermost", [True, False])
@pytest.mark.parametrize("own", [0, None], ids=["a task's filters", "filters of all"])
def test_how_images_of_several_tasks_lie_in_memory(own: int | None, innermost: bool) -> None:
    """As is asked there, and on the way back as they came."""
    conv = vmap(lambda x, w: Conv.apply(x, w, 2, 1, innermost), in_dims=(0, own))
    x, w = numbers(3, 2, 5, 5, 4, seed=0).detach().movedim(-1, 2), numbers(3, 6, 4, 3, 3, seed=1).detach()
    x = (x if innermost else x.contiguous()).requires_grad_()
    y = conv(x, w if own == 0 else w[0])
    assert y.movedim(2, -1).is_contiguous() == innermost
    assert y.is_contiguous() != innermost
    if own == 0:
        slope = vmap(lambda g, w, x: InputSlope.apply(g, w, x, 2, 1, innermost))(y, w, x)
        assert slope.stride() == x.stride()


def test_a_layer_may_come_twice_in_a_row_of_layers() -> None:
    """Between the convolution and the normalisation is the second use of a ReLU: the bias must stay."""
    relu = nn.ReLU()
    net = nn.Sequential(nn.Conv2d(3, 4, 3), relu, nn.Conv2d(4, 4, 3), relu, nn.BatchNorm2d(4, track_running_stats=False)).double()
    x = numbers(2, 3, 8, 8)
    torch.testing.assert_close(ours(net)(x), net(x))


def test_layers_with_hooks_are_left_alone() -> None:
    net, seen = block(nn.ReLU()), []
    hook = net[2].register_forward_hook(lambda *args: seen.append(1))
    run, x = ours(net), numbers(2, 3, 4, 4).detach()
    run(x)
    hook.remove()
    late = [part.register_forward_hook(lambda part, given, y: seen.append(y)) for part in (net[0], net)]
    torch.testing.assert_close(run(x), net(x))
    torch.testing.assert_close(seen[1], net[0](x), msg="with its bias, as somebody looks")
    assert len(seen) == 1 + len(late) + len(late) + 1, "by our run, by its own, and by its part's"


def test_without_a_compiler_torchs_layers_do(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def fail(*args: object, **how: object) -> None:
        raise subprocess.CalledProcessError(1, "g++", stderr="g++: fatal error: no cc1plus\nand more")

    monkeypatch.setenv("INNERLOOP_CACHE", str(tmp_path))
    monkeypatch.setattr(subprocess, "run", fail)
    monkeypatch.setattr(kernels, "library", kernels.cache(kernels.library.__wrapped__))
    net, x = block(nn.ReLU()), numbers(2, 3, 4, 4).detach()
    with pytest.warns(UserWarning, match=r"without innerloop's own kernels, slower: g\+\+: fatal error: no cc1plus; install g\+\+"):
        torch.testing.assert_close(ours(net)(x), net(x))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ours(net)(x)
    assert list(tmp_path.rglob("*.so")) == []


class Listed(nn.Module):
    """Reaches its layers by a list, by a method that it keeps, by slices and one by one, and asks what they are."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.block, self.head = nn.Conv2d(1, 3, 3, padding=1), block(nn.ReLU()), nn.Linear(3 + 4 + 4 + 4, 2)
        self.again, self.order, self.path = self.first, [self.first], self.widened

    def widened(self, x: Tensor) -> Tensor:
        for layer in self.order:
            x = layer(x)
        return x + self.again.out_channels

    def forward(self, x: Tensor) -> Tensor:
        x = self.path(x)
        before = self.block[:3](x)
        seen = [x, before, self.block[0](x), self.block[3](before)]
        assert [isinstance(layer, nn.ReLU) for layer in self.block] == [False, False, True, False]
        return self.head(torch.cat([t.mean((2, 3)) for t in seen], 1)) + self.block(x).mean()


def test_a_network_may_call_its_layers_as_it_likes() -> None:
    net, x = Listed().double(), numbers(5, 1, 6, 6).detach()
    params = {name: p + 0.3 * torch.randn_like(p) for name, p in named("net", net).items()}
    own = {name.removeprefix("net."): p for name, p in params.items()}
    torch.testing.assert_close(model(net)(params, x), torch.func.functional_call(net, own, (x,)))
    learner = il.maml(net, il.cross_entropy(net), rate=1.0)
    before, after = learner.adapt(params, (x, torch.tensor([0, 1, 0, 1, 0])))
    assert [name for name, p in before.items() if torch.equal(p, after[name])] == []
    assert all("forward" not in part.__dict__ for part in net.modules()), "it stays as it is"


class Attending(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.attention, self.head = nn.MultiheadAttention(4, 2, batch_first=True), nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.attention(x, x, x, need_weights=False)[0].mean(1))


class Own(nn.LayerNorm):
    """As some networks have it, to compute in another precision."""

    def forward(self, input: Tensor) -> Tensor:
        return super().forward(input.double()).to(input)


class Calling(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.scale, self.body, self.head = nn.Parameter(torch.ones(4)), nn.Linear(3, 4), nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = nn.functional.batch_norm(self.body(x), None, None, self.scale, training=True)
        return self.head(nn.functional.layer_norm(x, (4,), self.scale).tanh())


class Importing(Calling):
    def forward(self, x: Tensor) -> Tensor:
        x = batch_norm(self.body(x), None, None, self.scale, training=True)
        return self.head(torch.layer_norm(layer_norm(x, (4,), self.scale), (4,), self.scale).tanh())


def watched(norm: nn.Module) -> nn.Module:
    norm.register_forward_hook(lambda part, given, y: None)
    return norm


def switched() -> nn.Module:
    norm = nn.BatchNorm2d(4)
    norm.track_running_stats = False
    return norm


class LeNet(nn.Module):
    """As in PyTorch's tutorial: it asks how images lie in memory."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4, track_running_stats=False))
        self.second, self.pool, self.head = nn.Conv2d(4, 2, 2), nn.MaxPool2d(2), nn.Linear(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.second(self.body(x).relu())
        return self.head(self.pool(x).view(-1, 8).tanh())


def normalising(norm: nn.Module) -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 4, 3), norm, nn.Tanh(), nn.Flatten(), nn.Linear(16, 2))


NETWORKS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "layer norm": (lambda: nn.Sequential(nn.Linear(3, 8), nn.LayerNorm(8), nn.Tanh(), nn.Linear(8, 2)), (3,)),
    "layer norm of images": (lambda: normalising(nn.LayerNorm([4, 2, 2])), (3, 4, 4)),
    "layer norm without weights": (lambda: normalising(nn.LayerNorm(2, elementwise_affine=False)), (3, 4, 4)),
    "instance norm": (lambda: normalising(nn.InstanceNorm2d(4, affine=True)), (3, 4, 4)),
    "group norm": (lambda: normalising(nn.GroupNorm(2, 4)), (3, 4, 4)),
    "layer norm that is watched": (lambda: normalising(watched(nn.LayerNorm([4, 2, 2]))), (3, 4, 4)),
    "layer norm of one's own": (lambda: nn.Sequential(nn.Linear(3, 8), Own(8), nn.Tanh(), nn.Linear(8, 2)), (3,)),
    "batch norm that is watched": (lambda: normalising(watched(nn.BatchNorm2d(4, track_running_stats=False))), (3, 4, 4)),
    "batch norm that was switched": (lambda: normalising(switched()), (3, 4, 4)),
    "norms as functions": (Calling, (3,)),
    "norms by names of their own": (Importing, (3,)),
    "views of images": (LeNet, (3, 8, 8)),
    "attention": (Attending, (3, 4)),
    "a transformer's layer": (
        lambda: nn.Sequential(nn.TransformerEncoderLayer(4, 2, 8, dropout=0.0, batch_first=True), nn.Flatten(), nn.Linear(12, 2)),
        (3, 4),
    ),
    "a transformer's layer in test": (
        lambda: nn.Sequential(nn.TransformerEncoderLayer(4, 2, 8, batch_first=True), nn.Flatten(), nn.Linear(12, 2)).eval(),
        (3, 4),
    ),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_a_networks_meta_gradient_is_exact_under_vmap(name: str) -> None:
    made, shape = NETWORKS[name]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = made().double()
        for p in net.parameters():
            nn.init.normal_(p, std=0.5)
    x = numbers(2, 6, *shape).detach()
    tasks = Task((x, torch.arange(12).view(2, 6) % 2), (x.flip(1), torch.arange(12).view(2, 6) % 2))
    torch.testing.assert_close(model(net)(named("net", net), x[0]), net(x[0]))
    learner = il.maml(net, il.cross_entropy(net), steps=2, rate=0.3)
    gradient, _ = meta_gradient(learner)(learner.prior, tasks)
    torch.testing.assert_close(gradient, differences(lambda p: meta_loss(learner)(p, tasks), learner.prior), rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("plan", [Plan(loop=True), Plan(recompute=True), Plan(loop=True, recompute=True)], ids=str)
def test_a_network_that_views_its_images_runs_by_every_plan(plan: Plan) -> None:
    nets = [LeNet().double() for _ in range(2)]
    nets[1].load_state_dict(nets[0].state_dict())
    gradients = []
    for net, how in zip(nets, (plan, Plan()), strict=True):
        learner = il.maml(net, il.cross_entropy(net), steps=2, rate=0.3)
        gradients.append(meta_gradient(learner, how)(learner.prior, images()))
    torch.testing.assert_close(*gradients)


def test_a_network_that_views_its_images_can_be_traced() -> None:
    net, x = LeNet().double(), numbers(4, 3, 8, 8).detach()
    run = model(net)
    torch.testing.assert_close(traced(lambda params: run(params, x))(named("net", net)), net(x))


class Words(nn.Module):
    """Looks up its input, of which 0 is no word."""

    def __init__(self, **how: Any) -> None:
        super().__init__()
        self.of, self.head = nn.Embedding(5, 3, padding_idx=0, **how), nn.Linear(3, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.of(x).tanh().sum(1))


@pytest.mark.parametrize("plan", [Plan(), Plan(loop=True), Plan(recompute=True)], ids=str)
def test_the_padding_of_an_embedding_does_not_move(plan: Plan) -> None:
    net = Words().double()
    learner = il.maml(net, il.mse(net), steps=2, rate=0.5)
    x = torch.randint(0, 5, (3, 6, 4), generator=torch.Generator().manual_seed(0))
    tasks = Task((x, numbers(3, 6, 1).detach()), (x.flip(1), numbers(3, 6, 1, seed=1).detach()))
    gradient, _ = meta_gradient(learner, plan)(learner.prior, tasks)
    assert torch.equal(gradient["net.of.weight"][0], torch.zeros(3).double())
    moving = learner.prior | {"net.of.weight": learner.prior["net.of.weight"].clone()}
    found = differences(lambda p: meta_loss(learner)(p, tasks), moving)["net.of.weight"]
    torch.testing.assert_close(gradient["net.of.weight"][1:], found[1:], rtol=1e-5, atol=1e-7)


def test_an_embedding_that_writes_into_the_prior_is_refused() -> None:
    net = Words(max_norm=1.0)
    with pytest.raises(il.InputError, match="max_norm writes into the prior"):
        model(net)(named("net", net), torch.ones(2, 3, dtype=torch.long))


def test_a_network_that_changed_after_its_loss_was_made_runs_as_it_is_now() -> None:
    net = nn.Sequential(*block(nn.ReLU()), nn.Flatten(), nn.Linear(16, 5).double())
    run = model(net)
    net[-1] = nn.Linear(16, 3).double()
    x = numbers(5, 3, 4, 4).detach()
    torch.testing.assert_close(run(named("net", net), x), net(x))
    loss = il.cross_entropy(net)
    net[0].requires_grad_(False)
    learner = il.maml(net, loss)
    torch.testing.assert_close(
        learner.loss(learner.prior, (x, torch.ones(5).long())), nn.functional.cross_entropy(net(x), torch.ones(5).long())
    )


def test_a_batch_norm_of_one_number_is_refused_as_torchs_is() -> None:
    net = nn.Sequential(nn.Linear(1, 4), nn.BatchNorm1d(4, track_running_stats=False), nn.Linear(4, 1))
    learner = il.maml(net, il.mse(net))
    with pytest.raises(il.InputError, match=r"does not take x of shape \[1, 1\] and kind float32: Expected more than 1 value per channel"):
        il.predict(learner, ([[0.0], [1.0]], [[0.0], [0.8]]), [[3.0]])
    for wrong, x in ((nn.BatchNorm1d(1, track_running_stats=False), (5, 4)), (nn.BatchNorm2d(4, track_running_stats=False), (5, 4))):
        with pytest.raises((RuntimeError, ValueError)):
            model(wrong)(named("net", wrong), torch.ones(x))


def test_a_layer_norm_says_what_does_not_fit() -> None:
    with pytest.raises(RuntimeError, match=r"normalized_shape=\[8\]"):
        ours(nn.LayerNorm(8))(torch.ones(2, 4))
    single = nn.InstanceNorm2d(3)
    torch.testing.assert_close(ours(nn.Sequential(single, nn.Linear(2, 2)))(numbers(3, 2, 2).float()).shape, torch.Size([3, 2, 2]))


def test_in_test_nothing_is_dropped_out() -> None:
    net = nn.Sequential(nn.Linear(1, 16), nn.Dropout(0.5), nn.ReLU(), nn.Linear(16, 1))
    learner, tasks = il.maml(net, il.mse(net), steps=2, rate=0.05), il.Sinusoids(shots=5)
    scores = [il.evaluate(learner, tasks, n_tasks=10).values for _ in range(2)]
    predictions = [il.predict(learner, ([[0.0], [1.0]], [[0.0], [0.8]]), [[0.5]]) for _ in range(2)]
    runs = [il.train(learner, tasks, 2, meta_batch=2, validation_tasks=n, progress=False) for n in (3, 3)]
    assert [part.training for part in net.modules()] == [True] * 5, "the network itself stays as it is"
    assert torch.equal(*scores)
    assert torch.equal(*predictions)
    x = torch.ones(50, 1)
    assert not torch.equal(model(net)(learner.prior, x), model(net)(learner.prior, x)), "training drops out"
    assert not torch.equal(runs[0].prior["net.0.weight"], runs[1].prior["net.0.weight"])
    net.eval()
    assert torch.equal(il.evaluate(learner, tasks, n_tasks=10).values, scores[0]), "what is said later counts"
    assert torch.equal(model(net)(learner.prior, x), model(net)(learner.prior, x))


def test_frozen_parameters_stay() -> None:
    frozen = nn.Linear(1, 8).requires_grad_(False)
    net = nn.Sequential(frozen, nn.ReLU(), nn.Linear(8, 1))
    learner = il.maml(net, il.mse(net), steps=2, rate=0.1)
    assert list(learner.prior) == ["net.2.weight", "net.2.bias"]
    trained = il.train(learner, il.Sinusoids(), 3, progress=False)
    assert list(trained.prior) == ["net.2.weight", "net.2.bias"]
    for p in frozen.parameters():
        p.fill_(0.0)
    assert il.predict(trained, ([[0.0], [1.0]], [[0.0], [0.8]]), [[0.5], [0.7]]).unique().numel() == 1, "the network's own are used"
    net.requires_grad_(False)
    with pytest.raises(il.InputError, match="Sequential has no parameters to learn"):
        il.maml(net, il.mse(net))


@pytest.mark.parametrize("start", ["torch", "released", "xavier"])
def test_weights_from_a_generator_leave_the_global_one_alone(start: Any) -> None:
    before = torch.get_rng_state()
    net = il.mlp(2, 3, 1, start=start, generator=torch.Generator().manual_seed(0))
    assert torch.equal(torch.get_rng_state(), before)
    same = il.mlp(2, 3, 1, start=start, generator=torch.Generator().manual_seed(0))
    assert all(torch.equal(p, q) for p, q in zip(net.parameters(), same.parameters(), strict=True))
    il.mlp(2, 3, 1, start=start)
    assert not torch.equal(torch.get_rng_state(), before)
