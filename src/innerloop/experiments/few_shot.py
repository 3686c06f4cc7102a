"""What the experiments of few-shot image classification share: settings, tasks, networks, and a trial of each kind of method."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal, Self

from torch import nn

from innerloop.errors import InputError, at_least_one
from innerloop.experiments.experiment import ACCURACY, Experiment, Settings, Trial
from innerloop.images import Images, Split, about, classes_of, found, split_for, split_of
from innerloop.learner import Learner, Loss
from innerloop.losses import cross_entropy, cross_entropy_per_shot
from innerloop.methods import (
    context_vector,
    maml,
    maml_plus_plus,
    maml_plus_plus_phases,
    nearest_neighbour,
    pretrained,
    reptile,
    with_new_head,
    without_head,
)
from innerloop.models import Norm, ResNet12, WithContext, convnet, mlp_classifier
from innerloop.outer import cosine
from innerloop.params import Params, Patterns, named
from innerloop.tasks import Deferred, ImageBatches, ImageTasks, Source
from innerloop.tasks.images import Turns
from innerloop.tasks.source import generator_of

Net = Literal["strided", "pooled", "no-conv", "resnet12"]
MOVES = ("net", "-*.norm*")

RATES = (0.001, 0.01, 0.1, 1.0)
"""Inner rates that the fine-tuning baseline's is chosen from, on validation tasks."""

Colours = Literal["plain", "imagenet", "cifar"]
COLOURS: dict[str, tuple[tuple[float, ...], tuple[float, ...]]] = {
    "plain": ((0.0,), (1.0,)),
    "imagenet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "cifar": ((0.5071, 0.4847, 0.4408), (0.2675, 0.2565, 0.2761)),
}
"""Mean and deviation of each channel."""


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
    """inner rate"""
    net: Net = "strided"
    """strided or pooled convolutions, no-conv, or resnet12"""
    filters: int = 64
    """of each convolution; of a ResNet-12's first block, and twice as many in each after it"""
    norm: Norm = "shift"
    """of each layer, by the batch itself: transductive with a scale and a shift, shift, or none"""
    eps: float = 1e-3
    """added to the variance"""
    slope: float = 0.0
    """of the leaky ReLU below 0"""
    bias: bool = True
    """of the convolutions"""
    reduction: Literal["per-shot", "mean"] = "per-shot"
    """of the loss: the sum over examples divided by the shots, which is MAML's, or their mean"""
    colours: Colours = "plain"
    """whose mean and deviation of each channel are taken off and divided by"""

    def quick(self) -> Self:
        return replace(super().quick(), iterations=min(self.iterations, 5), meta_batch=min(self.meta_batch, 4), validation_tasks=4)


def opened(settings: FewShot, queries: int) -> ImageTasks:
    """The set's tasks as MAML's code draws them."""
    images = found(settings.data)
    ours = (settings.channels, settings.size, settings.size)
    if images.shape != ours:
        theirs, wanted = (" × ".join(map(str, shape)) for shape in (images.shape, ours))
        would_do = f"say --channels {images.shape[0]}" if images.shape[1:] == ours[1:] else "build them anew with that size"
        raise InputError(f"the images of {settings.data} are {theirs} and the experiment's {wanted}; {would_do}")
    mean, sd = COLOURS[settings.colours]
    classes, turns = _parts(images, settings.data, settings.split), settings.turns
    return ImageTasks(images, classes, settings.ways, settings.shots, queries, turns, mean, sd, seed=settings.seed)


def _parts(images: Images, name: str, split: str | Split) -> dict[str, list[int]]:
    """Classes of each part; where a set was built as a part of the whole, those that are there."""
    origin = about(name)
    try:
        return classes_of(images, split, origin.get("missing", "error"))
    except InputError as problem:
        if (own := origin.get("split")) in (None, split):
            raise
        raise InputError(f"{problem}: it was built with --split {own}, which experiments take too") from problem


def in_colour(name: str, size: int, colours: Colours, channels: int = 3, **how: Any) -> ImageTasks:
    """A set's tasks by the split that it was built with; grey is shown in each channel.

    Raises:
        InputError: its images have another size.
    """
    images = found(name)
    if images.shape[1:] != (size, size):
        raise InputError(
            f"the images of {name} are {images.shape[1]} × {images.shape[2]} and the experiment's {size} × {size}; "
            f"build the set anew with --size {size}"
        )
    mean, sd = COLOURS[colours]
    return ImageTasks(images, _parts(images, name, split_for(name)), channels=channels, mean=mean, sd=sd, **how)


def tasks_of(settings: FewShot, queries: int) -> Source:
    """The same, opened with the first task: a trained prior can be used without the images."""
    return Deferred(lambda: opened(settings, queries))


def net_of(settings: FewShot, more: int = 0) -> nn.Module:
    """The network for the set's images, with so many channels more."""
    at_least_one(ways=settings.ways, filters=settings.filters, channels=settings.channels, size=settings.size)
    shape, generator = (settings.channels + more, settings.size, settings.size), generator_of(settings.seed, "weights")
    common: dict[str, Any] = {"norm": settings.norm, "eps": settings.eps, "generator": generator}
    if settings.net == "no-conv":
        return mlp_classifier(shape, settings.ways, **common)
    if settings.net == "resnet12":
        widths = [settings.filters * 2**k for k in range(4)]
        return ResNet12(shape, settings.ways, widths, released=True, generator=generator)
    common |= {"slope": settings.slope, "bias": settings.bias}
    if settings.net == "strided":
        return convnet(shape, settings.ways, settings.filters, strided=True, mean=True, head="normal", **common)
    return convnet(shape, settings.ways, settings.filters, **common)


