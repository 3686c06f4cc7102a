"""Products in fewer digits: how far the meta-gradient moves, and that float32 stays float32."""

import pytest
import torch
from conftest import smooth_net
from torch import Tensor, nn

import innerloop as il
from innerloop import InputError, Learner, Sinusoids, Task
from innerloop.engine import Plan, in_precision, meta_gradient

PLANS = [Plan(), Plan(loop=True), Plan(loop=True, recompute=True), Plan(recompute=True), Plan(compiled=True)]


def waves() -> tuple[Learner, Task]:
    net = smooth_net(dtype=torch.float32)
    return il.maml(net, il.mse(net), steps=2), Sinusoids().draw("train", 0, 4)


def images() -> tuple[Learner, Task]:
    torch.manual_seed(0)
    pooled = (nn.Conv2d(1, 8, 3, padding=1), nn.BatchNorm2d(8, track_running_stats=False), nn.ReLU(), nn.MaxPool2d(2))
    net = nn.Sequential(*pooled, nn.Flatten(), nn.Linear(8 * 9, 3))
    x, y = torch.randn(2, 2, 9, 1, 6, 6), torch.arange(3).repeat(2, 2, 3)
    return il.maml(net, il.cross_entropy(net), steps=1), Task((x[0], y[0]), (x[1], y[1]))


def flat(gradient: il.learner.Params) -> Tensor:
    return torch.cat([g.flatten() for g in gradient.values()])


@pytest.mark.parametrize("plan", PLANS, ids=str)
@pytest.mark.parametrize("problem", [waves, images])
def test_bfloat16_is_off_by_its_rounding(problem, plan: Plan) -> None:
    learner, tasks = problem()
    learner = learner.taking(1) if plan.compiled else learner  # a second step takes as long again to compile
    exact, loss = meta_gradient(learner, plan)(learner.prior, tasks)
    with in_precision("bfloat16"):
        rough, rough_loss = meta_gradient(learner, plan)(learner.prior, tasks)
    error = (flat(rough) - flat(exact)).norm() / flat(exact).norm()
    assert 1e-4 < error < 0.05  # it keeps 8 bits
    assert rough_loss.item() == pytest.approx(loss.item(), rel=0.02)
    assert rough_loss.dtype is flat(rough).dtype is torch.float32


def test_settings_last_as_long_as_the_block() -> None:
    before = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    block = in_precision("bfloat16")
    block.__enter__()
    assert torch.is_autocast_enabled("cpu")
    assert not torch.backends.cudnn.allow_tf32
    block.__exit__(None, None, None)
    assert not torch.is_autocast_enabled("cpu")
    assert (torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32) == before


def test_names_are_checked() -> None:
    with pytest.raises(InputError, match="no precision 'bfloat'; did you mean bfloat16"), in_precision("bfloat"):
        pass
    with pytest.raises(InputError, match="tf32 is of NVIDIA GPUs, and the device is cpu; float32 and bfloat16 work there"):
        il.train(*_start(), 1, precision="tf32", progress=False)


def test_a_run_trains_in_its_precision_and_keeps_to_it(tmp_path) -> None:
    learner, source = _start()
    rough = il.train(learner, source, 3, precision="bfloat16", out=tmp_path, progress=False).prior
    exact = il.train(learner, source, 3, progress=False).prior
    distance = (flat(rough) - flat(exact)).norm() / flat(exact).norm()
    assert 0 < distance < 0.01
    with pytest.raises(InputError, match="was made with precision bfloat16, not float32"):
        il.train(learner, source, 4, out=tmp_path, resume=True, progress=False)


def _start() -> tuple[Learner, Sinusoids]:
    return waves()[0], Sinusoids()
