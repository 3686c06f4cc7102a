"""Returns, the baseline that they are compared with, and the advantages that are left."""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from innerloop.errors import InputError


@dataclass(frozen=True)
class Returns:
    """Advantages of rollouts, Â_t = Σ_l (γ λ)^l δ_{t+l} with δ_t = r_t + γ b_{t+1} − b_t, then centred and scaled for each task.

    The baseline b is fitted to the discounted returns of the very rollouts that it is then taken
    from, each task and step by itself. With λ = 1 the advantage is the discounted return less b.

    Args:
        discount: γ, 0 to 1.
        trace: λ of generalised advantage estimation, 0 to 1.
        baseline: ``linear`` in features of observation and time, or ``none``.
        normalised: make mean 0 and deviation 1 over all steps of a task.
        bootstrap: an episode that is cut at the horizon, or by a time limit of its world, is taken to go on with rewards as
            they were seen from such observations; without, as in the papers' code, as if nothing came after it.

    >>> plain = Returns(discount=0.5, baseline="none", normalised=False)
    >>> plain(torch.zeros(1, 1, 3, 2), torch.tensor([[[1.0, 1.0, 1.0]]]), torch.ones(1, 1, 3, dtype=torch.bool))
    tensor([[[1.7500, 1.5000, 1.0000]]])

    Raises:
        InputError: a setting is out of its range.

    Source: Schulman et al. 2016, arXiv:1506.02438; baseline: Duan et al. 2016, arXiv:1604.06778; settings: cbfinn/maml_rl.
    """

    discount: float = 0.99
    trace: float = 1.0
    baseline: Literal["linear", "none"] = "linear"
    normalised: bool = True
    bootstrap: bool = False

    def __post_init__(self) -> None:
        if not (0 <= self.discount <= 1 and 0 <= self.trace <= 1):
            raise InputError(f"discount is {self.discount} and trace {self.trace}; both must be from 0 to 1")
        if self.bootstrap and self.discount == 1:
            raise InputError("bootstrap with a discount of 1 has no end to what comes after; take a discount below 1")
        if self.baseline not in ("linear", "none") or (self.bootstrap and self.baseline == "none"):
            raise InputError(f"baseline is {self.baseline!r} with bootstrap {self.bootstrap}; give 'linear', or 'none' without bootstrap")

    def __call__(
        self, observations: Tensor, rewards: Tensor, alive: Tensor, last: Tensor | None = None, going: Tensor | None = None
    ) -> Tensor:
        """Advantages ``[tasks, K, T]``.

        Args:
            observations: ``[tasks, K, T, observations]``.
            rewards: ``[tasks, K, T]``.
            alive: which steps were taken, ``[tasks, K, T]``.
            last: what was seen after an episode's last step, ``[tasks, K, observations]``; for ``bootstrap``.
            going: which episodes were cut while they went on, ``[tasks, K]``; for ``bootstrap``.
        """
        taken, reward = alive.double(), rewards.double()
        if self.bootstrap:
            if last is None or going is None:
                raise InputError("bootstrap needs what came after the last step; give last and going")
            beyond = after_cut(observations, reward, alive, last, going, self.discount)
            reward = reward.scatter_add(-1, alive.sum(-1, keepdim=True) - 1, self.discount * beyond)
        expected = torch.zeros_like(reward)
        if self.baseline == "linear":
            seen = features(observations)
            weights = fitted(seen, discounted(reward, self.discount), alive)
            expected = (seen @ weights[:, None]).squeeze(-1) * taken
        following = torch.cat([expected[..., 1:], torch.zeros_like(expected[..., :1])], -1)
        surprise = (reward + self.discount * following - expected) * taken
        advantages = discounted(surprise, self.discount * self.trace)
        if self.normalised:
            n = taken.sum((1, 2), keepdim=True)
            apart = (advantages - advantages.sum((1, 2), keepdim=True) / n) * taken
            advantages = apart / ((apart.square().sum((1, 2), keepdim=True) / n).sqrt() + 1e-8)
        return advantages.to(rewards)  # 0 after an episode's end, as all that is summed there


