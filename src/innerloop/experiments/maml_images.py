"""Finn et al. 2017, §5.2 and App. A.1: few-shot classification of Omniglot and mini-ImageNet."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal, Self

from torch import nn

from innerloop.errors import InputError
from innerloop.experiments.experiment import ACCURACY, Experiment, Settings, Trial
from innerloop.images import classes_of, found, split_of
from innerloop.learner import Learner
from innerloop.losses import cross_entropy, cross_entropy_per_shot
from innerloop.methods import (
    context_vector,
    fomaml,
    maml,
    maml_plus_plus,
    maml_plus_plus_phases,
    matching,
    meta_sgd,
    nearest_neighbour,
    pretrained,
    prototypical,
    with_new_head,
    without_head,
)
from innerloop.models import WithContext, convnet, mlp_classifier
from innerloop.params import Params, Patterns, named
from innerloop.tasks import Deferred, ImageBatches, ImageTasks, Source
from innerloop.tasks.images import Turns
from innerloop.tasks.source import generator_of
from innerloop.train import cosine

Net = Literal["strided", "pooled", "no-conv"]


@dataclass(frozen=True)
class FewShot(Settings):
    """Options of N-way K-shot classification; these are MAML's on Omniglot with 5 ways."""

    iterations: int = 60_000
    meta_batch: int = 32
    validation_tasks: int = 100
    test_steps: int = 3
    data: str = "omniglot"
    """set of images, as ``innerloop data list`` names it"""
    channels: int = 1
    """of an image"""
    size: int = 28
    """height and width of an image"""
    split: str = "omniglot-release"
    """which classes are for training, validation and test"""
    ways: int = 5
    """classes of a task"""
    shots: int = 1
    """support images of each class"""
    queries: int = 1
    """query images of each class in training"""
    test_queries: int = 1
    """query images of each class of a task that is scored"""
    turns: Turns = "tasks"
    """whether images are turned by quarters: none, tasks or classes"""
    steps: int = 1
    """inner steps in training"""
    rate: float = 0.4
    """inner rate, of a loss that is summed over the support and divided by the shots"""
    net: Net = "strided"
    """strided or pooled convolutions, or no-conv"""
    filters: int = 64
    """of each convolution"""

    def quick(self) -> Self:
        return replace(super().quick(), iterations=min(self.iterations, 5), meta_batch=min(self.meta_batch, 4), validation_tasks=4)


def opened(settings: FewShot, queries: int) -> ImageTasks:
    """The set's tasks as MAML's code draws them."""
    images = found(settings.data)
    ours = (settings.channels, settings.size, settings.size)
    if images.shape != ours:
        theirs, wanted = (" × ".join(map(str, shape)) for shape in (images.shape, ours))
        raise InputError(f"the images of {settings.data} are {theirs} and the experiment's {wanted}; build them anew with that size")
    return ImageTasks(
        images, classes_of(images, settings.split), settings.ways, settings.shots, queries, turns=settings.turns, seed=settings.seed
    )


def tasks_of(settings: FewShot, queries: int) -> Source:
    """The same, opened with the first task: a trained prior can be used without the images."""
    return Deferred(lambda: opened(settings, queries))


def net_of(settings: FewShot, more: int = 0) -> nn.Sequential:
    """The network for the set's images, with so many channels more."""
    shape, generator = (settings.channels + more, settings.size, settings.size), generator_of(settings.seed, "weights")
    # The release's batch normalisation has a shift and no scale, and adds 1e-3 to the variance.
    common: dict[str, Any] = {"norm": "shift", "eps": 1e-3, "generator": generator}
    if settings.net == "no-conv":
        return mlp_classifier(shape, settings.ways, **common)
    if settings.net == "strided":
        return convnet(shape, settings.ways, settings.filters, strided=True, mean=True, head="normal", **common)
    return convnet(shape, settings.ways, settings.filters, **common)


def trial(settings: FewShot, build: Callable[..., Learner], net: nn.Module) -> Trial:
    """A trial of a method, ``(net, loss, steps, rate) → learner``."""
    loss = cross_entropy_per_shot(net, settings.shots)

    def scored(prior: Params, rate: float) -> Learner:
        return replace(build(net, loss, settings.steps, rate), prior=prior).taking(max(settings.test_steps, 1))

    return Trial(
        learner=build(net, loss, settings.steps, settings.rate),
        tasks=tasks_of(settings, settings.queries),
        cases={f"{settings.ways}-way {settings.shots}-shot": tasks_of(settings, settings.test_queries)},
        scored=scored,
        rates=(settings.rate,),
    )


