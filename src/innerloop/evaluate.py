"""A metric for every task after every step; means with intervals; methods compared on the same tasks."""

from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import dataclass, replace
from hashlib import blake2b
from math import inf, isfinite
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from innerloop import checkpoint
from innerloop.batches import in_bytes, map_tensors, one, onto, tensors
from innerloop.engine import each_task, in_precision
from innerloop.errors import Diverged, InputError, at_least_one
from innerloop.explain import try_one
from innerloop.learner import Learner, Task
from innerloop.losses import Model, in_test, untrained
from innerloop.params import Params, under
from innerloop.progress import bar
from innerloop.tasks import Source, Told, check_source, check_split, most_together, on

Metric = Callable[[Any, Any], Tensor | float]


@dataclass(frozen=True, repr=False)
class Scores:
    """A metric of every task after every step; it shows itself as a table.

    Args:
        values: ``[tasks, steps + 1]``; column k is after k steps. A task whose adaptation
            diverged scores infinity, and then so does the mean, whichever is the better end: nothing is left out.
        tasks: which tasks they are, so that only scores of the same ones are compared.
    """

    values: Tensor
    tasks: str = ""

    @property
    def mean(self) -> Tensor:
        """Mean over tasks, ``[steps + 1]``."""
        return self.values.mean(0)

    @property
    def median(self) -> Tensor:
        """Median over tasks, ``[steps + 1]``; infinite where half of the tasks are."""
        low, high = (self.values.quantile(0.5, dim=0, interpolation=side) for side in ("lower", "higher"))
        return torch.where(low == high, low, low + (high - low) / 2)  # infinity is not away from itself

    @property
    def sd(self) -> Tensor:
        """Standard deviation over tasks, ``[steps + 1]``; 0 of a single task."""
        return self.values.std(0) if len(self.values) > 1 else torch.zeros_like(self.mean)

    @property
    def interval(self) -> Tensor:
        """Half-width of the 95 % interval over tasks, 1.96 · sd / √tasks, ``[steps + 1]``."""
        return 1.96 * self.sd / len(self.values) ** 0.5

    @property
    def diverged(self) -> Tensor:
        """How many tasks have no finite score, ``[steps + 1]``."""
        return (~self.values.isfinite()).sum(0)

    def __repr__(self) -> str:
        columns = (map(_number, c.tolist()) for c in (self.mean, self.interval, self.median, self.sd))
        rows = zip(*columns, strict=True)
        lines = [f"{k:>5} {mean:>10} ± {half:<9}{median:>9}{sd:>10}" for k, (mean, half, median, sd) in enumerate(rows)]
        lost = f", of which {self.diverged.max()} diverged" if self.diverged.any() else ""
        return "\n".join([f"steps       mean ± 95 %       median        sd   ({len(self.values)} tasks{lost})", *lines])


def _number(value: float) -> str:
    return f"{value:.4f}" if abs(value) < 1e4 else f"{value:.3g}"


def evaluate(
    learner: Learner,
    tasks: Source,
    steps: int | None = None,
    n_tasks: int = 600,
    *,
    split: str = "test",
    metric: Metric | None = None,
    chunk: int | None = None,
    device: str = "cpu",
    progress: bool = False,
) -> Scores:
    """A metric on the query of every task, after 0, 1, … steps of adaptation to its support.

    Args:
        learner: adapts from its prior.
        tasks: where tasks come from.
        steps: how far to go, by default as many as the learner takes; its last step is
            repeated where more are wanted.
        n_tasks: tasks 0 … n_tasks − 1 of the split.
        split: ``test``, ``val`` or ``train``.
        metric: ``(prediction, y) → scalar``; by default the learner's loss.
        chunk: tasks that are in memory together; by default as many as take a moment.
        device: such as ``cpu`` or ``cuda``.
        progress: show a bar.

    Raises:
        InputError: tasks are of no source, no such split, none are asked for, or a metric of a learner without a model.

    >>> from innerloop import Sinusoids, maml, mlp, mse
    >>> net = mlp(1, 8, 1)
    >>> evaluate(maml(net, mse(net)), Sinusoids(shots=5), steps=10, n_tasks=20).values.shape
    torch.Size([20, 11])
    """
    check_source(tasks)
    check_split(split)
    at_least_one(n_tasks=n_tasks, chunk=chunk)
    going = learner if steps is None else learner.taking(steps)
    loss = learner.loss
    if metric is not None:
        if (model := learner.model) is None:
            raise InputError("the learner has no model to predict with, so it can only be scored by its loss; leave metric out")
        loss = lambda params, batch: torch.as_tensor(metric(model(params, batch[0]), batch[1]))  # noqa: E731

    def scores(params: Params, task: Task) -> Tensor:
        return torch.stack([loss(moved, task.query) for moved in going.adapt(params, task.support)[going.prepared :]])

    prior, there, digest = onto(learner.prior, device), on(tasks, device), blake2b(digest_size=8)

    def draw(first: int, count: int) -> Task:
        shown.to(first)
        drawn = there.draw(split, first, count)
        if not all(t.isfinite().all() for t in tensors(drawn)):
            raise InputError(f"the {split!r} tasks hold NaN or infinity; clean the data or leave those out")
        # What an oracle is told is no part of the task.
        plain = drawn._replace(support=drawn.support.batch) if isinstance(drawn.support, Told) else drawn
        for k in range(count):
            for t in tensors(one(plain, k)):  # equal for equal tasks, whatever made them
                digest.update(in_bytes(t))
        return onto(drawn, device)

    try_one(going, prior, onto(there.draw(split, 0, 1), device))
    with in_precision("float32", device), in_test(), bar("scoring", n_tasks, show=progress) as shown:
        values = each_task(scores, prior, draw, n_tasks, chunk or most_together(there))
        shown.to(n_tasks)
    values = values if values.is_floating_point() else values.to(torch.get_default_dtype())
    values = values.nan_to_num(nan=torch.inf, posinf=torch.inf, neginf=-torch.inf)
    return Scores(values, f"{n_tasks} of {split!r}, {digest.hexdigest()}")