def discounted(rewards: Tensor, discount: float) -> Tensor:
    """R_t = Σ_l γ^l r_{t+l} along the last axis.

    >>> discounted(torch.tensor([1.0, 1.0]), 0.5)
    tensor([1.5000, 1.0000])
    """
    returns, ahead = [], torch.zeros_like(rewards[..., 0])
    for r in reversed(rewards.unbind(-1)):
        ahead = r + discount * ahead
        returns.append(ahead)
    return torch.stack(returns[::-1], -1)


def after_cut(observations: Tensor, rewards: Tensor, alive: Tensor, last: Tensor, going: Tensor, discount: float) -> Tensor:
    """What episodes that were cut would have earned on from what they saw last, discounted, ``[tasks, K, 1]``; 0 where they ended.

    A return that is cut n steps on has seen the part 1 − γⁿ of the discounts, and is taken to be that part of what its
    observation is worth: R_t ≈ (1 − γⁿ) v · (o, o², 1), with v fitted for each task.
    No value is beyond that of the lowest or highest reward for ever.

    >>> ever = torch.ones(1, 1, 3)  # a reward of 1
    >>> after_cut(torch.zeros(1, 1, 3, 1), ever, ever.bool(), torch.zeros(1, 1, 1), ever[..., 0].bool(), discount=0.9).round(decimals=3)
    tensor([[[10.]]], dtype=torch.float64)
    """
    reward, cut = rewards.double(), going.unsqueeze(-1)
    left = alive.sum(-1, keepdim=True) - torch.arange(alive.shape[-1], device=alive.device)
    part = 1 - discount ** left.clamp(min=0).double() * cut
    weights = fitted(_of_state(observations) * part.unsqueeze(-1), discounted(reward, discount), alive)
    worth = (_of_state(last.where(cut, 0)).unsqueeze(2) @ weights[:, None]).squeeze(-1)
    lowest, highest = (reward.where(alive, end).flatten(1) for end in (torch.inf, -torch.inf))
    most = [bound[:, None, None] / (1 - discount) for bound in (lowest.amin(1), highest.amax(1))]
    return worth.clamp(*most) * cut


def features(observations: Tensor) -> Tensor:
    """[o, o², t/100, (t/100)², (t/100)³, 1] with o cut to ±10, in float64.

    >>> features(torch.tensor([[2.0], [20.0]]))[1]
    tensor([1.0000e+01, 1.0000e+02, 1.0000e-02, 1.0000e-04, 1.0000e-06, 1.0000e+00],
           dtype=torch.float64)
    """
    state = _of_state(observations)
    t = torch.arange(state.shape[-2], dtype=state.dtype, device=state.device).div(100)
    time = torch.stack([t, t**2, t**3], -1).expand(*state.shape[:-1], 3)
    return torch.cat([state[..., :-1], time, state[..., -1:]], -1)


def _of_state(observations: Tensor) -> Tensor:
    """[o, o², 1] with o cut to ±10, in float64."""
    o = observations.double().clamp(-10, 10)
    return torch.cat([o, o.square(), torch.ones_like(o[..., :1])], -1)


RIDGE = 1e-5


def fitted(of: Tensor, returns: Tensor, alive: Tensor) -> Tensor:
    """Weights of the linear baseline of each task, argmin_w Σ (w · f_t − R_t)² + 10⁻⁵ |w|², ``[tasks, features, 1]``.

    Args:
        of: what ``features`` gives, ``[tasks, K, T, features]``.
        returns: R, ``[tasks, K, T]``.
        alive: which steps count, ``[tasks, K, T]``.
    """
    kept = alive.double().flatten(1).unsqueeze(-1)
    f, r = of.flatten(1, 2) * kept, returns.double().flatten(1).unsqueeze(-1) * kept
    square = f.mT @ f + RIDGE * torch.eye(f.shape[-1], dtype=f.dtype, device=f.device)
    return torch.linalg.solve(square, f.mT @ r)  # and not lstsq, which gives other last digits from call to call
