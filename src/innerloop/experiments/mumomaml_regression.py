"""Vuorio et al. 2018 (MuMoMAML), §5.1 and App. A.1: few-shot regression of curves of two or three kinds."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from math import pi
from typing import Any, Literal

from torch import nn

from innerloop.experiments.experiment import Experiment, Settings, Trial
from innerloop.learner import Learner
from innerloop.losses import mse
from innerloop.methods import maml, multi_maml, mumomaml
from innerloop.models import Recurrent, Start, WithContext, mlp, with_film
from innerloop.params import Params
from innerloop.tasks import Curves, Lines, Mixture, Parabolas, Sinusoids
from innerloop.tasks.source import generator_of


@dataclass(frozen=True)
class Modes(Settings):
    """Options of the regression of several kinds of curves."""

    iterations: int = 70_000
    meta_batch: int = 50
    modes: Literal[2, 3] = 2
    """2 for sine waves and lines, 3 for parabolas too"""
    shots: int = 5
    """support points"""
    queries: int = 10
    """query points of a training task"""
    waves: Literal["paper", "released"] = "paper"
    """sine waves A sin(ωx + b) with ω in [0.5, 2] and b in [0, 2π], or the released code's A sin(x − φ) with φ in [0, π]"""
    noise: float = 0.3
    """deviation of every y, so that the MSE on noisy targets cannot go below its square"""
    steps: int = 5
    """inner steps in training"""
    rate: float = 0.001
    """inner rate"""
    inner_clip: float = 0.0
    """largest element of an inner gradient; 0 for any"""
    hidden: int = 100
    """units of each of the three hidden layers"""
    start: Start = "torch"
    """how weights of the base network start: PyTorch's way or near 0"""
    constant: int = 0
    """constant inputs that are learned and adapt"""
    modulated: tuple[str, ...] = ()
    """layers that are modulated; all hidden ones where none is named"""
    cell: str = "gru"
    """of the encoder: gru or lstm"""
    encoder_layers: int = 1
    """layers of the encoder"""
    encoder_units: int = 40
    """units of a state of the encoder"""
    head: int = 80
    """units of each head's hidden layer; 0 for a linear head"""
    test_queries: int = 100
    """query points of a task that is scored"""
    test_tasks: int = 4_000


NAMES = ("sine waves", "lines", "parabolas")


WAVES: dict[str, dict[str, Any]] = {"paper": {"frequency": (0.5, 2.0), "phase": (0.0, 2 * pi), "sign": "plus"}, "released": {}}


def sources(settings: Modes, queries: int, seed: int = 0, **how: Any) -> dict[str, Curves]:
    """The kinds of curves, by name."""
    common = {"shots": settings.shots, "queries": queries, "noise": settings.noise, "seed": seed, **how}
    every = (
        Sinusoids(amplitude=(0.1, 5.0), **WAVES[settings.waves], **common),
        Lines(**common),
        Parabolas(**common),
    )
    return dict(zip(NAMES[: settings.modes], every, strict=False))


def trial(settings: Modes, build: Callable[[int], Learner], told: bool = False) -> Trial:
    """A trial of a method, ``steps → learner``: scored on all modes, on all with clean targets, and on each."""

    def scored(prior: Params, rate: float) -> Learner:
        return replace(build(settings.steps), prior=prior).taking(max(settings.test_steps, 1))

    noisy = Mixture(sources(settings, settings.test_queries), told=told)
    clean = Mixture(sources(settings, settings.test_queries, query_noise=0.0), told=told)
    alone = {name: noisy.alone(name) for name in noisy.sources}
    return Trial(
        learner=build(settings.steps),
        tasks=Mixture(sources(settings, settings.queries, settings.seed), told=told),
        cases={
            f"{settings.modes} modes": noisy,
            f"{settings.modes} modes, clean targets": clean,
            **alone,
        },
        scored=scored,
        rates=(settings.rate,),
        pictured=alone,
    )


def _net(settings: Modes, mode: int = 0) -> nn.Module:
    inputs, hidden = 1 + settings.constant, [settings.hidden] * 3
    net = mlp(inputs, *hidden, 1, start=settings.start, generator=generator_of(settings.seed, "net", mode))
    return WithContext(net, settings.constant) if settings.constant else net


def _how(settings: Modes) -> dict[str, Any]:
    return {"rate": settings.rate, "clip": settings.inner_clip or None}


def by_maml(settings: Modes) -> Trial:
    """The baseline, told nothing."""
    net = _net(settings)
    return trial(settings, lambda steps: maml(net, mse(net), steps, **_how(settings)))


