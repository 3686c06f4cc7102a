"""The papers' networks for images: sizes, starts, and derivatives under every plan."""

import pytest
import torch
from torch import nn

import innerloop as il
from innerloop import InputError, Task
from innerloop.engine import ENGINES, Plan, meta_gradient
from innerloop.models import ResNet12, WithContext, convnet, mlp_classifier
from innerloop.params import named

COLOUR, GREY = (3, 84, 84), (1, 28, 28)


def size(net: nn.Module) -> int:
    return sum(p.numel() for p in net.parameters())


@pytest.mark.parametrize(
    ("net", "numbers"),
    [
        # By hand: 9·1·64 + 64, three times 9·64·64 + 64, a shift of 64 in each block, 64·5 + 5 at the end.
        (convnet(GREY, 5, 64, strided=True, mean=True, norm="shift"), 640 + 3 * 36_928 + 4 * 64 + 325),
        (convnet(COLOUR, 5, 32), 896 + 3 * 9_248 + 4 * 64 + 800 * 5 + 5),
        (convnet(COLOUR, 5, 48, slope=0.01, bias=False), 9 * 3 * 48 + 3 * 9 * 48 * 48 + 4 * 96 + 1200 * 5 + 5),
        (mlp_classifier(GREY, 5, norm="shift"), 784 * 256 + 256 * 128 + 128 * 64 + 64 * 64 + 64 * 5 + 2 * 512 + 5),
        (ResNet12((3, 84, 84), 5, (4, 4, 4, 4)), None),
    ],
    ids=["Omniglot", "mini-ImageNet", "L2F", "no convolutions", "residual"],
)
def test_sizes_and_outputs(net: nn.Module, numbers: int | None) -> None:
    shape = COLOUR if any(p.shape[1:2] == (3,) for p in net.parameters()) else GREY
    assert net(torch.rand(6, *shape)).shape == (6, 5)
    if numbers is not None:
        assert size(net) == numbers


def test_a_residual_network_as_printed_and_as_released() -> None:
    printed, released = ResNet12(COLOUR, 5), ResNet12(COLOUR, 5, released=True)
    assert printed.head.in_features == 512 * 5 * 5
    assert released.head.in_features == 512
    assert released.get_submodule("blocks")(torch.zeros(1, 3, 84, 84)).shape == (1, 512, 11, 11)


def test_starts() -> None:
    net = convnet(GREY, 20, 64, strided=True, mean=True, head="normal", generator=torch.Generator().manual_seed(0))
    conv, head = net.get_submodule("block2.conv"), net.get_submodule("head")
    assert isinstance(conv, nn.Conv2d)
    assert isinstance(head, nn.Linear)
    assert conv.weight.abs().max() <= (6 / (2 * 9 * 64)) ** 0.5
    assert conv.weight.std().item() == pytest.approx((2 / (2 * 9 * 64)) ** 0.5, rel=0.02)
    assert head.weight.std().item() == pytest.approx(1, rel=0.05)
    assert not head.bias.any()
    again = convnet(GREY, 20, 64, strided=True, mean=True, head="normal", generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(dict(net.named_parameters()), dict(again.named_parameters()), rtol=0, atol=0)
    assert named("net", mlp_classifier(GREY, 5))["net.head.weight"].abs().max() <= 0.02


def test_images_too_small() -> None:
    with pytest.raises(InputError, match="images of 8 × 8 are too small for 4 blocks that each halve them; take fewer"):
        convnet((1, 8, 8), 5)
    with pytest.raises(InputError, match="images of 8 × 8 are too small"):
        ResNet12((1, 8, 8), 5)


NETS = {
    "strided, a shift": lambda: convnet((2, 8, 8), 3, 4, 2, strided=True, mean=True, norm="shift", eps=1e-3),
    "pooled": lambda: convnet((2, 8, 8), 3, 4, 2, slope=0.1),
    "pooled, a shift": lambda: convnet((2, 8, 8), 3, 4, 2, norm="shift"),
    "unnormalised": lambda: convnet((2, 8, 8), 3, 4, 2, norm="none"),
    "no convolutions": lambda: mlp_classifier((2, 8, 8), 3, 8, 4),
    "residual": lambda: ResNet12((2, 16, 16), 3, (2, 2, 3, 3)),
    "residual, released": lambda: ResNet12((2, 16, 16), 3, (2, 2, 3, 3), released=True),
    "context": lambda: WithContext(convnet((3, 8, 8), 3, 4, 2), (1, 8, 8)),
}


@pytest.mark.parametrize("name", NETS)
def test_all_plans_agree(name: str) -> None:
    torch.manual_seed(0)
    net = NETS[name]().double()
    side = 16 if "residual" in name else 8
    if name == "no convolutions":
        for p in net.parameters():  # from its start near 0 nothing flows
            nn.init.normal_(p, std=0.3)
    x, y = torch.randn(2, 2, 6, 2, side, side, dtype=torch.float64), torch.arange(3).repeat(2, 2, 2)
    tasks = Task((x[0], y[0]), (x[1], y[1]))
    moves = "net.context" if name == "context" else "net"
    learner = il.maml(net, il.cross_entropy(net), steps=2, rate=0.1, only=moves)
    expected = meta_gradient(learner, Plan(loop=True))(learner.prior, tasks)
    assert max(g.abs().max() for g in expected[0].values()) > 1e-3
    for engine in ENGINES[1:]:
        if "compile" not in engine:
            found = meta_gradient(learner, Plan.named(engine) or Plan())(learner.prior, tasks)
            torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-11)