def compare(a: Scores, b: Scores) -> Scores:
    """Paired difference a − b of two methods on the same tasks, after each step that both took.

    Tasks differ more than methods do; differences task by task have the smaller interval.

    Raises:
        InputError: the scores are of different tasks.
    """
    if a.tasks != b.tasks or len(a.values) != len(b.values):
        raise InputError(f"the scores are of different tasks ({a.tasks}; {b.tasks}); evaluate both on the same ones")
    steps = min(a.values.shape[1], b.values.shape[1])
    return Scores(a.values[:, :steps] - b.values[:, :steps], a.tasks)


def tune(
    built: Callable[[float], Learner],
    rates: Sequence[float],
    tasks: Source,
    steps: int,
    n_tasks: int = 600,
    device: str = "cpu",
    metric: Metric | None = None,
    highest: bool = False,
    score: Callable[..., Scores] = evaluate,
) -> tuple[float, dict[float, float]]:
    """The inner rate with the smallest mean score over tasks of ``val`` and steps 1 … ``steps``.

    Returns it and the score of every rate; one that diverges scores infinity, and is not taken.

    Args:
        metric: as in ``evaluate``.
        highest: take the rate with the highest score instead.
        score: in the place of ``evaluate``, of the same arguments.

    Raises:
        InputError: there is no rate or no step to choose by, or every rate diverges.
    """
    if not rates or steps < 1:
        raise InputError(f"there are {len(rates)} rates and {steps} steps; give at least one of each")

    def mean(rate: float) -> float:
        try:
            return score(built(rate), tasks, steps, n_tasks, split="val", metric=metric, device=device).values[:, 1:].mean().item()
        except Diverged:  # a policy's, which then acts no more
            return inf

    scores = {rate: mean(rate) for rate in rates}
    if not (finite := [rate for rate in rates if isfinite(scores[rate])]):
        raise InputError(f"adaptation diverges at each of the rates {', '.join(f'{rate:g}' for rate in rates)}; try smaller ones")
    return (max if highest else min)(finite, key=lambda rate: scores[rate]), scores


def adapted(learner: Learner, support: tuple[Any, Any], steps: int | None = None) -> Params:
    """The prior adapted to a handful of labelled examples: what ``predict`` predicts with.

    Args:
        support: the examples, ``(x, y)``: tensors, arrays or nested lists.
        steps: of adaptation; by default as many as the learner takes.

    Raises:
        InputError: the examples hold NaN or do not fit the network, or adaptation diverges.
    """
    x, y = _given(learner, support)
    if other := [t for t in tensors(x) if len(t) != len(y)]:
        raise InputError(f"the support has {len(other[0])} x but {len(y)} y; give one y for each x")
    going = learner if steps is None else learner.taking(steps)
    try:
        with torch.no_grad(), in_test():
            params = going.adapt(learner.prior, (x, y))[-1]
    except RuntimeError as problem:
        why = str(problem).strip().splitlines()[0]
        raise InputError(
            f"a support of x {_shapes(x)} and y {_shapes(y)} does not fit the learner: {why}; give examples like those of its tasks"
        ) from problem
    if wrong := [name for name, p in params.items() if not p.isfinite().all()]:
        raise InputError(
            f"adapting to the support makes {wrong[0]} infinite; scale the examples like those of training, or take fewer steps"
        )
    return params


