"""Our own layers: equal to torch's, with derivatives of every order that finite differences agree with."""

import subprocess
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.autograd import gradcheck, gradgradcheck
from torch.func import vmap

import innerloop as il
from innerloop import Task
from innerloop.engine import Plan, meta_gradient
from innerloop.models import kernels
from innerloop.models.conv import Conv, Convolution, Gather, NormalisedPool, Patches, Pool, Spread
from innerloop.models.rewrite import for_inner_loops

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
    "conv": (lambda x, w: Conv.apply(x, w, 2, 1), [(2, 3, 5, 6), (4, 3, 3, 3)]),
    "conv over tasks": (vmap(lambda x, w: Conv.apply(x, w, 2, 1)), [(3, 2, 2, 5, 6), (3, 4, 2, 3, 3)]),
    "conv over tasks, same images": (vmap(lambda x, w: Conv.apply(x, w, 1, 0), in_dims=(None, 0)), [(2, 2, 4, 4), (3, 2, 2, 3, 3)]),
    "conv over tasks, same filters": (vmap(lambda x, w: Conv.apply(x, w, 1, 1), in_dims=(0, None)), [(3, 2, 2, 4, 4), (2, 2, 3, 3)]),
}


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
    ours = for_inner_loops(conv)
    assert isinstance(ours, Convolution)
    torch.testing.assert_close(ours(x), conv(x))
    torch.testing.assert_close(ours(x[0]), conv(x[0]))  # a single image without a batch
    several = torch.stack([conv.weight, 2 * conv.weight, -conv.weight])
    found = vmap(lambda w: torch.func.functional_call(ours, {"weight": w}, (x,)))(several)
    torch.testing.assert_close(found, torch.stack([torch.func.functional_call(conv, {"weight": w}, (x,)) for w in several]))


@pytest.mark.parametrize(
    "conv",
    [nn.Conv2d(4, 4, 3, groups=2), nn.Conv2d(4, 4, 3, dilation=2), nn.Conv2d(4, 4, 3, padding="same"), nn.Conv2d(4, 4, (3, 1)),
     nn.Conv2d(4, 4, 3, padding=1, padding_mode="circular"), nn.Conv1d(4, 4, 3)],
    ids=["groups", "dilation", "same", "oblong", "circular", "1d"],
)  # fmt: skip
def test_other_convolutions_stay_torchs(conv: nn.Module) -> None:
    assert for_inner_loops(conv) is conv


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
    ours = for_inner_loops(net)
    assert [type(layer) for layer in ours.children()] == [Convolution, NormalisedPool, nn.Identity, nn.Identity]
    assert dict(ours.named_parameters()).keys() == dict(net.named_parameters()).keys()
    x = numbers(6, 3, *size).detach().to(dtype)
    tolerance = {torch.float64: 1e-10, torch.float32: 1e-4, torch.bfloat16: 0.1}[dtype]
    torch.testing.assert_close(ours(x), net(x), rtol=tolerance, atol=tolerance)
    twice = nn.Sequential(net[1], net[1])
    assert twice[0] is twice[1]


@built
def test_a_mean_far_from_zero_costs_no_accuracy() -> None:
    norm = nn.BatchNorm2d(1, track_running_stats=False)
    x = 1000 + numbers(8, 1, 16, 16).detach().float()
    expected = nn.functional.max_pool2d(torch.relu(norm.double()(x.double())), 2).float()
    torch.testing.assert_close(NormalisedPool(norm.float(), nn.ReLU())(x), expected, rtol=1e-3, atol=1e-3)


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
@pytest.mark.parametrize("whole", [True, False], ids=["after a block", "after a convolution"])
def test_torchs_layers_may_follow_under_vmap(after: nn.Module, whole: bool) -> None:
    """Some refuse images whose channels are innermost there."""
    first = block(nn.ReLU()) if whole else nn.Conv2d(3, 4, 3, padding=1)
    net = nn.Sequential(first, after, nn.Flatten(), nn.LazyLinear(2)).double()
    tasks = images()
    net(tasks.support[0][0])
    learner = il.maml(net, il.cross_entropy(net), steps=1, rate=0.1)
    expected = meta_gradient(learner, Plan(loop=True))(learner.prior, tasks)
    torch.testing.assert_close(meta_gradient(learner)(learner.prior, tasks), expected, rtol=1e-9, atol=1e-11)


def test_blocks_within_a_row_of_layers() -> None:
    """Channels stay innermost from block to block where a convolution comes next, and nowhere else."""
    net = nn.Sequential(block(nn.ReLU()), nn.Sequential(nn.Sequential(nn.Conv2d(4, 4, 1))), block(nn.ReLU()), nn.Conv2d(3, 4, 1))
    pools = [layer for layer in for_inner_loops(net).modules() if isinstance(layer, NormalisedPool)]
    assert [pool.innermost for pool in pools] == [True, True]
    twice = nn.Sequential(net[0], net[1], net[0], nn.Flatten())
    pools = [layer for layer in for_inner_loops(twice).modules() if isinstance(layer, NormalisedPool)]
    assert [pool.innermost for pool in pools] == [True, False]


def test_a_layer_may_come_twice_in_a_row_of_layers() -> None:
    """Between the convolution and the normalisation is the second use of a ReLU: the bias must stay."""
    relu = nn.ReLU()
    net = nn.Sequential(nn.Conv2d(3, 4, 3), relu, nn.Conv2d(4, 4, 3), relu, nn.BatchNorm2d(4, track_running_stats=False)).double()
    x = numbers(2, 3, 8, 8)
    torch.testing.assert_close(for_inner_loops(net)(x), net(x))


def test_layers_with_hooks_are_left_alone() -> None:
    net, seen = block(nn.ReLU()), []
    net[2].register_forward_hook(lambda *args: seen.append(1))
    ours = for_inner_loops(net)
    ours(numbers(2, 3, 4, 4).detach())
    assert seen == [1]


def test_without_a_compiler_torchs_layers_do(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def fail(*args: object, **how: object) -> None:
        raise subprocess.CalledProcessError(1, "g++", stderr="g++: fatal error: no cc1plus\nand more")

    monkeypatch.setenv("INNERLOOP_CACHE", str(tmp_path))
    monkeypatch.setattr(subprocess, "run", fail)
    monkeypatch.setattr(kernels, "library", kernels.cache(kernels.library.__wrapped__))
    net, x = block(nn.ReLU()), numbers(2, 3, 4, 4).detach()
    with pytest.warns(UserWarning, match=r"without innerloop's own kernels, slower: g\+\+: fatal error: no cc1plus; install g\+\+"):
        torch.testing.assert_close(for_inner_loops(net)(x), net(x))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for_inner_loops(net)(x)
    assert list(tmp_path.rglob("*.so")) == []
