"""Baik et al. 2020, Tables 1 and 2: LEO on fixed embeddings of mini-ImageNet and tieredImageNet, and LEO with L2F."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Self

from innerloop.errors import InputError
from innerloop.experiments.experiment import ACCURACY, Experiment, Settings, Trial
from innerloop.learner import Learner
from innerloop.methods import Penalties, leo
from innerloop.params import Params
from innerloop.tasks import Deferred, VectorTasks, read_vectors
from innerloop.tasks.source import generator_of


@dataclass(frozen=True)
class Embedded(Settings):
    """Options of LEO; these are the released code's."""

    iterations: int = 100_000
    meta_batch: int = 12
    outer_rate: float = 2.739071e-4
    clip: float = 0.1
    longest: float = 0.1
    test_steps: int = 10
    test_tasks: int = 10_000
    embeddings: tuple[str, ...] = ()
    """files of embeddings: LEO's train_, val_ and test_embeddings.pkl, or one .npz with x, y and split"""
    features: int = 640
    """of an embedding"""
    ways: int = 5
    """classes of a task"""
    shots: int = 1
    """support embeddings of each class"""
    queries: int = 15
    """query embeddings of each class in training"""
    test_queries: int = 595
    """query embeddings of each class of a task that is scored"""
    codes: int = 64
    """dimensions of a code"""
    steps: int = 5
    """on codes"""
    fine: int = 5
    """on the classifier's weights"""
    rate: float = 1.0
    """where the rates of codes begin"""
    fine_rate: float = 0.001
    """where the rates of weights begin"""
    kl: float = Penalties.kl
    """weight of the codes' divergence"""
    encoder: float = Penalties.encoder
    """weight of the distance that codes move"""
    decay: float = Penalties.weights
    """weight of half the squared weights"""
    orthogonality: float = Penalties.orthogonality
    """weight of the decoder's correlations"""
    dropout: float = Penalties.dropout
    """part of the features that is left out in training"""

    def quick(self) -> Self:
        return replace(super().quick(), test_queries=min(self.test_queries, 15))


def by_leo(settings: Embedded, attenuated: bool = False) -> Trial:
    """LEO: trained on samples and with penalties, scored without."""

    def build(penalties: Penalties | None) -> Learner:
        return leo(
            settings.features,
            settings.ways,
            settings.codes,
            settings.steps,
            settings.fine,
            settings.rate,
            settings.fine_rate,
            penalties,
            attenuated,
            generator_of(settings.seed, "weights"),
        )

    def tasks(queries: int, seed: int = 0) -> Deferred:
        return Deferred(lambda: opened(settings, queries, seed))

    def scored(prior: Params, rate: float) -> Learner:
        return replace(build(None), prior=prior).taking(settings.test_steps)

    weights = Penalties(settings.kl, settings.encoder, settings.decay, settings.orthogonality, settings.dropout)
    case = f"{settings.ways}-way {settings.shots}-shot"
    scores = {case: tasks(settings.test_queries)}
    return Trial(build(None), tasks(settings.queries, settings.seed), scores, scored, (settings.rate,), phases={0: build(weights)})


def opened(settings: Embedded, queries: int, seed: int) -> VectorTasks:
    """The files' tasks."""
    if not settings.embeddings:
        raise InputError(
            "there are no embeddings; give --embeddings train_embeddings.pkl val_embeddings.pkl test_embeddings.pkl of "
            "github.com/deepmind/leo, or one .npz with x [n, features], y and split"
        )
    x, y, classes = read_vectors(settings.embeddings)
    if x.shape[1] != settings.features:
        raise InputError(f"the embeddings have {x.shape[1]} features, not {settings.features}; say --features {x.shape[1]}")
    return VectorTasks(x, y, classes, settings.ways, settings.shots, queries, seed)


TUNED = {
    ("mini-imagenet", 1): Embedded(),
    ("mini-imagenet", 5): Embedded(
        outer_rate=4.102361e-4, decay=8.540338e-9, orthogonality=1.523998e-3, dropout=0.300299, kl=0.466387, encoder=2.661608e-7, shots=5
    ),
    ("tiered-imagenet", 1): Embedded(
        outer_rate=8.659053e-4, decay=4.148858e-10, orthogonality=5.451078e-3, dropout=0.475126, kl=2.034189e-3, encoder=8.302962e-5
    ),
    ("tiered-imagenet", 5): Embedded(
        outer_rate=6.110314e-4, decay=1.690399e-10, orthogonality=2.481216e-2, dropout=0.415158, kl=1.622811, encoder=2.672450e-5, shots=5
    ),
}
"""What LEO's authors found for each, by set and shots."""

CLAIMS = {
    ("mini-imagenet", 1): ((61.5, 0.17), (62.12, 0.13)),
    ("mini-imagenet", 5): ((77.12, 0.07), (78.13, 0.15)),
    ("tiered-imagenet", 1): ((67.02, 0.11), (68.0, 0.11)),
    ("tiered-imagenet", 5): ((82.29, 0.16), (83.02, 0.08)),
}
"""Accuracy and ± of LEO as L2F's paper reproduced it, and of LEO with L2F."""


def _experiments() -> Iterator[Experiment]:
    for (name, shots), settings in TUNED.items():
        case, at = f"5-way {shots}-shot", settings.test_steps
        for (value, margin), variant, title in zip(CLAIMS[name, shots], ("@leo", ""), ("LEO", "LEO with L2F"), strict=True):
            yield Experiment(
                name=f"l2f/leo-{name}-5w{shots}s{variant}",
                title=f"{title}, {case}, {name}",
                source="Baik et al. 2020, arXiv:1906.05859, Table " + ("1" if name == "mini-imagenet" else "2"),
                settings=settings,
                build=by_leo if variant else _with_l2f,
                claims={case: {at: value}},
                margins={case: {at: margin}},
                follows="released code of LEO and its tuned settings, but for choosing the best checkpoint on validation tasks",
                metric=ACCURACY,
                cost="2 h",
                needs=("LEO's embeddings",),
            )


def _with_l2f(settings: Embedded) -> Trial:
    return by_leo(settings, attenuated=True)


EXPERIMENTS = tuple(_experiments())
