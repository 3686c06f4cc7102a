"""How rough a loss is along its own slope: in the inner loop and in the outer one."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.func import grad_and_value

from innerloop.analysis.tasks import of_each
from innerloop.batches import onto
from innerloop.errors import InputError
from innerloop.learner import Learner, Loss, Task, task_loss
from innerloop.params import Params, Patterns, within
from innerloop.tasks import Source

RATES = (0.5, 1.0, 2.0, 4.0)
"""How far to go, in steps of the optimiser: Santurkar et al.'s range."""

SlopeOf = Callable[[Params], tuple[Params, Tensor]]


@dataclass(frozen=True)
class Landscape:
    """What is met on the way down from one point, or the mean over many.

    Args:
        loss: L(φ − rate · ∇L(φ)) for each rate, ``[rates]``: the narrower, the smoother.
        difference: |∇L(φ) − ∇L(φ − rate · ∇L(φ))| for each, ``[rates]``.
        smoothness: the largest of these over the length of the way there, a scalar: the effective β.
    """

    loss: Tensor
    difference: Tensor
    smoothness: Tensor

    @property
    def variation(self) -> float:
        """Largest less smallest loss on the way."""
        return float(self.loss.max() - self.loss.min())


def along_slope(slope_of: SlopeOf, params: Params, rates: Sequence[float], only: Patterns = "net") -> Landscape:
    """Losses and slopes at the points φ − rate · ∇L(φ).

    Args:
        slope_of: ``params → (slopes, loss)``.
        params: φ.
        rates: how far to go.
        only: patterns of the names that move.

    >>> from torch.func import grad_and_value
    >>> bowl = grad_and_value(lambda params: 3 * params["net.w"].square().sum() / 2)
    >>> found = along_slope(bowl, {"net.w": torch.tensor([2.0])}, rates=(0.1, 0.2))
    >>> found.smoothness  # the curvature
    tensor(3.0000)

    Raises:
        InputError: a rate is not above 0, or no name matches.

    Source: Santurkar et al. 2018, arXiv:1805.11604, §3.2 and App. B; Baik et al. 2020, arXiv:1906.05859, App. A.
    """
    if not rates or min(rates) <= 0:
        raise InputError(f"the rates are {tuple(rates)}; give one or more above 0")
    moving = within(params, only)
    here = {name: g for name, g in slope_of(params)[0].items() if name in moving}
    length = _norm(here)
    losses, differences = [], []
    for rate in rates:
        slopes, loss = slope_of({**params, **{name: p - rate * here[name] for name, p in moving.items()}})
        losses.append(loss)
        differences.append(_norm({name: here[name] - slopes[name] for name in here}))
    difference = torch.stack(differences)
    steepest = (difference / (length * torch.tensor(rates).to(difference))).max()
    return Landscape(torch.stack(losses), difference, steepest)


def inner_landscape(
    learner: Learner,
    tasks: Source,
    rate: float,
    n_tasks: int = 20,
    *,
    rates: Sequence[float] = RATES,
    split: str = "train",
    loss: Loss | None = None,
    only: Patterns = "net",
    device: str = "cpu",
) -> Landscape:
    """The landscape of fast adaptation: the mean over all tasks and over the points that their steps begin at.

    Args:
        tasks: where tasks come from.
        rate: the inner rate.
        n_tasks: tasks 0 … n_tasks − 1 of the split.
        rates: how far to go, as multiples of it.
        loss: of the inner loop, on a task's support; by default the learner's.
        only: patterns of the names that move.

    Raises:
        InputError: the learner takes no steps.

    Source: Baik et al. 2020, arXiv:1906.05859, Fig. 2, F and G.
    """
    if len(learner.steps) == learner.prepared:
        raise InputError("the learner takes no steps after preparation, so that it has no landscape of adaptation; give it one or more")
    going_down, distances = loss or learner.loss, [rate * r for r in rates]

    def met(params: Params, task: Task) -> Tensor:
        shown = task.support if isinstance(task.support, list) else [task.support] * len(learner.steps)
        points = list(zip(learner.adapt(params, task.support)[:-1], shown, strict=True))[learner.prepared :]
        found = [along_slope(lambda p, b=batch: grad_and_value(going_down)(p, b), point, distances, only) for point, batch in points]
        return torch.stack([torch.cat([f.loss, f.difference, f.smoothness[None]]) for f in found]).mean(0)

    mean = of_each(met, learner.prior, tasks, n_tasks, split, device).mean(0)
    return Landscape(mean[: len(rates)], mean[len(rates) : -1], mean[-1])


def outer_landscape(
    learner: Learner,
    tasks: Source,
    rate: float,
    n_tasks: int = 20,
    *,
    rates: Sequence[float] = RATES,
    split: str = "train",
    device: str = "cpu",
) -> Landscape:
    """The landscape of learning the prior: the meta-loss of one batch of tasks along its own meta-gradient.

    Args:
        tasks: where tasks come from.
        rate: the outer rate.
        n_tasks: tasks 0 … n_tasks − 1 of the split, together.
        rates: how far to go, as multiples of it.

    Source: Baik et al. 2020, arXiv:1906.05859, Fig. H.
    """
    shapes = {name: p.shape for name, p in learner.prior.items()}
    sizes = [shape.numel() for shape in shapes.values()]

    def of_one(params: Params, task: Task) -> Tensor:
        slopes, loss = grad_and_value(task_loss(learner))(params, task)
        return torch.cat([*(slopes[name].flatten() for name in shapes), loss[None]])

    def slope_of(params: Params) -> tuple[Params, Tensor]:
        *slopes, loss = of_each(of_one, params, tasks, n_tasks, split, device).mean(0).split([*sizes, 1])
        return {name: slope.view(shape) for (name, shape), slope in zip(shapes.items(), slopes, strict=True)}, loss[0]

    return along_slope(slope_of, onto(learner.prior, device), [rate * r for r in rates], list(learner.prior))


def _norm(slopes: Params) -> Tensor:
    return torch.cat([g.flatten() for g in slopes.values()]).norm()