def by_multi_maml(settings: Modes) -> Trial:
    """A MAML for each mode, each with a start of its own."""
    nets = [_net(settings, mode) for mode in range(settings.modes)]
    return trial(settings, lambda steps: multi_maml([maml(net, mse(net), steps, **_how(settings)) for net in nets]), told=True)


def by_mumomaml(settings: Modes, operation: Any = "film") -> Trial:
    """MuMoMAML; its network starts as the baseline's."""
    net = with_film(_net(settings), settings.modulated)

    def build(steps: int) -> Learner:
        cell: Any = settings.cell
        start = generator_of(settings.seed, "encoder")
        encoder = Recurrent(2, settings.encoder_units, cell, settings.encoder_layers, generator=start)
        heads = {"operation": operation, "hidden": settings.head or None, "generator": generator_of(settings.seed, "heads")}
        return mumomaml(net, mse(net), steps, encoder=encoder, **heads, **_how(settings))

    return trial(settings, build)


TABLE_1 = "Vuorio et al. 2018, arXiv:1812.07172, Table 1"
FOLLOWS = (
    "paper; where it is silent, released code: 5 inner steps in training at α = 0.001 (0.01 diverges), x in ±5 and noise on the targets of "
    "queries too, FiLM with 1 + γ, a meta-gradient of length 2 at most, elements of MuMoMAML's inner gradients of 10 at most (without "
    "either FiLM diverges); ours: that bound for Multi-MAML too, which diverges without it, heads of 80 hidden units, PyTorch's start of "
    "weights"
)
RELEASE = (
    "released code and commands of the successor, Vuorio et al. 2019: sine waves of one frequency, 5 query points, elements of "
    "MuMoMAML's inner gradients of 10 at most, weights that start at a deviation of 0.01; sigmoid and softmax, options of that code, at "
    "FiLM's settings; ours: one bound of 2 on the length of the whole meta-gradient, where the release has one on the network's and one "
    "on the encoder's, and Multi-MAML one on each prior's"
)
RELEASED = {"start": "released", "waves": "released", "queries": 5}
RELEASED_ENCODER = {"cell": "lstm", "encoder_layers": 2, "head": 0}

METHODS: dict[str, tuple[str, Callable[[Any], Trial], dict[int, tuple[float, float]]]] = {
    "": ("MuMoMAML, FiLM", by_mumomaml, {2: (1.7094, 0.3125), 3: (1.9234, 0.4048)}),
    "sigmoid": ("MuMoMAML, sigmoid", lambda s: by_mumomaml(s, "sigmoid"), {2: (1.4992, 0.3414), 3: (2.4047, 0.4414)}),
    "softmax": ("MuMoMAML, softmax", lambda s: by_mumomaml(s, "softmax"), {2: (3.9140, 0.4795), 3: (0.6889, 0.4884)}),
    "multi-maml": ("Multi-MAML, told the mode", by_multi_maml, {2: (16.2894, 0.4330), 3: (12.3742, 0.7791)}),
    "maml": ("MAML", by_maml, {2: (15.9255, 1.0852), 3: (12.5994, 1.1633)}),
}
"""Title, build and the paper's MSE after modulation and after 5 steps, by modes."""


COSTS: dict[int, tuple[str, str]] = {2: ("45 min", "90 min"), 3: ("75 min", "2 h")}
"""Of MAML and of the others, by modes."""


def _settings(variant: str, modes: Literal[2, 3], released: bool) -> Modes:
    uncut = {"maml", "multi-maml"} if released else {"maml"}
    own = Modes(modes=modes, meta_batch=25 * modes, longest=2.0, inner_clip=0.0 if variant in uncut else 10.0)
    if not released:
        return own
    if "maml" in variant:
        return replace(own, constant=20, **RELEASED)
    return replace(own, modulated=("0",) if modes == 2 else (), **RELEASED, **RELEASED_ENCODER)


def _experiments() -> Iterator[Experiment]:
    counts: tuple[Literal[2, 3], ...] = (2, 3)
    for modes in counts:
        for released in (False, True):
            for variant, (title, build, claims) in METHODS.items():
                at = "-".join(filter(None, ("release" * released, variant)))
                yield Experiment(
                    name=f"mumomaml/regression-{modes}modes" + (f"@{at}" if at else ""),
                    title=title + ", as released" * released,
                    source=TABLE_1,
                    follows=RELEASE if released else FOLLOWS,
                    claims={f"{modes} modes": dict(zip((0, 5), claims[modes], strict=True))},
                    settings=_settings(variant, modes, released),
                    build=build,
                    cost=COSTS[modes][variant != "maml"],
                )


EXPERIMENTS = tuple(_experiments())
