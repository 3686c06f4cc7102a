"""What several tests start from."""

import os
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import nn

import innerloop as il
from innerloop import Learner, Task

# One thread, here and in processes that tests start: threads gain nothing at this size, and
# on a busy machine OpenMP's wait for each other is a hundred times slower.
torch.set_num_threads(1)
os.environ["OMP_NUM_THREADS"] = "1"

Build = Callable[..., Learner]
METHODS: dict[str, Build] = dict(il.METHODS)


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
    return METHODS[name](net, il.mse(net), **({"steps": 2, "rate": 0.1} | how))


@pytest.fixture
def waves() -> Task:
    """Three tasks of five and four points in float64."""
    return il.batches.map_tensors(lambda t: t.double(), il.Sinusoids(shots=5, queries=4).draw("train", 0, 3))


@pytest.fixture(params=sorted(il.METHODS))
def method(request: pytest.FixtureRequest) -> Build:
    """Every method in turn: ``method(dtype=…, **how)`` builds its learner."""
    return partial(built, request.param)
