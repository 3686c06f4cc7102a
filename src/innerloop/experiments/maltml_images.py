"""Devos & Dandi 2020 (MALTML), §4.2: families of few-shot classification, of alphabets, superclasses, and changes of unlabelled images."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from innerloop.experiments.experiment import ACCURACY, Experiment, Trial
from innerloop.experiments.few_shot import MOVES, FewShot, loss_of, net_of, opened
from innerloop.experiments.few_task import SOURCE, Build, FewTask, few_task
from innerloop.learner import Learner
from innerloop.methods import anil, boil, fomaml, maltml, maml
from innerloop.tasks import Changes, Deferred, Goals, ImageFamilies, Source, Unrelated
from innerloop.tasks.images import Turns


@dataclass(frozen=True)
class FewTaskImages(FewTask, FewShot):
    """Options of few-task few-shot classification."""

    iterations: int = 10_000
    meta_batch: int = 4
    """families of one iteration; tasks for methods that ignore families"""
    split: str = "omniglot-alphabets"
    queries: int = 5
    test_queries: int = 5
    meta_rate: float = 0.0001
    """β, on the sum over related tasks; above it the meta-gradient at the starting weights grows with β, and training stands still"""
    test_meta_rate: float = 0.0001
    turns: Turns = "none"
    alphabets: bool = True
    """whether the classes of a family are of one alphabet or superclass"""
    changed: bool = True
    """whether each family changes images in its own way"""
    labelled: bool = True
    """whether training sees labels; tasks that are scored always do"""


def families(settings: FewTaskImages, queries: int, related: int, goals: int) -> ImageFamilies:
    """Those of training: by groups, or of single images that are changed."""
    changes = Changes() if settings.changed or not settings.labelled else None
    common = 1.0 if settings.labelled else 0.5
    grouped = settings.alphabets and settings.labelled
    return ImageFamilies(opened(settings, queries), related, goals, grouped, settings.labelled, changes, common)


def trial(settings: FewTaskImages, learner: Learner, build: Build, ignores: bool = False) -> Trial:
    """A trial of what is trained on families, or on tasks of all of them; scored on goals of new families."""

    def trained_on() -> Source:
        if ignores:
            return Unrelated(families(settings, settings.queries, 1, 1))
        return families(settings, settings.queries, settings.related, settings.goals)

    def asked() -> Source:
        seen = replace(settings, labelled=True, seed=0)
        return Goals(families(seen, settings.test_queries, settings.test_related, settings.goals))

    return few_task(settings, learner, Deferred(trained_on), build, Deferred(asked), settings.steps, settings.rate, MOVES)


def _adapting(settings: FewTaskImages, method: Callable[..., Learner]) -> Build:
    net = net_of(settings)
    return lambda steps, rate: method(net, loss_of(settings, net), steps, rate)


def by_maltml(settings: FewTaskImages, first_order: bool = False, method: Callable[..., Learner] = partial(maml, only=MOVES)) -> Trial:
    """MALTML, of third order or of first, over any base learner."""
    build = _adapting(settings, partial(fomaml, only=MOVES) if first_order else method)
    base = build(settings.steps, settings.rate)
    return trial(settings, maltml(base, settings.meta_steps, settings.meta_rate, only=MOVES, first_order=first_order), build)


def by_maml(settings: FewTaskImages) -> Trial:
    """MAML, which ignores families, and is meta-finetuned at test like MALTML."""
    build = _adapting(settings, partial(maml, only=MOVES))
    return trial(settings, build(settings.steps, settings.rate), build, ignores=True)


FOLLOWS = (
    "paper: MAML's network, inner rate and loss; where it is silent: one step at each level, L = 5, β = 0.0001 on the sum, 4 families an "
    "iteration, new alphabets or superclasses in test, changes after UMTRA"
)
TIERED: dict[str, Any] = {
    "data": "tiered-imagenet",
    "split": "tiered",
    "channels": 3,
    "size": 84,
    "net": "pooled",
    "filters": 32,
    "norm": "transductive",
    "colours": "imagenet",
    "rate": 0.01,
    "changed": False,
}
MANY: dict[str, Any] = {"test_related": 50, "test_meta_steps": 20, "test_meta_rate": 0.0004}
"""The paper's MAML oracle has a large number of the family's tasks."""

VARIANTS: dict[str, tuple[str, Callable[[Any], Trial], dict[str, Any]]] = {
    "": ("MALTML, third order", by_maltml, {}),
    "first-order": ("MALTML, first order", partial(by_maltml, first_order=True), {}),
    "anil": ("MALTML over ANIL", partial(by_maltml, method=partial(anil, only=MOVES)), {}),
    "boil": ("MALTML over BOIL", partial(by_maltml, method=partial(boil, only=MOVES)), {}),
    "maml": ("MAML, which ignores families", by_maml, {"meta_batch": 32}),
    "maml-many": ("MAML, meta-finetuned on 50 tasks", by_maml, {"meta_batch": 32} | MANY),
}
SETS: dict[str, tuple[str, dict[str, Any], tuple[str, ...], str]] = {
    "omniglot-families": ("alphabets that are changed", {}, tuple(VARIANTS), "10 h"),
    "unsupervised-families": ("changes of images without labels", {"labelled": False}, ("", "maml"), "10 h"),
    "imagenet-families": ("superclasses of tieredImageNet", TIERED, ("", "maml", "maml-many"), "80 h"),
}


def _experiments() -> Iterator[Experiment]:
    for name, (what, of_set, variants, cost) in SETS.items():
        for variant in variants:
            title, build, own = VARIANTS[variant]
            settings = FewTaskImages(**(of_set | own))
            yield Experiment(
                name=f"maltml/{name}" + (f"@{variant}" if variant else ""),
                title=f"{title}: {what}",
                source=SOURCE + "§4.2",
                follows=FOLLOWS,
                claims={},
                settings=settings,
                build=build,
                metric=ACCURACY,
                cost=cost,
                needs=(settings.data,),
            )


EXPERIMENTS = tuple(_experiments())
