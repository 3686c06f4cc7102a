"""Policies: networks from an observation to a distribution of actions."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor, nn

from innerloop.errors import InputError
from innerloop.models import mlp
from innerloop.params import Params

Policy = Callable[[Params, Tensor], Any]  # a learner's model: (params, observations) → Distribution


class Distribution(Protocol):
    """Of actions, one for each observation."""

    def act(self, noise: Tensor) -> Tensor:
        """The action that standard noise is turned into."""
        ...

    def log_prob(self, action: Tensor) -> Tensor:
        """log π(action)."""
        ...

    def kl(self, new: Any) -> Tensor:
        """KL(self ‖ new)."""
        ...


class Gaussian(NamedTuple):
    """Independent normal distributions of the numbers of an action, ``[..., actions]`` both.

    >>> there, here = Gaussian(torch.zeros(1), torch.zeros(1)), Gaussian(torch.ones(1), torch.zeros(1))
    >>> there.kl(here)  # half the squared distance
    tensor(0.5000)
    """

    mean: Tensor
    log_sd: Tensor

    def act(self, noise: Tensor) -> Tensor:
        """mean + sd · noise, of standard normal noise ``[..., actions]``."""
        return self.mean + self.log_sd.exp() * noise

    def log_prob(self, action: Tensor) -> Tensor:
        """log π(action), ``[...]``."""
        z = (action - self.mean) * (-self.log_sd).exp()
        return (-0.5 * z.square() - self.log_sd - 0.5 * math.log(2 * math.pi)).sum(-1)

    def kl(self, new: "Gaussian") -> Tensor:
        """KL(self ‖ new), ``[...]``."""
        apart = (self.mean - new.mean).square()
        both = (2 * self.log_sd).exp() + apart
        return (new.log_sd - self.log_sd + 0.5 * both * (-2 * new.log_sd).exp() - 0.5).sum(-1)


class Categorical(NamedTuple):
    """One of several actions, by their logits ``[..., actions]``; an action is its number.

    >>> Categorical(torch.zeros(4)).log_prob(torch.tensor(2))  # − log 4
    tensor(-1.3863)
    """

    logits: Tensor

    def act(self, noise: Tensor) -> Tensor:
        """The number with the largest logit + noise, of Gumbel noise ``[..., actions]``: drawn by the softmax of the logits."""
        return (self.logits + noise).argmax(-1)

    def log_prob(self, action: Tensor) -> Tensor:
        """log π(action), ``[...]``."""
        return self.logits.log_softmax(-1).gather(-1, action.unsqueeze(-1)).squeeze(-1)

    def kl(self, new: "Categorical") -> Tensor:
        """KL(self ‖ new), ``[...]``; an action that is never taken, by a logit of −∞, adds nothing."""
        old = self.logits.log_softmax(-1)
        apart = (old - new.logits.log_softmax(-1)).where(old > -math.inf, 0)
        return (old.exp() * apart).sum(-1)


class GaussianPolicy(nn.Module):
    """π(a | o) = N(net(o), diag σ²), with one free log σ for each number of an action, the same at all observations.

    Its parameters are ``mean.*`` and ``log_sd``; in the papers' code the inner loop moves both.

    Args:
        net: observations → means of the action, in [−1, 1] where the world scales actions.
        actions: numbers of an action.
        sd: where σ begins.
        least: σ does not go below it.

    >>> policy = GaussianPolicy(mlp(2, 100, 100, 2), actions=2)
    >>> policy(torch.zeros(20, 2)).mean.shape
    torch.Size([20, 2])

    Source: Duan et al. 2016, rllab; cbfinn/maml_rl.
    """

    def __init__(self, net: nn.Module, actions: int, sd: float = 1.0, least: float = 1e-6):
        super().__init__()
        if actions < 1 or not 0 < least <= sd:
            raise InputError(f"actions is {actions}, sd {sd} and least {least}; give 1 or more, and 0 < least ≤ sd")
        self.mean = net
        self.log_sd = nn.Parameter(torch.full((actions,), math.log(sd)))
        self.least = math.log(least)

    def forward(self, observations: Tensor) -> Gaussian:
        mean = self.mean(observations)
        return Gaussian(mean, self.log_sd.clamp(min=self.least).expand_as(mean))


class CategoricalPolicy(nn.Module):
    """π(a | o) = softmax(net(o))_a, of actions that are numbers 0, 1, ….

    >>> CategoricalPolicy(mlp(2, 8, 3))(torch.zeros(20, 2)).logits.shape
    torch.Size([20, 3])
    """

    def __init__(self, net: nn.Module):
        super().__init__()
        self.net = net

    def forward(self, observations: Tensor) -> Categorical:
        return Categorical(self.net(observations))


def gaussian_mlp(*sizes: int, nonlinearity: Callable[[], nn.Module] = nn.ReLU, generator: torch.Generator | None = None) -> GaussianPolicy:
    """The papers' policy: ReLU layers with Xavier weights and biases at 0, σ = 1.

    Args:
        sizes: numbers of an observation, hidden units of each layer, numbers of an action.
        nonlinearity: of the hidden layers, such as ``nn.Tanh``.
        generator: where the weights are drawn from.

    >>> [name for name, _ in gaussian_mlp(2, 100, 100, 2).named_parameters()][:3]
    ['log_sd', 'mean.0.weight', 'mean.0.bias']

    Source: Finn et al. 2017, arXiv:1703.03400, §5.3; start of weights: rllab.
    """
    return GaussianPolicy(mlp(*sizes, start="xavier", nonlinearity=nonlinearity, generator=generator), sizes[-1])
