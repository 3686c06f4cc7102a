"""learn2learn 0.2.0 with cherry 0.2.0: an outer step of MAML-TRPO on rollouts in hand, put together as its example does."""

import sys
from collections.abc import Callable, Sequence
from copy import deepcopy
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, autograd, nn
from torch.nn.utils import parameters_to_vector, vector_to_parameters

from .l2l import learn2learn

# cherry imports what it has of gym's environments, of a gym that no longer installs; TRPO needs none of it.
for part in ("envs", "wrappers"):
    sys.modules.setdefault(f"cherry.{part}", ModuleType(f"cherry.{part}"))

from cherry.algorithms import a2c, trpo  # noqa: E402  # pyright: ignore[reportMissingImports]


def prepare(policy: nn.Module, support: Sequence[Any], query: Sequence[Any], rate: float, limit: float = 0.01) -> Callable[[], Tensor]:
    """An outer step, which leaves the policy as it is and gives the one that it would take.

    Args:
        support, query: rollouts of each task, before and after one inner step.
    """
    update = learn2learn.algorithms.maml.maml_update

    def adapted(start: nn.Module, rollouts: Any) -> nn.Module:
        own = learn2learn.clone_module(start)
        loss = a2c.policy_loss(_flat(own(rollouts.observations).log_prob(rollouts.actions)), _flat(rollouts.advantages))
        slopes = autograd.grad(loss, list(own.parameters()), create_graph=True)
        return update(own, rate, slopes)

    def judged(start: nn.Module) -> tuple[Tensor, Tensor]:
        losses, apart = [], []
        for before, after, old in zip(support, query, acted, strict=True):
            new = adapted(start, before)(after.observations)
            apart.append(old.kl(new).mean())
            losses.append(trpo.policy_loss(_flat(new.log_prob(after.actions)), _flat(after.log_prob), _flat(after.advantages)))
        return torch.stack(losses).mean(), torch.stack(apart).mean()

    acted = [adapted(policy, before)(after.observations) for before, after in zip(support, query, strict=True)]
    acted = [type(old)(*(t.detach() for t in old)) for old in acted]

    def step() -> Tensor:
        loss, kl = judged(policy)
        params = list(policy.parameters())
        slope = parameters_to_vector(autograd.grad(loss, params, retain_graph=True)).detach()
        times = trpo.hessian_vector_product(kl, params)
        direction = trpo.conjugate_gradient(times, slope.clone())
        direction = direction / (0.5 * torch.dot(direction, times(direction)) / limit).sqrt()
        here = parameters_to_vector(params).detach()
        for k in range(10):
            there = deepcopy(policy)
            vector_to_parameters(here - 0.5**k * direction, there.parameters())
            after, moved = judged(there)
            if after < loss and moved < limit:
                return parameters_to_vector(there.parameters()).detach()
        return here

    return step


def _flat(t: Tensor) -> Tensor:
    return t.reshape(-1, 1)
