"""Feature reuse or fast learning: how much the representations of a network change when it adapts."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from innerloop.analysis.tasks import of_each
from innerloop.errors import InputError
from innerloop.learner import Learner, Task
from innerloop.losses import Model
from innerloop.params import Params
from innerloop.tasks import Source

PREPARATION, ADAPTATION = "preparation", "adaptation"
"""The two levels: from the prior to where adaptation begins, such as MALTML's meta-update, and from there to its end."""


def cka(x: Tensor, y: Tensor) -> Tensor:
    """Linear centred kernel alignment of two representations of the same examples: |Yᵀ X|² / (|Xᵀ X| |Yᵀ Y|), 0 to 1.

    1 where one is a turned, scaled and shifted copy of the other.

    Args:
        x, y: ``[examples, …]``, of any two numbers of features.

    >>> x = torch.randn(20, 5, generator=torch.Generator().manual_seed(0))
    >>> round(float(cka(x, 3 * x.flip(1) + 1)), 4)
    1.0

    Source: Kornblith et al. 2019, arXiv:1905.00414, eq. 4.
    """
    a, b = (t.flatten(1) - t.flatten(1).mean(0) for t in (x, y))
    own, other = a @ a.T, b @ b.T  # among examples, as there are fewer of them than of features
    return (own * other).sum() / (own.norm() * other.norm())


def reuse(learner: Learner, tasks: Source, n_tasks: int = 50, *, split: str = "test", device: str = "cpu") -> Mapping[str, Params]:
    """CKA of each layer's output on the query before and after each level of adaptation, by level and layer, ``[tasks]``.

    Layers are the network's parts that have parameters, or the network itself where it has no parts. Where CKA stays
    near 1 a layer's features are reused, and where it falls they are learned anew.

    Args:
        learner: of a network; ``preparation`` is there where steps prepare the network of the prior, ``adaptation`` where
            there are others.
        tasks: where tasks come from.
        n_tasks: tasks 0 … n_tasks − 1 of the split.

    Raises:
        InputError: the learner is not of a network.

    >>> from innerloop import Sinusoids, anil, mlp, mse
    >>> learner = anil(net := mlp(1, 8, 8, 1), mse(net), steps=3)
    >>> found = reuse(learner, Sinusoids(), n_tasks=5)["adaptation"]
    >>> [name for name, value in found.items() if bool((value > 0.9999).all())]  # only the head moves
    ['0', '2']

    Source: Raghu et al. 2020, arXiv:1909.09157, §3.2; by levels: Devos & Dandi 2020, "Model-Agnostic Learning to Meta-Learn", §4.
    """
    if not isinstance(learner.model, Model):
        raise InputError("the learner is not of a network whose layers could be looked at; build it of an nn.Module")
    model = learner.model
    names = [name for name, part in model.net.named_children() if any(True for _ in part.parameters())] or [""]
    begins = learner.prepared and any(name.startswith("net.") for name in learner.prior)  # not so where preparation chooses the network
    levels = [*([PREPARATION] if begins else []), *([ADAPTATION] if len(learner.steps) > learner.prepared else [])]

    if not levels:
        return {}

    def between(params: Params, task: Task) -> Tensor:
        path = learner.adapt(params, task.support)
        ends = {PREPARATION: (path[0], path[learner.prepared]), ADAPTATION: (path[learner.prepared], path[-1])}
        rows = []
        for level in levels:
            before, after = (_outputs(model, names, point, task.query[0]) for point in ends[level])
            rows.append(torch.stack([cka(before[name], after[name]) for name in names]))
        return torch.stack(rows)

    found = of_each(between, learner.prior, tasks, n_tasks, split, device)
    return {level: dict(zip(names, found[:, k].unbind(1), strict=True)) for k, level in enumerate(levels)}


def _outputs(model: Model, names: list[str], params: Params, x: Tensor) -> dict[str, Tensor]:
    """What each named part of the network gives on the way of x through it."""
    found: dict[str, Tensor] = {}
    with _watched(model.net, names, found):
        model(params, x)
    return found


@contextmanager
def _watched(net: nn.Module, names: list[str], found: dict[str, Tensor]) -> Iterator[None]:
    def keep(name: str) -> Callable[..., None]:
        def hook(part: nn.Module, given: Any, output: Tensor) -> None:
            found[name] = output

        return hook

    handles = [net.get_submodule(name).register_forward_hook(keep(name)) for name in names]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
