"""What L2F's figures show of a training, for ``train(watch=…)``."""

from collections.abc import Callable
from typing import Any

from innerloop.analysis.conflict import conflict, conflict_within
from innerloop.analysis.forgetting import kept
from innerloop.analysis.landscape import Landscape, inner_landscape, outer_landscape
from innerloop.learner import Learner
from innerloop.losses import Supervised
from innerloop.params import Params, Patterns
from innerloop.tasks import Source


def watch(
    tasks: Source, rate: float, outer_rate: float, n_tasks: int = 10, *, only: Patterns = "net", device: str = "cpu"
) -> Callable[[Learner], dict[str, Any]]:
    """A function of the learner: conflict, what is kept, and the landscapes of the inner and the outer loop.

    Always the same tasks are looked at, so that what changes is the learner. Logged as
    ``conflict``, ``conflict_within`` (of as many query examples of each of the first two tasks) and
    ``kept`` (by tensor, means over tasks), ``inner`` and ``outer`` (``loss`` and ``difference`` by
    distance, ``smoothness``), and ``inner_val``, the same on validation tasks.

    Args:
        tasks: where tasks come from.
        rate: the inner rate.
        outer_rate: the optimiser's.
        n_tasks: that are looked at, 2 or more.
        only: patterns of the names that are looked at.

    >>> from innerloop import Sinusoids, maml, mlp, mse, train
    >>> learner, waves, rows = maml(net := mlp(1, 8, 1), mse(net)), Sinusoids(), []
    >>> trained = train(learner, waves, 2, watch=watch(waves, 0.01, 1e-3), progress=False, log=rows.append)
    >>> [row["iteration"] for row in rows if "conflict" in row]
    [0, 2]

    Source: Baik et al. 2020, arXiv:1906.05859, Fig. 2, 3a, F, G, H and L.
    """

    def look(learner: Learner) -> dict[str, Any]:
        found: dict[str, Any] = {"conflict": _means(conflict(learner, tasks, n_tasks, only=only, device=device))}
        if isinstance(learner.loss, Supervised):
            found["conflict_within"] = _means(conflict_within(learner, tasks, 2, n_tasks, only=only, device=device))
        if learner.prepared:
            found["kept"] = _means(kept(learner, tasks, n_tasks, split="train", only=only, device=device))
        if len(learner.steps) > learner.prepared:
            for name, split in (("inner", "train"), ("inner_val", "val")):
                found[name] = _plain(inner_landscape(learner, tasks, rate, n_tasks, split=split, only=only, device=device))
        found["outer"] = _plain(outer_landscape(learner, tasks, outer_rate, n_tasks, device=device))
        return found

    return look


def _means(by_name: Params) -> dict[str, float | None]:
    means = {name: value.nanmean() for name, value in by_name.items()}
    return {name: None if mean.isnan() else float(mean) for name, mean in means.items()}


def _plain(landscape: Landscape) -> dict[str, Any]:
    return {
        "loss": landscape.loss.tolist(),
        "difference": landscape.difference.tolist(),
        "smoothness": float(landscape.smoothness),
    }
