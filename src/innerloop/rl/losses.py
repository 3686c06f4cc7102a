"""Losses of a policy on one task's rollouts: estimators of the policy gradient, and of how adaptation changes it.

All have the gradient of REINFORCE at the policy that acted, −mean Â_t ∇log π(a_t | o_t). They differ in what
a second derivative makes of them, which MAML takes through its steps. The Hessian that is wanted is
E[Σ_t Â_t (∇² log π_t + ∇log π_t ∇log π_tᵀ + Σ_{s<t} (∇log π_s ∇log π_tᵀ + ∇log π_t ∇log π_sᵀ))].
"""

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor, nn

from innerloop.errors import InputError
from innerloop.learner import Batch, Learner, Loss, Step
from innerloop.losses import model
from innerloop.params import Params
from innerloop.rl.policies import Policy


def mean_over_steps(values: Tensor, alive: Tensor) -> Tensor:
    """Mean over the steps that were taken."""
    return (values * alive).sum() / alive.sum()


def score(policy: nn.Module) -> Loss:
    """−mean Â_t log π(a_t | o_t): what MAML differentiated.

    Second derivative: −mean Â_t ∇² log π_t alone, without ∇log π ∇log πᵀ; so a step's use of the
    distribution that rollouts were drawn from gets no credit. Biased, of low variance.

    Source: Finn et al. 2017, arXiv:1703.03400, §3.2; cbfinn/maml_rl.
    """
    act = model(policy)
    return lambda params, rollouts: (
        -mean_over_steps(act(params, rollouts.observations).log_prob(rollouts.actions) * rollouts.advantages, rollouts.alive)
    )


def ratio(policy: nn.Module) -> Loss:
    """−mean Â_t π(a_t | o_t) / π_acted(a_t | o_t): low-variance curvature (LVC), and the surrogate that queries are judged by.

    Second derivative: −mean Â_t (∇² log π_t + ∇log π_t ∇log π_tᵀ); only products of different times
    are left out. Away from the policy that acted it stays importance-weighted.

    Source: Rothfuss et al. 2019, arXiv:1810.06784 (ProMP), eq. 9.
    """
    act = model(policy)
    return lambda params, rollouts: -mean_over_steps(_log_ratio(act, params, rollouts).exp() * rollouts.advantages, rollouts.alive)


def loaded_dice(policy: nn.Module, weight: float = 1.0) -> Loss:
    """Loaded DiCE, −mean Â_t (exp w_t − exp v_t), w_t = λ w_{t−1} + log (π / π_acted)_t and v_t = λ w_{t−1}.

    Second derivative: products of different times are weighted by λ^|t − s|. λ = 1 is unbiased,
    with a variance that grows with the horizon; λ = 0 is ``ratio`` in all derivatives.

    Args:
        weight: λ, 0 to 1.

    Raises:
        InputError: λ is out of its range.

    Source: Farquhar et al. 2019, arXiv:1909.10549, algorithm 1.
    """
    if not 0 <= weight <= 1:
        raise InputError(f"weight is {weight}; λ is from 0 (low variance) to 1 (no bias)")
    act = model(policy)

    def loss(params: Params, rollouts: Batch) -> Tensor:
        each = _log_ratio(act, params, rollouts)
        before = weight * _fading(each, weight)
        w = before + each
        return -mean_over_steps((w.exp() - before.exp()) * rollouts.advantages, rollouts.alive)

    return loss


def clipped(policy: nn.Module, bound: float = 0.3) -> Loss:
    """−mean min(r_t Â_t, clip(r_t, 1 ± bound) Â_t) with r = π / π_acted: PPO's and ProMP's surrogate.

    Raises:
        InputError: the bound is not above 0.

    Source: Schulman et al. 2017, arXiv:1707.06347, eq. 7; Rothfuss et al. 2019, arXiv:1810.06784, eq. 11.
    """
    if not bound > 0:
        raise InputError(f"bound is {bound}; the ratio may move by more than 0")
    act = model(policy)

    def loss(params: Params, rollouts: Batch) -> Tensor:
        r = _log_ratio(act, params, rollouts).exp()
        least = torch.minimum(r * rollouts.advantages, r.clamp(1 - bound, 1 + bound) * rollouts.advantages)
        return -mean_over_steps(least, rollouts.alive)

    return loss


