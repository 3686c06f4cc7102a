"""What several tests start from."""

import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

import innerloop as il
from innerloop import Learner, Task
from innerloop.engine import Plan
from innerloop.images import build

# One thread, here and in processes that tests start: threads gain nothing at this size, and
# on a busy machine OpenMP's wait for each other is a hundred times slower.
torch.set_num_threads(1)
os.environ["OMP_NUM_THREADS"] = "1"
os.environ.setdefault("MUJOCO_GL", "egl")  # robots are filmed without a screen

Build = Callable[..., Learner]
METHODS: dict[str, Build] = {**il.METHODS, "mumomaml": il.mumomaml}

EAGER = [
    Plan(loop=True),
    Plan(chunk=2),
    Plan(chunk=1),
    Plan(stepwise=True, chunk=2),
    Plan(loop=True, stepwise=True),
    Plan(recompute=True),
    Plan(recompute=True, chunk=2),
    Plan(loop=True, recompute=True),
]


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


def smooth_net(inputs: int = 1, dtype: torch.dtype = torch.float64) -> nn.Sequential:
    """A small network with derivatives of every order, started the same each time."""
    net = nn.Sequential(nn.Linear(inputs, 4), nn.Tanh(), nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 1)).to(dtype)
    generator = torch.Generator().manual_seed(0)
    for p in net.parameters():
        nn.init.normal_(p, std=0.7, generator=generator)
    return net


def built(name: str, dtype: torch.dtype = torch.float64, **how: Any) -> Learner:
    """A learner of each method, on the smooth network."""
    if name == "context_vector":
        net: nn.Module = il.WithContext(smooth_net(inputs=3, dtype=dtype), size=2).to(dtype)
        nn.init.normal_(net.context, generator=torch.Generator().manual_seed(1))  # pyright: ignore[reportArgumentType]
    else:
        net = smooth_net(dtype=dtype)
    if name == "mumomaml":
        net = il.with_film(net)
        encoder = il.Recurrent(inputs=2, hidden=2, generator=torch.Generator().manual_seed(3)).to(dtype)
        how = {"encoder": encoder, "hidden": 3, "generator": torch.Generator().manual_seed(4)} | how
    if name == "l2f":  # differentiated through all there is, as finite differences do
        how = {"keep_graph": True, "generator": torch.Generator().manual_seed(2)} | how
    return METHODS[name](net, il.mse(net), **({"steps": 2, "rate": 0.1} | how))


def image_net(classes: int = 3) -> nn.Sequential:
    """A small classifier with batch normalisation and pooling, started the same each time."""
    norm = nn.BatchNorm2d(3, track_running_stats=False)
    net = nn.Sequential(nn.Conv2d(1, 3, 3, padding=1), norm, nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(12, classes)).double()
    generator = torch.Generator().manual_seed(0)
    for p in net.parameters():
        nn.init.normal_(p, std=0.7, generator=generator)
    return net


def image_tasks() -> Task:
    """Two tasks of three classes in float64; the classes are shown three times, twice and once."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2, 12, 1, 4, 4, generator=generator, dtype=torch.float64)
    y = torch.stack([torch.tensor([0, 0, 0, 1, 1, 2])[torch.randperm(6, generator=generator)] for _ in range(4)]).view(2, 12)
    return Task((x[:, :6], y[:, :6]), (x[:, 6:], y[:, 6:]))


@pytest.fixture
def waves() -> Task:
    """Three tasks of five and four points in float64."""
    return il.batches.map_tensors(lambda t: t.double(), il.Sinusoids(shots=5, queries=4).draw("train", 0, 3))


def of_two_points(tasks: Task) -> Task:
    """Their first two support points: a recurrent encoder takes longer to compile with each."""
    return tasks._replace(support=il.batches.map_tensors(lambda t: t[:, :2], tasks.support))


@pytest.fixture(params=sorted(METHODS))
def method(request: pytest.FixtureRequest) -> Build:
    """Every method in turn: ``method(dtype=…, **how)`` builds its learner."""
    return partial(built, request.param)


@pytest.fixture(scope="session")
def shared() -> Path:
    """Real image sets: beside the checkout, or where INNERLOOP_SHARED_DATA says."""
    place = Path(os.environ.get("INNERLOOP_SHARED_DATA") or Path(__file__).parents[2] / "shared/data")
    if not place.is_dir():
        pytest.skip(f"no image sets in {place}")
    return place


@pytest.fixture
def sets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two sets in colour, one of which is for tests only, and one in grey."""
    monkeypatch.setenv("INNERLOOP_DATA", str(tmp_path / "data"))
    generator = numpy.random.default_rng(0)
    every = [f"c{k}" for k in range(12)]
    halves = '{"train": ["c0", "c1", "c2", "c3"], "val": ["c4", "c5", "c6", "c7"], "test": ["c8", "c9", "c10", "c11"]}'
    test_only = '{"test": ["' + '", "'.join(every) + '"]}'
    for name, channels, split in (("birds", 3, halves), ("omniglot", 1, halves), ("coco", 3, test_only)):
        for number, kind in enumerate(every):
            folder = tmp_path / name / kind
            folder.mkdir(parents=True)
            for k in range(4 + number):
                pixels = generator.integers(256, size=(20, 20, 3)[: 2 + channels // 3], dtype=numpy.uint8)
                Image.fromarray(pixels).save(folder / f"{k}.png")
        (tmp_path / f"{name}.json").write_text(split)
        build(f"meta-{name}", [tmp_path / name], size=16, split=tmp_path / f"{name}.json")
    return tmp_path