def few_shot(settings: FewShot, method: Callable[..., Learner] = maml, moves: Patterns = ("net", "-*.norm")) -> Trial:
    """A gradient-based method; normalisation is learned, and does not move in the inner loop."""
    return trial(settings, partial(method, only=moves), net_of(settings))


def with_context(settings: FewShot) -> Trial:
    """Only a context vector adapts, which is one more channel of every image."""
    return trial(settings, context_vector, WithContext(net_of(settings, more=1), (1, settings.size, settings.size)))


def plus_plus(settings: FewShot) -> Trial:
    """MAML++ with all its parts, as its phases of training have it."""
    how: dict[str, Any] = {"steps": settings.steps, "rate": settings.rate}
    net = net_of(settings)
    base = trial(settings, maml_plus_plus, net)
    phases = maml_plus_plus_phases(net, cross_entropy_per_shot(net, settings.shots), **how, iterations=max(settings.iterations, 1))
    return replace(base, phases=phases, schedule=cosine(max(settings.iterations, 1), 1e-5))


def metric_method(settings: FewShot, method: Callable[..., Learner]) -> Trial:
    """A method that compares embeddings, those that the network's head would see."""
    learner = method(without_head(net_of(settings)), settings.ways)
    base = few_shot(settings)
    return replace(base, learner=learner, scored=lambda prior, rate: replace(learner, prior=prior))


def classifier_of_all(settings: FewShot, method: Literal["fine-tuned", "nearest neighbour"]) -> Trial:
    """A classifier of all training classes at once, whose features or start are used for a task's own classes."""
    split = split_of(settings.split)
    net = net_of(replace(settings, ways=len(split.train)))
    loss = cross_entropy(net)
    body = without_head(net)

    def scored(prior: Params, rate: float) -> Learner:
        if method == "nearest neighbour":
            own = {name: p for name, p in prior.items() if name in named("net", body)}
            return replace(nearest_neighbour(body, settings.ways, "cosine"), prior=own)
        fresh = with_new_head(net, prior, settings.ways)
        return maml(fresh, cross_entropy(fresh), max(settings.test_steps, 1), rate)

    base = few_shot(settings)
    batches = Deferred(lambda: ImageBatches(opened(settings, settings.queries), size=64))
    rates = RATES if method == "fine-tuned" else (0.0,)
    return replace(base, learner=pretrained(net, loss), tasks=batches, scored=scored, rates=rates)


FIVE_WAYS = FewShot()
TWENTY_WAYS = FewShot(ways=20, steps=5, rate=0.1, meta_batch=16, test_steps=5)
MINI = FewShot(
    data="mini-imagenet",
    channels=3,
    size=84,
    split="ravi",
    turns="none",
    queries=15,
    meta_batch=4,
    steps=5,
    rate=0.01,
    test_steps=10,
    net="pooled",
    filters=32,
    clip=10.0,
)
RATES = (0.001, 0.01, 0.1, 1.0)
"""Inner rates that the fine-tuning baseline's is chosen from, on validation tasks."""

OMNIGLOT = "Finn et al. 2017, arXiv:1703.03400, Table 1"
RELEASED = "released code: 1100/100/423 characters, turned by quarters at test too, K query images, normalisation that does not move"

VARIANTS: dict[str, tuple[str, Callable[[Any], Trial]]] = {
    "first-order": ("first-order MAML", partial(few_shot, method=fomaml)),
    "anil": ("ANIL", partial(few_shot, moves="net.head")),
    "boil": ("BOIL", partial(few_shot, moves=("net", "-net.head", "-*.norm"))),
    "meta-sgd": ("Meta-SGD", partial(few_shot, method=meta_sgd)),
    "maml++": ("MAML++", plus_plus),
    "prototypical": ("prototypical network", partial(metric_method, method=prototypical)),
    "matching": ("matching network", partial(metric_method, method=matching)),
}
"""What is compared with MAML on the same tasks; none of these has a number in its paper."""