def loss_of(settings: FewShot, net: nn.Module) -> Loss:
    """The loss of adaptation and of the query alike."""
    return cross_entropy(net) if settings.reduction == "mean" else cross_entropy_per_shot(net, settings.shots)


def trial(settings: FewShot, build: Callable[..., Learner], net: nn.Module) -> Trial:
    """A trial of a method, ``(net, loss, steps, rate) → learner``."""
    loss = loss_of(settings, net)

    def scored(prior: Params, rate: float) -> Learner:
        return replace(build(net, loss, settings.steps, rate), prior=prior).taking(max(settings.test_steps, 1))

    return on_tasks(settings, build(net, loss, settings.steps, settings.rate), scored)


def on_tasks(settings: FewShot, learner: Learner, scored: Callable[[Params, float], Learner]) -> Trial:
    """A trial of a learner, trained and scored on the set's tasks."""
    return Trial(
        learner=learner,
        tasks=tasks_of(settings, settings.queries),
        cases={f"{settings.ways}-way {settings.shots}-shot": tasks_of(replace(settings, seed=0), settings.test_queries)},
        scored=scored,
        rates=(settings.rate,),
    )


def few_shot(settings: FewShot, method: Callable[..., Learner] = maml, moves: Patterns = MOVES) -> Trial:
    """A gradient-based method; normalisation is learned, and does not move in the inner loop."""
    return trial(settings, partial(method, only=moves), net_of(settings))


def with_context(settings: FewShot) -> Trial:
    """Only a context vector adapts, which is one more channel of every image."""
    return trial(settings, context_vector, WithContext(net_of(settings, more=1), (1, settings.size, settings.size)))


def plus_plus(settings: FewShot) -> Trial:
    """MAML++ with all its parts, as its phases of training have it."""
    net, iterations = net_of(settings), max(settings.iterations, 1)
    phases = maml_plus_plus_phases(net, loss_of(settings, net), settings.steps, settings.rate, iterations)
    return replace(trial(settings, maml_plus_plus, net), phases=phases, schedule=cosine(iterations, 1e-5))


def by_reptile(settings: FewShot) -> Trial:
    """MAML's adaptation of all parameters, trained by Reptile, by 5 steps or more: of one step it is training on all tasks at once."""
    net = net_of(settings)
    trainer = reptile(net, loss_of(settings, net), max(settings.steps, 5), settings.rate)
    return replace(trial(settings, maml, net), phases={0: trainer})


def metric_method(settings: FewShot, method: Callable[..., Learner]) -> Trial:
    """A method that compares embeddings, those that the network's head would see."""
    learner = method(without_head(net_of(settings)), settings.ways)
    return on_tasks(settings, learner, lambda prior, rate: replace(learner, prior=prior))


def classifier_of_all(settings: FewShot, method: Literal["fine-tuned", "nearest neighbour"]) -> Trial:
    """A classifier of all training classes at once, whose features or start are used for a task's own classes."""
    split = split_of(settings.split)
    if split.groups:
        raise InputError(f"the split {settings.split} names groups, not the classes that a classifier of all must know; choose another")
    net = net_of(replace(settings, ways=len(split.train)))
    body = without_head(net)

    def scored(prior: Params, rate: float) -> Learner:
        if method == "nearest neighbour":
            own = {name: p for name, p in prior.items() if name in named("net", body)}
            return replace(nearest_neighbour(body, settings.ways, "cosine"), prior=own)
        fresh = with_new_head(net, prior, settings.ways)
        return maml(fresh, cross_entropy(fresh), max(settings.test_steps, 1), rate)

    batches = Deferred(lambda: ImageBatches(opened(settings, settings.queries), size=64))
    rates = RATES if method == "fine-tuned" else (0.0,)
    return replace(on_tasks(settings, pretrained(net, cross_entropy(net)), scored), tasks=batches, rates=rates)


def cells(
    name: str,
    title: str,
    settings: FewShot,
    claims: dict[tuple[int, int], tuple[float, float]],
    cost: Mapping[int, str],
    build: Callable[[Any], Trial] = few_shot,
    **about: Any,
) -> Iterator[Experiment]:
    """An experiment for each (ways, shots) that the paper prints (accuracy, ± of it, 0 where it prints none) for; ``cost`` is by shots."""
    for (ways, shots), (value, margin) in claims.items():
        base, at, variant = name.partition("@")
        own = replace(settings, ways=ways, shots=shots)
        if settings.queries == 1:  # as many as there are shots, in Omniglot's training and in all tests
            own = replace(own, queries=shots)
        case = f"{ways}-way {shots}-shot"
        yield Experiment(
            name=f"{base}-{ways}w{shots}s{at}{variant}",
            title=f"{title}, {case}",
            settings=own if own.test_queries > 1 else replace(own, test_queries=shots),
            build=build,
            claims={case: {settings.test_steps: value}} if value else {},
            margins={case: {settings.test_steps: margin}} if margin else {},
            metric=ACCURACY,
            cost=cost[shots],
            needs=() if settings.data == "glyphs" else (settings.data,),
            **about,
        )
