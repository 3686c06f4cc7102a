"""How much of the prior a task keeps, and what it would keep best."""

from collections.abc import Sequence
from dataclasses import replace
from itertools import product
from typing import Any

import torch
from torch import Tensor

from innerloop.analysis.tasks import of_each
from innerloop.evaluate import Metric, evaluate
from innerloop.learner import Learner, Task
from innerloop.params import Params, Patterns, within
from innerloop.progress import bar
from innerloop.tasks import Source


def kept(
    learner: Learner, tasks: Source, n_tasks: int = 100, *, split: str = "test", only: Patterns = "net", device: str = "cpu"
) -> Params:
    """Part of each tensor that is left when adaptation begins: ⟨φ₀, θ⟩ / ⟨θ, θ⟩, ``[tasks]``; γ itself for L2F.

    NaN of a tensor that is 0 everywhere, as biases are at some starts.

    Args:
        learner: whose first, preparing steps change the prior.
        tasks: where tasks come from.
        n_tasks: tasks 0 … n_tasks − 1 of the split.
        only: patterns of the names that are looked at.

    >>> from innerloop import l2f, mlp, mse, Sinusoids
    >>> learner = l2f(net := mlp(1, 4, 1), mse(net))
    >>> {name: list(gamma.shape) for name, gamma in kept(learner, Sinusoids(), only="net.0").items()}
    {'net.0.weight': [100], 'net.0.bias': [100]}

    Source: Baik et al. 2020, arXiv:1906.05859, Fig. 3d.
    """

    names = list(within(learner.prior, only))

    def shares(params: Params, task: Task) -> Tensor:
        start = learner.adapt(params, task.support)[learner.prepared]
        return torch.stack([(start[name] * params[name]).sum() / params[name].square().sum() for name in names])

    return dict(zip(names, of_each(shares, learner.prior, tasks, n_tasks, split, device).unbind(1), strict=True))


def sweep(
    learner: Learner,
    tasks: Source,
    factors: Sequence[float] = tuple(k / 10 for k in range(11)),
    layers: Sequence[Patterns] | None = None,
    *,
    metric: Metric | None = None,
    n_tasks: int = 100,
    progress: bool = False,
    **how: Any,
) -> Tensor:
    """Score after adaptation where one layer of the prior is attenuated by hand, ``[layers, factors]``.

    Args:
        learner: whose prior is scaled, one layer at a time; the other layers stay whole.
        tasks: where tasks come from; the same for every cell.
        factors: γ, one column each.
        layers: patterns of the names of each row; by default one tensor of the network each.
        metric: ``(prediction, y) → scalar``; by default the learner's loss.
        n_tasks: that are scored for each cell.
        progress: show a bar.
        how: as in ``evaluate``.

    Source: Baik et al. 2020, arXiv:1906.05859, Fig. 3b.
    """
    rows = layers if layers is not None else list(within(learner.prior, "net"))
    scores = torch.empty(len(rows), len(factors))
    with bar("attenuating", scores.numel(), show=progress) as shown:
        for k, cell in enumerate(product(range(len(rows)), range(len(factors)))):
            row, column = cell
            if factors[column] == 1 and row:  # a whole prior is the same for all
                scores[cell] = scores[0, column]
            else:
                scaled = {name: factors[column] * p for name, p in within(learner.prior, rows[row]).items()}
                attenuated = replace(learner, prior={**learner.prior, **scaled})
                scores[cell] = evaluate(attenuated, tasks, n_tasks=n_tasks, metric=metric, **how).mean[-1]
            shown.to(k + 1)
    return scores
