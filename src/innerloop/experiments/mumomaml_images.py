"""Vuorio et al. 2018 (MuMoMAML), §5.2: few-shot classification of Omniglot; and of several sets of images as modes of one."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal

from innerloop.errors import InputError
from innerloop.experiments.experiment import ACCURACY, Experiment, Trial
from innerloop.experiments.few_shot import MOVES, FewShot, cells, few_shot, in_colour, loss_of, net_of, trial
from innerloop.experiments.maml_images import FIVE_WAYS, TWENTY_WAYS
from innerloop.learner import Learner
from innerloop.methods import maml, multi_maml, mumomaml
from innerloop.models import OfImages, with_film
from innerloop.params import Params
from innerloop.tasks import Deferred, Mixture
from innerloop.tasks.source import generator_of


@dataclass(frozen=True)
class Modulated(FewShot):
    """Options of classification by MuMoMAML."""

    embedding: int = 128
    """numbers that the encoder tells of a task"""
    labels: bool = True
    """whether the encoder is told labels beside images"""
    head: int = 80
    """units of each head's hidden layer; 0 for a linear head"""
    sets: tuple[str, ...] = ()
    """sets of images that are modes of one distribution of tasks, each by the split that it was built with"""


def by_mumomaml(settings: Modulated, trial_of: Callable[..., Trial] = trial) -> Trial:
    """MuMoMAML: what modulates is the scale and shift of each normalisation, or of FiLM behind it; they do not move in the inner loop."""
    shape = (settings.channels, settings.size, settings.size)
    start = generator_of(settings.seed, "encoder")
    encoder = OfImages(shape, settings.embedding, settings.ways if settings.labels else None, generator=start)

    def method(*given: Any) -> Learner:
        heads = {"hidden": settings.head or None, "generator": generator_of(settings.seed, "heads")}
        return mumomaml(*given, encoder=encoder, **heads)

    net = net_of(settings)
    return trial_of(settings, method, net if settings.norm == "transductive" else with_film(net))


def mixed(settings: Modulated, queries: int, told: bool = False) -> Mixture:
    """Tasks of all sets in turn."""
    how = {name: getattr(settings, name) for name in ("size", "channels", "colours", "ways", "shots", "turns", "seed")}
    return Mixture({name: in_colour(name, queries=queries, **how) for name in settings.sets}, told=told)


def of_sets(settings: Modulated, build: Callable[..., Learner], told: bool = False) -> Trial:
    """A trial of a method, ``(steps, rate) → learner``, scored on all sets together and on each."""

    def scored(prior: Params, rate: float) -> Learner:
        return replace(build(settings.steps, rate), prior=prior).taking(max(settings.test_steps, 1))

    if (settings.data, settings.split) != (SETS.data, SETS.split):
        raise InputError("each of several sets has the split that it was built with; name them with sets, and leave data and split out")
    asked = lambda: mixed(replace(settings, seed=0), settings.test_queries, told)  # noqa: E731
    case = f"{settings.ways}-way {settings.shots}-shot"
    return Trial(
        learner=build(settings.steps, settings.rate),
        tasks=Deferred(lambda: mixed(settings, settings.queries, told)),  # opened with the first task
        cases={case: Deferred(asked)} | {name: Deferred(lambda name=name: asked().alone(name)) for name in settings.sets},
        scored=scored,
        rates=(settings.rate,),
    )


def on_sets(settings: Modulated, method: Literal["maml", "multi-maml", "mumomaml"]) -> Trial:
    """One of the three on several sets."""
    if method == "mumomaml":
        return by_mumomaml(settings, lambda own, build, net: of_sets(own, partial(build, net, loss_of(own, net))))
    modes = range(len(settings.sets) if method == "multi-maml" else 1)
    nets = [net_of(replace(settings, seed=settings.seed + 1_000 * mode)) for mode in modes]

    def build(steps: int, rate: float) -> Learner:
        learners = [maml(net, loss_of(settings, net), steps, rate, only=MOVES) for net in nets]
        return multi_maml(learners) if method == "multi-maml" else learners[0]

    return of_sets(settings, build, told=method == "multi-maml")


TABLE_2 = "Vuorio et al. 2018, arXiv:1812.07172, Table 2"
FOLLOWS = (
    "paper: MAML's network, split and, as it prints none, all of MAML's settings; where it is silent: the encoder's convolutions, the "
    "mean over images, and modulation behind each normalisation of the successor's released code, the encoder told labels too"
)
SETS = Modulated(
    sets=("omniglot", "mini-imagenet-28"),
    data="of sets",
    split="of each set",
    colours="imagenet",
    channels=3,
    turns="none",
    queries=15,
    test_queries=15,
    meta_batch=4,
    steps=5,
    rate=0.05,
    test_steps=5,
    net="pooled",
    filters=32,
    norm="transductive",
    reduction="mean",
)
PRINTED = {
    "": {(5, 1): 99.7, (5, 5): 99.9, (20, 1): 97.2, (20, 5): 99.4},
    "@maml": {(5, 1): 98.7, (5, 5): 99.9, (20, 1): 95.8, (20, 5): 98.9},
}
TITLES: dict[str, tuple[str, Callable[[Any], Trial]]] = {"": ("MuMoMAML", by_mumomaml), "@maml": ("MAML", few_shot)}
METHODS: dict[str, tuple[str, Any]] = {
    "": ("MuMoMAML", "mumomaml"),
    "@multi-maml": ("Multi-MAML, told the set", "multi-maml"),
    "@maml": ("MAML", "maml"),
}


def _omniglot() -> Iterator[Experiment]:
    for base in (FIVE_WAYS, TWENTY_WAYS):
        for variant, (title, build) in TITLES.items():
            settings = replace(Modulated(**vars(base)), norm="shift" if variant else "transductive")
            claims = {cell: (value, 0.0) for cell, value in PRINTED[variant].items() if cell[0] == base.ways}
            cost = {1: "30 h", 5: "5 days"} if base.ways == 20 else {1: "4 h", 5: "16 h"}
            yield from cells(f"mumomaml/omniglot{variant}", title, settings, claims, cost, build, source=TABLE_2, follows=FOLLOWS)


def _sets() -> Iterator[Experiment]:
    for variant, (title, method) in METHODS.items():
        yield Experiment(
            name=f"mumomaml/images-5w1s{variant}",
            title=f"{title}, characters and photographs, 5-way 1-shot",
            source="no paper: sets at hand, after Vuorio et al. 2019, arXiv:1910.13616",
            follows="neither: MAML's network for mini-ImageNet; 5 steps at α = 0.05 on the mean loss, the successor's released code",
            claims={},
            settings=SETS,
            build=partial(on_sets, method=method),
            metric=ACCURACY,
            cost="5 h",
            needs=SETS.sets,
        )


EXPERIMENTS = (*_omniglot(), *_sets())
