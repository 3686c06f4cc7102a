"""Baik et al. 2020, Tables 1 to 6, H and I: few-shot image classification by L2F, by MAML as its paper ran it, and every ablation."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from innerloop.errors import InputError
from innerloop.experiments.experiment import ACCURACY, Experiment, Trial
from innerloop.experiments.few_shot import FewShot, few_shot, metric_method
from innerloop.experiments.kept import load
from innerloop.learner import Learner
from innerloop.methods import attenuated_for_all, l2f, maml, mean_prototype, prototypical
from innerloop.tasks.source import generator_of


@dataclass(frozen=True)
class Forgetting(FewShot):
    """Options of L2F on images."""

    layers: int = 2
    """layers of weights in the gate"""
    keep_graph: bool = False
    """whether to differentiate through what the gate is told"""
    told_by: str = ""
    """folder of a run of the prototypical network that tells the gate of tasks"""


MINI = Forgetting(
    data="mini-imagenet",
    split="ravi",
    iterations=50_000,
    meta_batch=4,
    turns="none",
    queries=15,
    test_queries=15,
    steps=5,
    rate=0.01,
    test_steps=5,
    net="pooled",
    filters=48,
    norm="transductive",
    eps=1e-5,
    slope=0.01,
    bias=False,
    reduction="mean",
    clip=10.0,
    channels=3,
    size=84,
    colours="imagenet",
)
TIERED = replace(MINI, data="tiered-imagenet", split="tiered", iterations=125_000)
CIFAR = replace(MINI, size=32, colours="cifar", clip=0.0)
OMNIGLOT = replace(
    MINI,
    data="omniglot",
    split="vinyals",
    channels=1,
    size=28,
    colours="plain",
    turns="classes",
    rate=0.1,
    queries=1,
    test_queries=1,
    clip=0.0,
)
SMALL = replace(MINI, data="mini-imagenet-32", size=32)

PAPER = "Baik et al. 2020, arXiv:1906.05859, "
FOLLOWS = (
    "released code of L2F, but for second derivatives from the first iteration on and a single model at the end: "
    "48 filters, leaky ReLU, mean loss, normalisation that does not move"
)
OWN = "; on data of our own choice, so that no number of the paper stands beside it"


def forgetting(settings: Forgetting, **how: Any) -> Trial:
    """L2F; its network starts as MAML's."""
    gate = {"layers": settings.layers, "keep_graph": settings.keep_graph, "generator": generator_of(settings.seed, "gate")}
    return few_shot(settings, partial(l2f, **gate, **how))


def alike(settings: Forgetting, scope: Any) -> Trial:
    """Factors that are learned, and the same for all tasks."""

    def method(*given: Any, only: Any) -> Learner:
        return attenuated_for_all(maml(*given, only=only), scope, only)

    return few_shot(settings, method)


def told_by_prototypes(settings: Forgetting) -> Trial:
    """L2F whose gate is told by a prototypical network that was trained before."""
    if not settings.told_by:
        raise InputError(
            "told_by is empty; run l2f/embedding-prototypical on the same data first, and give --told-by the folder of that run"
        )
    signal = mean_prototype(load(Path(settings.told_by)))
    blank = torch.zeros(settings.ways, settings.channels, settings.size, settings.size)
    size = len(signal({}, (blank, torch.arange(settings.ways))))
    return forgetting(settings, signal=signal, size=size)


BY_MAML: Callable[[Any], Trial] = few_shot
TRANSFORMS: dict[str, tuple[str, dict[str, Any], float, float]] = {
    "gamma": ("γ without sigmoid", {"squash": torch.clone}, 67.56, 0.47),
    "gamma-delta": ("γ and δ without sigmoid", {"squash": torch.clone, "shift": True}, 66.22, 0.47),
}
SCOPED = {"parameter": (64.7, 0.43), "filter": (65.35, 0.48), "layer": (68.49, 0.41), "network": (67.84, 0.46)}
INNER_STEPS = {
    "": (68.16, 66.85, 68.61, 68.66, 69.38),
    "maml": (56.93, 55.63, 58.79, 62.72, 63.94, 64.54),
}
"""Accuracy of 5-way 5-shot mini-ImageNet after 1, 2, … inner steps, in training and test alike; the paper's ± of all is near 0.5."""

Claim = tuple[float, float]


def _one(
    name: str, title: str, settings: Forgetting, build: Callable[[Any], Trial], table: str, claim: Claim | None, **about: Any
) -> Experiment:
    case = f"{settings.ways}-way {settings.shots}-shot"
    claims, margins = ({case: {settings.test_steps: value}} if value else {} for value in claim or (0.0, 0.0))
    given: dict[str, Any] = {"cost": "20 h", "follows": FOLLOWS} | about
    return Experiment(
        name=name,
        title=title,
        source=PAPER + table,
        settings=settings,
        build=build,
        claims=claims,
        margins=margins,
        metric=ACCURACY,
        needs=(settings.data,),
        **given,
    )


