"""Degree of conflict: how far apart tasks, or the examples of one task, want the prior to go."""

import torch
from torch import Tensor
from torch.func import grad, vjp, vmap

from innerloop.analysis.tasks import of_each
from innerloop.errors import InputError
from innerloop.learner import Learner, Task, task_loss
from innerloop.losses import Supervised
from innerloop.params import Params, Patterns, within
from innerloop.tasks import Source


def conflict(
    learner: Learner, tasks: Source, n_tasks: int = 20, *, split: str = "train", only: Patterns = "net", device: str = "cpu"
) -> Params:
    """Angle between what each task wants and what all together do, by tensor: arccos(ûᵢ · v̂), v = Σⱼ uⱼ, ``[tasks]`` radians.

    uᵢ is the task's own part of the meta-gradient, −∇_θ L_Q(φ_K). The mean over tasks is the
    paper's degree of conflict. Tasks that all want the same have 0. Two of opposite wishes have
    π/2 on average: the longer one leads, at 0, and the shorter one is at π; where both are of one
    length, v is 0, and the formula gives arccos 0 for each. Among n unrelated tasks of one length
    the angle is arccos(1/√n), 1.11 for 5 and 1.47 for 100, so that only degrees of equally many
    tasks can be compared.

    Args:
        tasks: where tasks come from.
        n_tasks: tasks 0 … n_tasks − 1 of the split, two or more.
        only: patterns of the names that are looked at. A bias before a normalisation by the batch has
            nothing but rounding in its gradient.

    Returns:
        By name, one angle a task; NaN for a task whose own gradient is 0.

    Raises:
        InputError: there is only one task, or no name matches.

    >>> from innerloop import Sinusoids, maml, mlp, mse
    >>> found = conflict(maml(net := mlp(1, 8, 1), mse(net)), Sinusoids(), n_tasks=5)
    >>> found["net.0.weight"].shape
    torch.Size([5])

    Source: Baik et al. 2020, arXiv:1906.05859, §3.3, Fig. 3a and 3c.
    """
    if n_tasks < 2:
        raise InputError(f"n_tasks is {n_tasks}; conflict is between two or more")
    shapes = {name: p.shape for name, p in within(learner.prior, only).items()}

    def slope(params: Params, task: Task) -> Tensor:
        found = grad(task_loss(learner))(params, task)
        return torch.cat([found[name].flatten() for name in shapes])

    slopes = of_each(slope, learner.prior, tasks, n_tasks, split, device)
    parts = slopes.split([shape.numel() for shape in shapes.values()], dim=1)
    return {name: angles(part) for name, part in zip(shapes, parts, strict=True)}


def conflict_within(
    learner: Learner,
    tasks: Source,
    n_tasks: int = 20,
    examples: int | None = None,
    *,
    split: str = "train",
    only: Patterns = "net",
    device: str = "cpu",
) -> Params:
    """The same between the query examples of one task: uⱼ = −∇_θ of example j's part of the loss, ``[tasks, examples]`` radians.

    The part that the meta-gradient owes to the prediction zⱼ: (∂zⱼ/∂θ)ᵀ ∂L/∂zⱼ. All examples are
    predicted as one batch, as in training, so that normalisation by the batch is what it is
    there. The parts of a task add up to what ``conflict`` calls its own.

    Args:
        tasks: where tasks come from.
        n_tasks: tasks 0 … n_tasks − 1 of the split.
        examples: of each task at most, spread evenly over its query; all where None. As many as
            there are tasks for ``conflict`` make both degrees comparable. A single one has 0.
        only: patterns of the names that are looked at.

    Raises:
        InputError: the learner's loss is not ``supervised``, or examples is below 1.

    >>> from innerloop import Sinusoids, maml, mlp, mse
    >>> found = conflict_within(maml(net := mlp(1, 8, 1), mse(net)), Sinusoids(queries=10), n_tasks=5)
    >>> found["net.0.weight"].shape
    torch.Size([5, 10])

    Source: Baik et al. 2020, arXiv:1906.05859, App. F, Fig. L.
    """
    loss = learner.loss
    if not isinstance(loss, Supervised):
        raise InputError("the learner's loss does not tell predictions from labels; build it with supervised(net, compare), mse or another")
    if examples is not None and examples < 1:
        raise InputError(f"examples is {examples}; give 1 or more, or None for all")
    names = list(within(learner.prior, only))

    def apart(params: Params, task: Task) -> Tensor:
        x, y = task.query
        prediction, back, *_ = vjp(lambda p: loss.model(learner.adapt(p, task.support)[-1], x), params)
        n = min(examples or len(prediction), len(prediction))
        slopes = grad(loss.compare)(prediction, y)
        chosen = torch.linspace(0, len(prediction) - 1, n).round().long()
        alone = torch.eye(len(prediction), dtype=slopes.dtype, device=slopes.device)[chosen]  # a row for each, its own slope's
        (parts,) = vmap(back)(alone.reshape(*alone.shape, *[1] * (slopes.ndim - 1)) * slopes)
        return torch.stack([angles(parts[name]) for name in names])

    return dict(zip(names, of_each(apart, learner.prior, tasks, n_tasks, split, device).unbind(1), strict=True))


def angles(wishes: Tensor) -> Tensor:
    """Angle of each row ``[n, …]`` to the sum of all, 0 to π; NaN for a row of zeros.

    By 2 atan2(|û − v̂|, |û + v̂|), which is right near 0 and π too, where an arccosine loses half
    of the digits.

    >>> angles(torch.tensor([[1.0, 0.0], [-3.0, 0.0]]))
    tensor([3.1416, 0.0000])
    """
    rows = wishes.flatten(1)
    lengths, whole = rows.norm(dim=1, keepdim=True), rows.sum(0)
    nothing = lengths.sum() * len(rows) * torch.finfo(rows.dtype).eps  # a sum that is rounding alone has no direction
    own, lead = rows / lengths, torch.where(whole.norm() > nothing, whole / whole.norm(), torch.zeros_like(whole))
    return 2 * torch.atan2((own - lead).norm(dim=1), (own + lead).norm(dim=1))
