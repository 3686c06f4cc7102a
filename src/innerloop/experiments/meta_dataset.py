"""Baik et al. 2020, Table J: MAML and L2F on Meta-Dataset, ten sets with ways and shots that vary."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Self

from innerloop.errors import InputError
from innerloop.experiments.experiment import Experiment, Metric, Settings, Trial
from innerloop.experiments.few_shot import Colours, in_colour
from innerloop.learner import Learner
from innerloop.losses import accuracy, cross_entropy_of_ways, of_ways
from innerloop.methods import l2f, maml
from innerloop.models import convnet
from innerloop.tasks import Deferred, ImageTasks, VariedTasks
from innerloop.tasks.source import generator_of

SETS = {
    "ilsvrc": ("ILSVRC", (19.35, 0.84), (25.93, 1.1)),
    "omniglot": ("Omniglot", (66.14, 1.47), (72.26, 1.63)),
    "aircraft": ("Aircraft", (40.2, 1.05), (53.31, 1.48)),
    "birds": ("Birds", (40.61, 1.79), (42.62, 1.3)),
    "textures": ("Textures", (38.94, 1.69), (49.57, 1.03)),
    "quick-draw": ("Quick Draw", (42.46, 1.54), (50.28, 1.67)),
    "fungi": ("Fungi", (13.8, 1.19), (20.2, 1.08)),
    "flowers": ("VGG Flower", (61.07, 1.5), (64.23, 1.31)),
    "traffic-signs": ("Traffic signs", (23.38, 1.12), (31.71, 1.45)),
    "coco": ("MSCOCO", (13.29, 1.11), (19.75, 0.93)),
}
"""Title, and the accuracy of MAML and of L2F with the ± that the paper prints, by the name that the set is built under."""

ONLY_TESTED = ("traffic-signs", "coco")
ACCURACY_OF_WAYS = Metric("accuracy, %", lambda prediction, y: 100 * accuracy(of_ways(prediction, y), y), higher=True)


@dataclass(frozen=True)
class MetaDataset(Settings):
    """Options of tasks that differ in set, ways and shots; the paper gives none, so tasks are Meta-Dataset's and the rest L2F's."""

    iterations: int = 75_000
    meta_batch: int = 1
    validation_tasks: int = 60
    test_steps: int = 5
    prefix: str = "meta-"
    """of the sets' names: meta-ilsvrc, meta-omniglot, …"""
    trained_on: tuple[str, ...] = tuple(name for name in SETS if name not in ONLY_TESTED)
    """sets of training and validation"""
    scored_on: tuple[str, ...] = tuple(SETS)
    """sets whose test classes are scored"""
    size: int = 84
    """height and width of an image"""
    fewest: int = 5
    """ways of a task"""
    most: int = 50
    """ways of a task, and outputs of the network"""
    queries: int = 10
    """most query images of each class"""
    support: int = 500
    """most support images of a task"""
    steps: int = 5
    """inner steps in training"""
    rate: float = 0.01
    """inner rate"""
    filters: int = 48
    """of each convolution"""
    colours: Colours = "imagenet"
    """whose mean and deviation of each channel are taken off and divided by"""

    def quick(self) -> Self:
        return replace(super().quick(), iterations=min(self.iterations, 3), test_tasks=min(self.test_tasks, 5), validation_tasks=2)


def opened(settings: MetaDataset, name: str) -> ImageTasks:
    """One set, by the split that it was built with."""
    return in_colour(settings.prefix + name, settings.size, settings.colours, ways=1, queries=1, seed=settings.seed)


def mixed(settings: MetaDataset, names: Sequence[str]) -> Deferred:
    """Tasks of these sets, opened with the first task."""
    if strange := [name for name in names if name not in SETS]:
        raise InputError(f"there is no set {strange[0]!r} in Meta-Dataset; it has {', '.join(SETS)}")
    how = {"fewest": settings.fewest, "most": settings.most, "queries": settings.queries, "support": settings.support}
    return Deferred(lambda: VariedTasks({name: opened(settings, name) for name in names}, **how, seed=settings.seed))


def meta_dataset(settings: MetaDataset, method: Callable[..., Learner] = maml) -> Trial:
    """L2F's network with an output for each of the most ways there can be."""
    shape, generator = (3, settings.size, settings.size), generator_of(settings.seed, "weights")
    net = convnet(shape, settings.most, settings.filters, norm="transductive", eps=1e-5, slope=0.01, bias=False, generator=generator)
    learner = method(net, cross_entropy_of_ways(net), settings.steps, settings.rate, only=("net", "-*.norm"))
    return Trial(
        learner=learner,
        tasks=mixed(settings, settings.trained_on),
        cases={SETS[name][0]: mixed(replace(settings, seed=0), [name]) for name in settings.scored_on if name in SETS},
        scored=lambda prior, rate: replace(learner, prior=prior).taking(max(settings.test_steps, 1)),
        rates=(settings.rate,),
    )


def _of_table(method: int, part: int) -> dict[str, Any]:
    return {row[0]: {MetaDataset.test_steps: row[1 + method][part]} for row in SETS.values()}


EXPERIMENTS = tuple(
    Experiment(
        name=f"l2f/meta-dataset{variant}",
        title=f"{title}, ten sets of images, varied ways and shots",
        source="Baik et al. 2020, arXiv:1906.05859, Table J",
        settings=MetaDataset(),
        build=partial(meta_dataset, method=method),
        claims=_of_table(row, 0),
        margins=_of_table(row, 1),
        follows="neither says how: tasks as Meta-Dataset draws them (without class hierarchies), network and steps of L2F on mini-ImageNet",
        metric=ACCURACY_OF_WAYS,
        cost="7 days",
        needs=tuple(f"meta-{name}" for name in SETS),
    )
    for row, (variant, title, method) in enumerate((("@maml", "MAML", maml), ("", "L2F", l2f)))
)