def adapted_net(learner: Learner, support: tuple[Any, Any], steps: int | None = None) -> nn.Module:
    """A copy of the learner's network, adapted to a handful of labelled examples: an ordinary module, in eval mode.

    It knows nothing of meta-learning any more: ``torch.save(net.state_dict(), …)`` keeps it.

    Args:
        support: the examples, ``(x, y)``: tensors, arrays or nested lists.
        steps: of adaptation; by default as many as the learner takes.

    Raises:
        InputError: as for ``adapted``, or the learner's predictions are not those of one network alone.

    >>> from innerloop import maml, mlp, mse
    >>> net = mlp(1, 8, 1)
    >>> learner, support = maml(net, mse(net)), ([[0.0], [1.0]], [[0.0], [0.8]])
    >>> there = adapted_net(learner, support)
    >>> bool(there(torch.ones(1, 1)).isclose(predict(learner, support, [[1.0]])))
    True
    """
    if not isinstance(learner.model, Model):
        raise InputError("the learner's predictions are not those of one network alone; call learner.adapt and learner.model")
    own = under(adapted(learner, support, steps), learner.model.name)
    net = deepcopy(learner.model.net).eval()
    with torch.no_grad():
        for name, p in net.named_parameters():
            if name in own:
                p.copy_(own[name])
    return net


def predict(learner: Learner, support: tuple[Any, Any], x: Any, steps: int | None = None) -> Tensor:
    """Predictions at ``x`` of the learner adapted to a handful of labelled examples.

    Args:
        support: the examples, ``(x, y)``: tensors, arrays or nested lists; x may be a tuple or dict of tensors.
        x: where to predict.
        steps: of adaptation; by default as many as the learner takes.

    Raises:
        InputError: the examples hold NaN or do not fit the network, or adaptation diverges.

    >>> from innerloop import maml, mlp, mse
    >>> net = mlp(1, 8, 1)
    >>> predict(maml(net, mse(net)), ([[0.0], [1.0]], [[0.0], [0.8]]), [[0.5]]).shape
    torch.Size([1, 1])
    """
    [x] = _given(learner, [x])
    return predict_with(learner, adapted(learner, support, steps), x)


def predict_with(learner: Learner, params: Params, x: Any) -> Tensor:
    """Predictions at ``x`` of parameters that ``adapted`` gave."""
    if learner.model is None:
        raise InputError("the learner has no model to predict with; build it from a network")
    [x] = _given(learner, [x])
    try:
        with torch.no_grad(), in_test():
            return learner.model(params, x)
    except RuntimeError as problem:
        why = str(problem).strip().splitlines()[0]
        raise InputError(f"x {_shapes(x)} does not fit the learner: {why}; give examples like those of its tasks") from problem


def check_classes(learner: Learner, x: Any, classes: int) -> None:
    """See that a classifier's head has an output for each class.

    Args:
        x: examples of the support, which show the network's outputs.
        classes: how many the support has.

    Raises:
        InputError: it has fewer; surplus outputs do no harm.
    """
    start = learner.taking(0)
    outputs = predict_with(start, adapted(start, (x, torch.arange(len(x)) % classes)), x)
    if outputs.ndim != 2 or outputs.shape[1] < classes:
        has = f"{outputs.shape[1]} outputs" if outputs.ndim == 2 else f"outputs of shape {list(outputs.shape[1:])}"
        raise InputError(
            f"the support has {classes} classes but the learner's head has {has}; give fewer classes, or train one of more ways"
        )


def _given(learner: Learner, parts: Sequence[Any]) -> list[Any]:
    """What a user gives, as tensors of the prior's kind and place."""
    kind = next((p for p in learner.prior.values() if p.is_floating_point()), torch.empty(0))

    def of_its_kind(part: Any) -> Any:
        if isinstance(part, dict) or (isinstance(part, tuple) and any(map(torch.is_tensor, part))):  # inputs of several tensors
            return map_tensors(of_its_kind, part)
        return torch.as_tensor(part, dtype=kind.dtype if _real(part) else None, device=kind.device)

    given = [of_its_kind(part) for part in parts]
    if not all(t.isfinite().all() for t in tensors(given)):
        raise InputError("the examples hold NaN or infinity; leave those points out")
    return given


def _shapes(x: Any) -> str:
    return ", ".join(str(list(t.shape)) for t in tensors(x))


def _real(part: Any) -> bool:
    return torch.as_tensor(part).is_floating_point()


def trained_prior(learner: Learner, folder: str | Path) -> Learner:
    """The learner with the prior that a run left in its folder.

    Raises:
        InputError: there is none, it is damaged, or it is of another network: other names or shapes, or other values
            of buffers and frozen parameters, which are no part of a prior and so not in the folder.
    """
    trained, about = checkpoint.read_prior(Path(folder), learner.prior, going_on="train(…, resume=True)")
    then, now = about.get("untrained", {}), untrained(learner.model)
    if other := sorted(name for name in then if then[name] != now.get(name, then[name])):
        raise InputError(
            f"{other[0]} of the network, a buffer or frozen parameter, is not what the prior in {folder} was trained with, and it is "
            "not kept there; load the network's state_dict of then before its loss is made, or build it from the same seed"
        )
    return replace(learner, prior=trained)
