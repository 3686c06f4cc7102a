"""No library: a loop over tasks, ``torch.autograd.grad`` with its graph kept."""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional

from . import Tasks


def prepare(net: nn.Module, classify: bool, steps: int, rate: float, tasks: Tasks) -> Callable[[], list[Tensor]]:
    """One meta-gradient by a loop over tasks, each going backward by itself."""
    compare = functional.cross_entropy if classify else functional.mse_loss
    support, query = tasks
    each = list(zip(*support, *query, strict=True))
    prior = dict(net.named_parameters())

    def gradient() -> list[Tensor]:
        net.zero_grad(set_to_none=True)
        for x, y, query_x, query_y in each:
            fast: dict[str, Tensor] = dict(prior)
            for _ in range(steps):
                loss = compare(functional_call(net, fast, (x,)), y)
                slopes = torch.autograd.grad(loss, list(fast.values()), create_graph=True)
                fast = {name: p - rate * slope for (name, p), slope in zip(fast.items(), slopes, strict=True)}
            loss = compare(functional_call(net, fast, (query_x,)), query_y)
            (loss / len(each)).backward()
        return [p.grad for p in prior.values() if p.grad is not None]

    return gradient


def prepare_third_order(net: nn.Module, rate: float, families: tuple[Tasks, Tasks]) -> Callable[[], list[Tensor]]:
    """One gradient of meta-meta-learning with squared error: descend the meta-loss of a family's tasks once, then adapt to others.

    Args:
        rate: of both steps.
        families: tasks to descend on, tasks to be judged by, each stacked over families and again over tasks.
    """
    prior: dict[str, Tensor] = dict(net.named_parameters())
    each = [[list(zip(*support, *query, strict=True)) for support, query in _families(part)] for part in families]

    def descended(params: dict[str, Tensor], loss: Tensor) -> dict[str, Tensor]:
        slopes = torch.autograd.grad(loss, list(params.values()), create_graph=True)
        return {name: p - rate * slope for (name, p), slope in zip(params.items(), slopes, strict=True)}

    def loss(params: dict[str, Tensor], x: Tensor, y: Tensor) -> Tensor:
        return functional.mse_loss(functional_call(net, params, (x,)), y)

    def meta_loss(params: dict[str, Tensor], tasks: list[tuple[Tensor, ...]]) -> Tensor:
        losses = [loss(descended(params, loss(params, x, y)), query_x, query_y) for x, y, query_x, query_y in tasks]
        return torch.stack(losses).mean()

    def gradient() -> list[Tensor]:
        net.zero_grad(set_to_none=True)
        for seen, unseen in zip(*each, strict=True):
            params = descended(prior, meta_loss(prior, seen))
            (meta_loss(params, unseen) / len(each[0])).backward()
        return [p.grad for p in prior.values() if p.grad is not None]

    return gradient


def prepare_modulated(prior: dict[str, Tensor], steps: int, rate: float, tasks: Tasks) -> Callable[[], list[Tensor]]:
    """One meta-gradient of MuMoMAML by a loop over tasks: ``nn.GRU`` reads the support, a head for each hidden layer tells FiLM.

    Args:
        prior: our parameters by name; the network's and the heads' are used as they are, the encoder's by ``nn.GRU``.
    """
    params = {name: p.detach().clone().requires_grad_() for name, p in prior.items()}
    ends = {"": "onward", "_reverse": "backward"}
    kinds = {"ih": "of_point", "hh": "of_state"}
    twins = {
        f"encoder.{end}.0.{kind}.{part}": f"{part}_{short}_l0{suffix}"
        for suffix, end in ends.items()
        for short, kind in kinds.items()
        for part in ("weight", "bias")
    }
    gru = nn.GRU(2, params["encoder.onward.0.of_state.weight"].shape[1], bidirectional=True)
    with torch.no_grad():
        for ours, theirs in twins.items():
            getattr(gru, theirs).copy_(params[ours])
    leaves = {name: getattr(gru, twins[name]) if name in twins else p for name, p in params.items()}
    moving = [name for name in leaves if name.startswith("net.")]
    hidden = sorted({name.split(".")[1] for name in leaves if name.startswith("head.")})
    last = moving[-1].split(".")[1]
    support, query = tasks
    each = list(zip(*support, *query, strict=True))

    def gradient() -> list[Tensor]:
        for p in leaves.values():
            p.grad = None
        for x, y, query_x, query_y in each:
            embedding = gru(torch.cat([x, y], dim=-1))[1].flatten()
            told = {}
            for layer in hidden:
                head = [leaves[f"head.{layer}.{k}.{part}"] for k in (0, 2) for part in ("weight", "bias")]
                told[layer] = functional.linear(functional.linear(embedding, *head[:2]).relu(), *head[2:]).chunk(2)

            def predicted(fast: dict[str, Tensor], x: Tensor, told: dict[str, tuple[Tensor, ...]] = told) -> Tensor:
                for layer in hidden:
                    gamma, beta = told[layer]
                    x = functional.linear(x, fast[f"net.{layer}.layer.weight"], fast[f"net.{layer}.layer.bias"])
                    x = (x * (1 + gamma) + beta).relu()
                return functional.linear(x, fast[f"net.{last}.weight"], fast[f"net.{last}.bias"])

            fast = {name: leaves[name] for name in moving}
            for _ in range(steps):
                loss = functional.mse_loss(predicted(fast, x), y)
                slopes = torch.autograd.grad(loss, list(fast.values()), create_graph=True)
                fast = {name: p - rate * slope for (name, p), slope in zip(fast.items(), slopes, strict=True)}
            (functional.mse_loss(predicted(fast, query_x), query_y) / len(each)).backward()
        return [p.grad for p in leaves.values() if p.grad is not None]

    return gradient


def _families(tasks: Tasks) -> list[Tasks]:
    """The tasks of each family by themselves."""
    (x, y), (query_x, query_y) = tasks
    return [((x[k], y[k]), (query_x[k], query_y[k])) for k in range(len(x))]