def _cells(
    name: str,
    title: str,
    settings: FewShot,
    claims: dict[tuple[int, int], tuple[float, float]],
    cost: str = "4 h",
    build: Callable[[Any], Trial] = few_shot,
    **about: Any,
) -> Iterator[Experiment]:
    """An experiment for each (ways, shots) that the paper prints (accuracy, ± of it) for."""
    for (ways, shots), (value, margin) in claims.items():
        base, at, variant = name.partition("@")
        own = replace(settings, ways=ways, shots=shots)
        if settings.queries == 1:  # as many as there are shots, in Omniglot's training and in all tests
            own = replace(own, queries=shots)
        case = f"{ways}-way {shots}-shot"
        yield Experiment(
            name=f"{base}-{ways}w{shots}s{at}{variant}",
            title=f"{title}, {case}",
            settings=own if settings.data == "glyphs" else replace(own, test_queries=shots),
            build=build,
            claims={case: {settings.test_steps: value}} if value else {},
            margins={case: {settings.test_steps: margin}} if value else {},
            metric=ACCURACY,
            cost=cost,
            needs=(settings.data,),
            **about,
        )


NONE = (0.0, 0.0)
MINI_RELEASED = "released code: 64/16/20 classes, meta-batch of 4, K query images at test, normalisation that does not move"
NO_CONV = replace(FIVE_WAYS, net="no-conv")

GLYPHS = FewShot(data="glyphs", split="glyphs", turns="none", iterations=1_000, queries=5, test_queries=5)
BASELINES: dict[str, tuple[str, Callable[[Any], Trial], dict[tuple[int, int], tuple[float, float]]]] = {
    "fine-tuned": ("fine-tuning", partial(classifier_of_all, method="fine-tuned"), {(5, 1): (28.86, 0.54), (5, 5): (49.79, 0.79)}),
    "nearest": ("nearest neighbour", partial(classifier_of_all, method="nearest neighbour"), {(5, 1): (41.08, 0.7), (5, 5): (51.04, 0.65)}),
    "matching": ("matching network", partial(metric_method, method=matching), {(5, 1): (43.56, 0.84), (5, 5): (55.31, 0.73)}),
}

EXPERIMENTS = (
    *_cells("maml/omniglot", "MAML", FIVE_WAYS, {(5, 1): (98.7, 0.4), (5, 5): (99.9, 0.1)}, source=OMNIGLOT, follows=RELEASED),
    *_cells("maml/omniglot", "MAML", TWENTY_WAYS, {(20, 1): (95.8, 0.3), (20, 5): (98.9, 0.2)}, "40 h", source=OMNIGLOT, follows=RELEASED),
    *_cells(
        "maml/omniglot-noconv",
        "MAML without convolutions",
        NO_CONV,
        {(5, 1): (89.7, 1.1), (5, 5): (97.5, 0.6)},
        "30 min",
        source=OMNIGLOT,
        follows=RELEASED,
    ),
    *_cells(
        "maml/context-vector",
        "context vector",
        FIVE_WAYS,
        {(5, 1): (94.9, 0.9), (5, 5): (97.7, 0.3)},
        build=with_context,
        source="Finn et al. 2017, arXiv:1703.03400, Table 3",
        follows="paper, only the context moves; released code for the tasks",
    ),
    *(
        cell
        for variant, (title, build) in VARIANTS.items()
        for own in (FIVE_WAYS, TWENTY_WAYS)
        for cell in _cells(
            f"maml/omniglot@{variant}", title, own, {(own.ways, 1): NONE}, build=build, source="compared with MAML", follows=RELEASED
        )
    ),
    *_cells(
        "maml/mini-imagenet", "MAML", MINI, {(5, 1): (48.7, 1.84), (5, 5): (63.11, 0.92)}, "20 h", source=OMNIGLOT, follows=MINI_RELEASED
    ),
    *_cells(
        "maml/mini-imagenet@first-order",
        "first-order MAML",
        MINI,
        {(5, 1): (48.07, 1.75), (5, 5): (63.15, 0.91)},
        "10 h",
        VARIANTS["first-order"][1],
        source=OMNIGLOT,
        follows=MINI_RELEASED,
    ),
    *(
        cell
        for variant, (title, build, claims) in BASELINES.items()
        for cell in _cells(
            f"maml/mini-imagenet@{variant}",
            title,
            replace(MINI, test_steps=10 if variant == "fine-tuned" else 0),
            claims,
            "2 h",
            build,
            source=OMNIGLOT,
            follows="Ravi & Larochelle 2017 where they print it; MAML's tasks and network",
        )
    ),
    *_cells("maml/glyphs", "MAML", GLYPHS, {(5, 1): NONE}, "5 min", source="no paper", follows="MAML's settings for Omniglot"),
)