def _log_ratio(act: Policy, params: Params, rollouts: Batch) -> Tensor:
    return (act(params, rollouts.observations).log_prob(rollouts.actions) - rollouts.log_prob) * rollouts.alive


def _fading(each: Tensor, weight: float) -> Tensor:
    """Σ_{s<t} λ^{t−1−s} x_s along time."""
    if weight == 1:
        return each.cumsum(-1) - each
    n = each.shape[-1]
    apart = torch.arange(n, device=each.device)[:, None] - torch.arange(n, device=each.device) - 1
    fades = torch.where(apart >= 0, weight ** apart.clamp(min=0).to(each), 0.0)
    return each @ fades.T


def judged(learner: Learner, policy: nn.Module, loss: Callable[[nn.Module], Loss] = ratio) -> Learner:
    """The learner with queries judged by a surrogate of the return, whatever its inner loss is.

    >>> from innerloop.methods import maml
    >>> from innerloop.rl import gaussian_mlp
    >>> policy = gaussian_mlp(2, 8, 2)
    >>> learner = judged(maml(policy, score(policy), steps=1, rate=0.1), policy)
    """
    return replace(learner, loss=loss(policy))


def summing(learner: Learner, name: str, of: Callable[[Params, Batch], Tensor]) -> Learner:
    """The learner with something of every step summed along its path, under a name among the parameters.

    Args:
        of: ``(params, batch) → scalar`` at the parameters before the step.
    """

    def with_sum(step: Step) -> Step:
        def taken(params: Params, batch: Batch) -> Params:
            return {**step(params, batch), name: params.get(name, 0) + of(params, batch)}

        return taken

    made = {id(step): with_sum(step) for step in learner.steps}  # one that is repeated stays one
    return replace(learner, steps=tuple(made[id(step)] for step in learner.steps))


CREDIT, INNER_KL = "credit", "inner_kl"


def e_maml(learner: Learner, policy: nn.Module, expected: float = 0.0) -> Learner:
    """E-MAML: rollouts before a step are credited with the return after it, + R(τ′) Σ_k ∇log π_θ(τ_k).

    With ``score`` inside and this term the meta-gradient is without bias for steps that are functions of
    the rollouts drawn; the term is noisy, as it does not go through the adaptation. It is in units of
    rewards, so advantages must be too: ``Returns(normalised=False)``.

    Args:
        learner: its loss judges queries, such as by ``judged``.
        expected: a return that R(τ′) is compared with; any constant leaves the mean as it is.

    Source: Stadie et al. 2018, arXiv:1803.01118; Al-Shedivat et al. 2018, arXiv:1710.03641.
    """
    act = model(policy)
    whole = summing(learner, CREDIT, lambda params, rollouts: _log_ratio(act, params, rollouts).sum())

    def loss(params: Params, rollouts: Batch) -> Tensor:
        gain = rollouts.rewards.sum(-1).mean() - expected
        return learner.loss(params, rollouts) - gain * params.get(CREDIT, 0.0) / rollouts.alive.sum(-1).to(gain).mean()

    return replace(whole, loss=loss)


def promp(learner: Learner, policy: nn.Module, bound: float = 0.3, weight: float = 5e-4) -> Learner:
    """ProMP: the clipped surrogate of the query, and η · KL(π_acted ‖ π_θ) of the rollouts of every step.

    The KL is the estimate mean(r − 1 − log r), r = π / π_acted, which is never below 0. Its steps should descend ``ratio``, and its
    outer steps be several on the same rollouts: ``train_policy(…, optimizer=adam(1e-3), outer_steps=5)``.

    Args:
        bound: of the ratio.
        weight: η.

    Source: Rothfuss et al. 2019, arXiv:1810.06784, eq. 12 and algorithm 1.
    """
    act, outer = model(policy), clipped(policy, bound)

    def moved(params: Params, rollouts: Batch) -> Tensor:
        log_r = _log_ratio(act, params, rollouts)
        return mean_over_steps(log_r.exp() - 1 - log_r, rollouts.alive)

    whole = summing(learner, INNER_KL, moved)
    return replace(whole, loss=lambda params, rollouts: outer(params, rollouts) + weight * params.get(INNER_KL, 0.0))
