"""All that the papers measure of a trained prior, in one call and one table."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import isnan

import torch

from innerloop.analysis.conflict import conflict, conflict_within
from innerloop.analysis.forgetting import kept, sweep
from innerloop.analysis.reuse import reuse
from innerloop.evaluate import Metric
from innerloop.learner import Learner
from innerloop.losses import Model, Supervised
from innerloop.params import Params, Patterns, within
from innerloop.progress import bar
from innerloop.tasks import Source


@dataclass(frozen=True, repr=False)
class Measures:
    """What is measured of each tensor of a prior; it shows itself as a table.

    Args:
        conflict: between training tasks, as of ``conflict``.
        within: between the examples of a task, as of ``conflict_within``; empty where the loss does not tell examples apart.
        kept: as of ``kept``.
        factors: γ that each tensor of weights was attenuated by.
        attenuated: score of each for each factor, ``[factors]``.
        higher: whether a higher score is better.
        reuse: CKA by level and layer, as of ``reuse``; empty where the learner is not of a network.
    """

    conflict: Params
    within: Params
    kept: Params
    factors: Sequence[float]
    attenuated: Params
    higher: bool = False
    reuse: Mapping[str, Params] = field(default_factory=dict)

    def best(self, name: str) -> float:
        """The factor that is best for this tensor alone."""
        line = self.attenuated[name].tolist()
        return self.factors[line.index((max if self.higher else min)(line))]

    def __repr__(self) -> str:
        long = max(len(name) for name in self.conflict)
        lines = [f"{'':<{long}} conflict  within  kept      5–95 %  best γ  score there    at 0    at 1"]
        for name in self.conflict:
            apart = [_two(float(found[name].nanmean())) if found else "–" for found in (self.conflict, self.within)]
            low, middle, high = self.kept[name].nanquantile(self.kept[name].new_tensor([0.05, 0.5, 0.95])).tolist()
            line = f"{name:<{long}} {apart[0]:>8}{apart[1]:>8}{_two(middle):>6}{f'{_two(low)}–{_two(high)}':>12}"
            if name in self.attenuated:
                scores, best = self.attenuated[name].tolist(), self.best(name)
                there = scores[list(self.factors).index(best)]
                line += f"{best:>8.1f}{_two(there):>13}{_two(scores[0]):>8}{_two(scores[-1]):>8}"
            lines.append(line)
        for level, layers in self.reuse.items():
            means = ", ".join(f"{name} {_two(float(value.mean()))}" for name, value in layers.items())
            lines.append(f"CKA of each layer's output before and after {level}: {means}")
        return "\n".join(lines)


def measure(
    learner: Learner,
    tasks: Source,
    *,
    trained: Learner | None = None,
    trained_on: Source | None = None,
    group: int = 10,
    n_tasks: int = 50,
    factors: int = 6,
    split: str = "test",
    only: Patterns = "net",
    metric: Metric | None = None,
    higher: bool = False,
    device: str = "cpu",
    progress: bool = False,
) -> Measures:
    """Conflict between and within tasks, what tasks keep, each layer of weights attenuated by hand, and what features are reused.

    Args:
        learner: as it adapts to tasks.
        tasks: those that it is scored on.
        trained: the learner as it was trained, where that differs; its conflict is measured.
        trained_on: its training tasks, where these are others.
        group: tasks whose conflict is measured, and examples of each.
        n_tasks: for all else.
        factors: how many from 0 to 1, two or more.
        split: of ``tasks``.
        only: patterns of the names that are looked at.
        metric, higher: of the score, and whether more is better.
        progress: show bars.

    >>> from innerloop import Sinusoids, l2f, mlp, mse
    >>> found = measure(l2f(net := mlp(1, 8, 1), mse(net), steps=1), Sinusoids(), n_tasks=10)
    >>> sorted(found.attenuated), found.kept["net.0.weight"].shape
    (['net.0.weight', 'net.2.weight'], torch.Size([10]))

    Source: Baik et al. 2020, arXiv:1906.05859, Fig. 3 and L; Raghu et al. 2020, arXiv:1909.09157, §3.2.
    """
    own, source, grid = trained or learner, trained_on or tasks, torch.linspace(0, 1, factors).tolist()
    with bar("measuring", 4, show=progress) as shown:
        between = conflict(own, source, group, only=only, device=device)
        shown.to(1)
        examples = conflict_within(own, source, group, group, only=only, device=device) if isinstance(own.loss, Supervised) else {}
        shown.to(2)
        left = kept(learner, tasks, n_tasks, split=split, only=only, device=device)
        shown.to(3)
        levels = reuse(learner, tasks, n_tasks, split=split, device=device) if isinstance(learner.model, Model) else {}
        shown.to(4)
    weights = [name for name, p in within(learner.prior, only).items() if p.ndim > 1]
    scores = sweep(learner, tasks, grid, weights, metric=metric, n_tasks=n_tasks, split=split, device=device, progress=progress)
    return Measures(between, examples, left, grid, dict(zip(weights, scores, strict=True)), higher, levels)


def _two(value: float) -> str:
    """Two digits, or a dash where there is no number."""
    return "–" if isnan(value) else f"{value:.2f}"
