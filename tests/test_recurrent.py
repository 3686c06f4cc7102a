"""Recurrent layers of torch in plain operations: the same numbers, and all engine plans."""

from itertools import product
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional
from torch.nn.utils.rnn import pack_sequence

import innerloop as il
from innerloop.engine import Plan, choose, meta_gradient
from innerloop.learner import Learner, Task
from innerloop.models.recurrent import read, step

F64 = torch.float64
LAYERS = [nn.RNN, nn.GRU, nn.LSTM]


def filled(layer: Any) -> Any:
    generator = torch.Generator().manual_seed(0)
    for p in layer.parameters():
        nn.init.normal_(p, std=0.5, generator=generator)
    return layer.double()


def parts(states: Any) -> tuple[Tensor, ...]:
    return states if isinstance(states, tuple) else (states,)


@pytest.mark.parametrize("kind", LAYERS)
@pytest.mark.parametrize(("both_ways", "layers", "first"), list(product([False, True], [1, 2], [False, True])))
def test_layers_give_torchs_states(kind: Any, both_ways: bool, layers: int, first: bool) -> None:
    for bias, begun, alone in product([False, True], repeat=3):
        layer = filled(kind(3, 4, layers, bias=bias, batch_first=first, bidirectional=both_ways))
        x = torch.randn((5, 3) if alone else (2, 5, 3), dtype=F64, generator=torch.Generator().manual_seed(1))
        batch = () if alone else (2 if first else 5,)
        own = [torch.randn(layers * (1 + both_ways), *batch, 4, dtype=F64, generator=torch.Generator().manual_seed(k)) for k in range(2)]
        hx = (tuple(own) if kind is nn.LSTM else own[0]) if begun else None
        (found, states), (wanted, theirs) = read(layer, x, hx), layer(x, hx)
        torch.testing.assert_close(found, wanted)
        for mine, its in zip(parts(states), parts(theirs), strict=True):
            torch.testing.assert_close(mine, its)


def test_other_kinds_of_layers_give_torchs_states() -> None:
    x = torch.randn(5, 2, 3, dtype=F64, generator=torch.Generator().manual_seed(1))
    shorter, bent = filled(nn.LSTM(3, 4, 2, proj_size=2, bidirectional=True)), filled(nn.RNN(3, 4, nonlinearity="relu"))
    for layer in (shorter, bent):
        (found, states), (wanted, theirs) = read(layer, x), layer(x)
        torch.testing.assert_close(found, wanted)
        assert [p.shape for p in parts(states)] == [p.shape for p in parts(theirs)]
    packed = pack_sequence([x[:, 0], x[:3, 1]])
    layer = filled(nn.GRU(3, 4))
    torch.testing.assert_close(read(layer, packed)[0].data, layer(packed)[0].data)


@pytest.mark.parametrize("kind", [nn.RNNCell, nn.GRUCell, nn.LSTMCell])
def test_cells_give_torchs_states(kind: Any) -> None:
    cell = filled(kind(3, 4))
    generator = torch.Generator().manual_seed(1)
    for shape in ((3,), (2, 3)):
        x, h = (torch.randn(*shape[:-1], n, dtype=F64, generator=generator) for n in (3, 4))
        for hx in (None, (h, h.flip(-1)) if kind is nn.LSTMCell else h):
            for mine, its in zip(parts(step(cell, x, hx)), parts(cell(x, hx)), strict=True):
                torch.testing.assert_close(mine, its)


def test_what_is_dropped_out_lies_between_layers_and_in_training_alone() -> None:
    layer, x = filled(nn.GRU(3, 50, 2, dropout=0.5)), torch.ones(4, 2, 3, dtype=F64)
    assert not torch.equal(read(layer, x)[0], read(layer, x)[0])
    torch.testing.assert_close(read(layer.eval(), x)[0], layer(x)[0])
    alone = filled(nn.GRU(3, 4))
    alone.dropout = 0.5  # torch warns where a single layer is built with it, as it does nothing there
    torch.testing.assert_close(read(alone, x)[0], alone(x)[0])


class Last(nn.Module):
    """A number for each sequence."""

    def __init__(self, kind: Any):
        super().__init__()
        self.read, self.head = kind(3, 4, batch_first=True, bidirectional=True), nn.Linear(8, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.read(x)[0][:, -1])


def sequences(net: nn.Module) -> tuple[Learner, Task]:
    generator = torch.Generator().manual_seed(0)
    x, y = torch.randn(2, 3, 6, 5, 3, dtype=F64, generator=generator), torch.randn(2, 3, 6, 1, dtype=F64, generator=generator)
    return il.maml(net, il.mse(net), 2, 0.1), Task((x[0], y[0]), (x[1], y[1]))


@pytest.mark.parametrize("kind", LAYERS)
def test_meta_gradients_are_those_through_torchs_own_layers(kind: Any) -> None:
    learner, tasks = sequences(net := filled(Last(kind)))
    start = {name: p.clone().requires_grad_() for name, p in learner.prior.items()}
    losses = []
    for k in range(3):
        moved = {name.removeprefix("net."): p for name, p in start.items()}
        for _ in range(2):
            loss = functional.mse_loss(functional_call(net, moved, (tasks.support[0][k],)), tasks.support[1][k])
            slopes = torch.autograd.grad(loss, list(moved.values()), create_graph=True)
            moved = {name: p - 0.1 * s for (name, p), s in zip(moved.items(), slopes, strict=True)}
        losses.append(functional.mse_loss(functional_call(net, moved, (tasks.query[0][k],)), tasks.query[1][k]))
    wanted = torch.autograd.grad(torch.stack(losses).mean(), list(start.values()))
    for plan in (Plan(), Plan(loop=True), Plan(loop=True, recompute=True), Plan(stepwise=True)):
        found, loss = meta_gradient(learner, plan)(learner.prior, tasks)
        torch.testing.assert_close(loss, torch.stack(losses).mean().detach())
        torch.testing.assert_close([*found.values()], [*wanted])


def test_compiled_recurrent_steps_have_the_same_gradient() -> None:
    learner, tasks = sequences(filled(Last(nn.GRU)))
    few = Task(*((x[:, :2, :2], y[:, :2]) for x, y in tasks))
    found, wanted = (meta_gradient(learner, plan)(learner.prior, few)[0] for plan in (Plan(compiled=True), Plan()))
    torch.testing.assert_close(found, wanted)


def test_networks_with_recurrent_layers_go_through_vmap_and_stay_as_they_are() -> None:
    net = filled(Last(nn.LSTM))
    learner, tasks = sequences(net)
    warned: list[str] = []
    assert "one iteration, vmap" in choose(learner, learner.prior, tasks, 10, warn=warned.append)[2]
    assert warned == []
    assert "forward" not in vars(net.read)
