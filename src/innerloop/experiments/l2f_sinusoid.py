"""Baik et al. 2020, §4.2 and App. C: few-shot regression of sine waves that differ in frequency too, by L2F and others."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from math import pi
from typing import Any

from innerloop.experiments.experiment import Experiment, Trial
from innerloop.experiments.maml_sinusoid import Sinusoid, net_of
from innerloop.learner import Learner
from innerloop.losses import mse
from innerloop.methods import l2f, maml, maml_plus_plus, maml_plus_plus_phases, mumomaml
from innerloop.models import Recurrent, with_film
from innerloop.outer import cosine
from innerloop.params import Params
from innerloop.tasks import Sinusoids
from innerloop.tasks.source import generator_of

RANGES: dict[str, dict[str, Any]] = {
    "same": {"frequency": (0.8, 1.2)},
    "apart": {
        "amplitude": (0.1, 3.0),
        "frequency": (0.8, 1.0),
        "phase": (0.0, pi / 2),
        "test_amplitude": (3.0, 5.0),
        "test_frequency": (1.0, 1.2),
        "test_phase": (pi / 2, pi),
    },
}
"""Amplitude, frequency and phase: those of training also in test, or others there."""


@dataclass(frozen=True)
class Waves(Sinusoid):
    """Options of the sine waves of L2F's paper; scored with as many points as in training."""

    iterations: int = 50_000
    meta_batch: int = 4
    test_steps: int = 5
    test_tasks: int = 10_000
    shots: int = 5
    ranges: str = "same"
    """of the waves: same in training and test, or apart"""
    layers: int = 2
    """layers of weights in L2F's gate"""
    keep_graph: bool = False
    """whether L2F differentiates through what its gate is told"""


def _tasks(settings: Waves, shots: int, queries: int, seed: int = 0) -> Sinusoids:
    return Sinusoids(shots, queries, sign="plus", seed=seed, **RANGES[settings.ranges])


def trial(settings: Waves, build: Callable[[int], Learner]) -> Trial:
    """A trial of a method, ``steps → learner``."""

    def scored(prior: Params, rate: float) -> Learner:
        return replace(build(settings.steps), prior=prior).taking(max(settings.test_steps, 1))

    shown = {f"{settings.shots} points": _tasks(settings, settings.shots, settings.test_queries)}
    return Trial(
        learner=build(settings.steps),
        tasks=_tasks(settings, settings.shots, settings.queries, settings.seed),
        cases={f"{settings.shots}-shot": _tasks(settings, settings.shots, settings.test_queries)},
        scored=scored,
        rates=(settings.rate,),
        pictured=shown,
    )


def by_maml(settings: Waves) -> Trial:
    """The baseline."""
    net = net_of(settings)
    return trial(settings, lambda steps: maml(net, mse(net), steps, settings.rate))


def by_l2f(settings: Waves) -> Trial:
    """MAML that forgets first; its network starts as the baseline's."""
    net = net_of(settings)

    def build(steps: int) -> Learner:
        gate = {"layers": settings.layers, "keep_graph": settings.keep_graph, "generator": generator_of(settings.seed, "gate")}
        return l2f(net, mse(net), steps, settings.rate, **gate)

    return trial(settings, build)


def by_maml_plus_plus(settings: Waves) -> Trial:
    """MAML++ on a network without normalisation: learned rates, a falling outer rate; steps beyond those of training repeat the last."""
    net, iterations = net_of(settings), max(settings.iterations, 1)
    phases = maml_plus_plus_phases(net, mse(net), settings.steps, settings.rate, iterations)
    made = trial(settings, lambda steps: maml_plus_plus(net, mse(net), steps, settings.rate))
    return replace(made, phases=phases, schedule=cosine(iterations, 1e-5))


TABLE_7 = "Baik et al. 2020, arXiv:1906.05859, Tables 7 and K(a)"
FOLLOWS = (
    "paper; where it is silent: 1 inner step and 10 query points in training, Adam at 1e-3, PyTorch's start (as MAML's sine waves), "
    "the gate of the released classification code"
)


def by_mumomaml(settings: Waves) -> Trial:
    """MuMoMAML with its own paper's encoder and FiLM of both hidden layers; its network starts as the baseline's."""
    net = with_film(net_of(settings))

    def build(steps: int) -> Learner:
        encoder = Recurrent(2, hidden=40, generator=generator_of(settings.seed, "encoder"))
        heads = generator_of(settings.seed, "heads")
        return mumomaml(net, mse(net), steps, settings.rate, encoder=encoder, generator=heads)

    return trial(settings, build)


METHODS: dict[str, tuple[str, Callable[[Any], Trial], dict[int, tuple[float, float, float]]]] = {
    "": ("L2F", by_l2f, {5: (1.0537, 0.8426, 0.7096), 10: (0.8069, 0.5317, 0.3696), 20: (0.5475, 0.2805, 0.1629)}),
    "maml": ("MAML", by_maml, {5: (1.2247, 1.0268, 0.8995), 10: (0.9884, 0.6192, 0.4072), 20: (0.6144, 0.3346, 0.1817)}),
    "mumomaml": ("MuMoMAML", by_mumomaml, {5: (1.1010, 0.9291, 0.8615)}),
    "maml++": ("MAML++", by_maml_plus_plus, {5: (1.2028, 0.9268, 0.7547)}),
}
"""Title, build and the paper's MSE after 1, 2 and 5 steps, by shots."""


def _experiments() -> Iterator[Experiment]:
    for variant, (title, build, claims) in METHODS.items():
        for ranges in RANGES:
            for shots in claims if ranges == "same" else (5, 10) if variant in ("", "maml") else ():
                cell = f"l2f/sinusoid-{shots}s" if ranges == "same" else f"l2f/sinusoid-apart-{shots}s"
                printed = claims.get(shots) if ranges == "same" else None
                yield Experiment(
                    name=cell + (f"@{variant}" if variant else ""),
                    title=f"{title}, {shots} points" + ("" if ranges == "same" else ", other waves in test"),
                    source=TABLE_7 if ranges == "same" else "Baik et al. 2020, arXiv:1906.05859, Fig. J",
                    follows=FOLLOWS,
                    claims={f"{shots}-shot": dict(zip((1, 2, 5), printed, strict=True))} if printed else {},
                    settings=Waves(shots=shots, ranges=ranges),
                    build=build,
                    cost="1 min",
                )


EXPERIMENTS = tuple(_experiments())