def _rows() -> Iterator[Experiment]:
    """Tables 1, 2, H and I."""
    deep = {"net": "resnet12", "filters": 64, "meta_batch": 1}
    for name, settings, table, cost, claims in (
        ("mini-imagenet", MINI, "Table 1", "20 h", {1: ((52.1, 0.5), None), 5: ((69.38, 0.46), (63.94, 0.48))}),
        (
            "mini-imagenet-resnet12",
            replace(MINI, **deep),
            "Table 1",
            "14 days",
            {1: ((57.48, 0.49), (51.03, 0.5)), 5: ((74.68, 0.43), (68.26, 0.47))},
        ),
        ("tiered-imagenet", TIERED, "Table 2", "70 h", {1: ((54.4, 0.5), (49.06, 0.5)), 5: ((73.34, 0.44), (67.48, 0.47))}),
        (
            "tiered-imagenet-resnet12",
            replace(TIERED, **deep),
            "Table 2",
            "35 days",
            {1: ((63.94, 0.48), (58.58, 0.49)), 5: ((77.61, 0.41), (71.24, 0.43))},
        ),
        (
            "cifar-fs",
            replace(CIFAR, data="cifar-fs", split="cifar-fs"),
            "Table I",
            "8 h",
            {1: ((57.28, 0.49), (53.91, 0.5)), 5: ((73.94, 0.44), (70.16, 0.46))},
        ),
        (
            "fc100",
            replace(CIFAR, data="fc100", split="fc100"),
            "Table H",
            "8 h",
            {1: ((39.46, 0.49), (35.98, 0.48)), 5: ((53.12, 0.5), (51.4, 0.5)), 10: ((59.72, 0.49), (56.13, 0.5))},
        ),
    ):
        for shots, (ours, theirs) in claims.items():
            own = replace(settings, shots=shots, meta_batch=settings.meta_batch if shots == 1 else min(settings.meta_batch, 2))
            where = f"l2f/{name}-{own.ways}w{shots}s"
            case = f"{own.ways}-way {shots}-shot" + (", ResNet-12" if own.net == "resnet12" else "")
            yield _one(where, f"L2F, {case}", own, forgetting, table, ours, cost=cost)
            yield _one(f"{where}@maml", f"MAML, {case}", own, BY_MAML, table, theirs, cost=cost)


def _ablations(settings: Forgetting, ground: str, printed: bool, **about: Any) -> Iterator[Experiment]:
    """Tables 3 to 6, with the paper's numbers where the data are the paper's."""
    at = f"@{ground}" if ground else ""

    def claimed(value: float, margin: float) -> Claim | None:
        return (value, margin) if printed else None

    for method, claims in INNER_STEPS.items():
        build, title = (BY_MAML, "MAML") if method else (forgetting, "L2F")
        variant = "-".join(filter(None, (method, ground)))
        for steps, value in enumerate(claims, 1):
            own, said = replace(settings, steps=steps, test_steps=steps), f"{title}, {steps} inner step{'s' * (steps > 1)}"
            yield _one(
                f"l2f/inner-steps-{steps}" + (f"@{variant}" if variant else ""), said, own, build, "Table 3", claimed(value, 0.0), **about
            )
    for scope, claim in SCOPED.items():
        yield _one(
            f"l2f/scope-{scope}{at}",
            f"one learned factor for each {scope}",
            settings,
            partial(alike, scope=scope),
            "Table 4",
            claimed(*claim),
            **about,
        )
    prototypical_ = partial(metric_method, method=prototypical)
    trains = replace(settings, test_steps=0, clip=0.0)
    yield _one(
        f"l2f/embedding-prototypical{at}", "the prototypical network that tells of tasks", trains, prototypical_, "Table 5", None, **about
    )
    yield _one(
        f"l2f/embedding-prototypes{at}", "L2F told by prototypes", settings, told_by_prototypes, "Table 5", claimed(68.73, 0.46), **about
    )
    for name, (title, how, *claim) in TRANSFORMS.items():
        yield _one(f"l2f/transform-{name}{at}", title, settings, partial(forgetting, **how), "Table 6", claimed(*claim), **about)


def _watched() -> Iterator[Experiment]:
    """Figures 2, 3, F, G and H: what is drawn of MAML and of L2F while they train; ``innerloop compare`` draws both together."""
    settings = replace(MINI, shots=5, meta_batch=2)
    for what, figures in (("conflict", "Figures 3 and L"), ("landscape", "Figures 2, F, G and H")):
        for variant, title, build in (("", "L2F", forgetting), ("@maml", "MAML", BY_MAML)):
            yield replace(_one(f"l2f/{what}{variant}", f"{title}, {what} while training", settings, build, figures, None), watch=1_000)


EXPERIMENTS = (
    *_rows(),
    *_watched(),
    *_ablations(replace(MINI, shots=5, meta_batch=2), "", printed=True),
    *_ablations(replace(OMNIGLOT, ways=20), "omniglot-20w1s", printed=False, cost="5 h", follows=FOLLOWS + OWN),
    *_ablations(replace(SMALL, shots=5, meta_batch=2), "mini-32-5w5s", printed=False, cost="2 h", follows=FOLLOWS + OWN),
)
