"""MAML++: rates and normalisation for every step, and phases of training."""

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import replace

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from innerloop.errors import InputError
from innerloop.learner import Learner, Loss
from innerloop.methods.gradient import per_step_rates
from innerloop.params import Patterns, named, within
from innerloop.steps import in_turn, put_slice

LEAST = 0.03
"""What is left of an earlier step's share in the multi-step loss, before it ends."""


def maml_plus_plus(
    net: nn.Module,
    loss: Loss,
    steps: int = 5,
    rate: float = 0.01,
    first_order: bool = False,
    weights: Sequence[float] = (1.0,),
    only: Patterns = "net",
) -> Learner:
    """MAML++: φₖ₊₁ = φₖ − aₖ ∇L(φₖ; γₖ, βₖ), with learned rates, and batch normalisations' γ and β, for every step.

    ``rate.net.0.weight[k]`` is a tensor's rate at step k, ``norm.net.1.weight[k]`` a
    normalisation's γ. Each step first puts its γ and β in their place in the network, where they
    stay for the query loss that follows it; they are learned outside and do not adapt inside.
    A first step prepares, so that there is a loss before the others too; a list as support has
    an entry for it, which it does not look at. Steps beyond the last one repeat it.

    Every batch is normalised by its own statistics. The paper gathers running ones for each
    step; its code gathers and does not read them, and we follow the code.

    Args:
        steps: 1 or more.
        rate: where all learned rates begin.
        first_order: leave the second derivatives out.
        weights: of the query loss at the last points of the path, ``(1 / steps,) * steps``
            for the multi-step loss as it begins; ``maml_plus_plus_phases`` anneals them.
        only: patterns of the names that move, or of normalisations have a γ and β for every step.

    Raises:
        InputError: there are no steps, or a pattern matches nothing.

    >>> from innerloop.losses import mse
    >>> net = nn.Sequential(nn.Linear(1, 4), nn.BatchNorm1d(4, track_running_stats=False), nn.Linear(4, 1))
    >>> prior = maml_plus_plus(net, mse(net), steps=3).prior
    >>> {name: list(p.shape) for name, p in prior.items() if "1.weight" in name}
    {'norm.net.1.weight': [3, 4]}

    Source: Antoniou et al. 2019, arXiv:1810.09502, §4.
    """
    if steps < 1:
        raise InputError(f"steps is {steps}; MAML++ learns something for every step, so take 1 or more")
    inside = {id(p) for layer in net.modules() if isinstance(layer, _BatchNorm) for p in layer.parameters()}
    own = within(named("net", net), only)
    norms = [f"net.{name}" for name, p in net.named_parameters() if f"net.{name}" in own and id(p) in inside]
    moving = [name for name in own if name not in norms]
    base = per_step_rates(net, loss, steps, rate, only=moving, first_order=first_order)
    if not norms:
        return replace(base, weights=weights)
    shared = {name: p for name, p in base.prior.items() if name not in norms}
    slices = {f"norm.{name}": base.prior[name].repeat(steps, *[1] * base.prior[name].ndim) for name in norms}
    each = (in_turn(put_slice(k, "norm"), step) for k, step in enumerate(base.steps))
    return replace(base, prior=shared | slices, steps=(put_slice(0, "norm"), *each), prepared=1, weights=weights)


def maml_plus_plus_phases(
    net: nn.Module,
    loss: Loss,
    steps: int = 5,
    rate: float = 0.01,
    iterations: int = 50_000,
    first_order: float = 0.0,
    multi_step: float = 0.15,
    levels: int = 5,
) -> dict[int, Learner]:
    """MAML++'s phases of training, for ``train(maml_plus_plus(…), …, phases=…)``: which learner trains from which iteration on.

    The query loss counts at first at all K points alike. Over the first ``multi_step`` of the
    iterations the earlier points' weights fall, (1 − t) / K and at least 0.03 / K at the part t
    of that time, to the last one's favour; then the last one alone counts. The paper lowers them
    every epoch; here it is done in ``levels``, as each set of weights is a graph of its own to
    compile.

    Args:
        iterations: of the whole training.
        first_order: part of them, from the first on, that leave second derivatives out: 0 to 1. The
            paper does so for 50 epochs, its released settings never; we follow the release.
        multi_step: part of them with a multi-step loss; the release's 15 of 100 epochs.
        levels: sets of weights in that time.

    Raises:
        InputError: a part is not between 0 and 1.

    >>> from innerloop.losses import mse
    >>> phases = maml_plus_plus_phases(net := nn.Linear(1, 1), mse(net), steps=2, iterations=100, multi_step=0.5, levels=2)
    >>> {start: learner.weights for start, learner in phases.items()}
    {0: (0.5, 0.5), 25: (0.25, 0.75), 50: (1.0,)}

    Source: Antoniou et al. 2019, arXiv:1810.09502, §4 (MSL, DA); AntreasAntoniou/HowToTrainYourMAMLPytorch.
    """
    for name, part in {"first_order": first_order, "multi_step": multi_step}.items():
        if not 0 <= part <= 1:
            raise InputError(f"{name} is {part}; it is a part of the iterations, from 0 to 1")
    if levels < 1 or iterations < 1:
        raise InputError(f"levels is {levels} and iterations {iterations}; give at least one of each")
    second = round(first_order * iterations)
    changes = [round(multi_step * iterations * level / levels) for level in range(levels + 1)]

    def weights(start: int) -> tuple[float, ...]:
        level = bisect_right(changes, start) - 1
        earlier = max(1 - level / levels, LEAST) / steps
        return (1.0,) if level == levels else (earlier,) * (steps - 1) + (1 - (steps - 1) * earlier,)

    starts = sorted(start for start in {*changes, second} if start < iterations)
    return {start: maml_plus_plus(net, loss, steps, rate, start < second, weights(start)) for start in starts}
