"""Finn et al. 2017, §5.1, App. B and C: few-shot regression of sine waves, and every baseline of it."""

from dataclasses import dataclass, replace
from functools import partial
from typing import Literal, Self

import torch

from innerloop.errors import InputError
from innerloop.experiments.experiment import Experiment, Settings, Trial
from innerloop.learner import Learner
from innerloop.losses import mse
from innerloop.methods import averaged, context_vector, independent, maml, pretrained
from innerloop.models import Start, WithContext, mlp
from innerloop.params import Params
from innerloop.tasks import FreshPoints, Sinusoids
from innerloop.tasks.source import generator_of

RATES = tuple(round(10 ** (k / 4), 6) for k in range(-16, 1))
"""Inner rates from 1e-4 to 1, four to a decade, that a baseline's is chosen from."""


@dataclass(frozen=True)
class Sinusoid(Settings):
    """Options of the sinusoid experiments; these are MAML's."""

    shots: int = 10
    """support points of a training task"""
    queries: int = 10
    """query points of a training task"""
    steps: int = 1
    """inner steps in training"""
    rate: float = 0.01
    """inner rate, where it is not chosen on validation tasks"""
    hidden: int = 40
    """units of each of the two hidden layers"""
    start: Start = "torch"
    """how weights start: PyTorch's way or the released code's"""
    test_shots: tuple[int, ...] = (5, 10, 20)
    """support points of the tasks that are scored, one case each"""
    test_queries: int = 100
    """query points of a task that is scored"""


@dataclass(frozen=True)
class Averaging(Sinusoid):
    """Options of multi-task parameter averaging."""

    iterations: int = 10_000
    meta_batch: int = 1
    validation_tasks: int = 1
    regressors: int = 500
    """networks, each trained on a task of its own"""
    points: int = 50
    """fresh points of each task in an iteration"""
    strength: float = 0.0
    """weight of the squared distance that is added to the loss"""

    def quick(self) -> Self:
        return replace(super().quick(), regressors=min(self.regressors, 10))


def net_of(settings: Sinusoid, inputs: int = 1, part: int = 0) -> torch.nn.Sequential:
    """The papers' network, started from the seed; ``part`` tells the networks of one run apart."""
    return mlp(inputs, settings.hidden, settings.hidden, 1, start=settings.start, generator=generator_of(settings.seed, "net", part))


def cases(settings: Sinusoid, identity: bool = False) -> dict[str, Sinusoids]:
    """The tasks that are scored. More query points than the release's K: the same mean, a smaller interval."""
    return {f"{k}-shot": Sinusoids(shots=k, queries=settings.test_queries, identity=identity) for k in settings.test_shots}


def pictured(settings: Sinusoid) -> dict[str, Sinusoids]:
    """The points that Fig. 2 and 7 fit to."""
    return {
        "5 points": Sinusoids(shots=5, queries=settings.test_queries),
        "10 points": Sinusoids(shots=10, queries=settings.test_queries),
        "5 points in one half": Sinusoids(shots=5, queries=settings.test_queries, support_x=(-5.0, 0.0)),
    }


def fine_tuned(settings: Sinusoid) -> Trial:
    """A network that gradient descent fine-tunes at test: what every trial here is a variation of."""
    net = net_of(settings)
    loss = mse(net)

    def scored(prior: Params, rate: float) -> Learner:
        return replace(maml(net, loss, max(settings.test_steps, 1), rate), prior=prior)

    tasks = Sinusoids(settings.shots, settings.queries, seed=settings.seed)
    return Trial(pretrained(net, loss), tasks, cases(settings), scored, RATES, pictured=pictured(settings))


def meta_learned(settings: Sinusoid) -> Trial:
    """MAML, with the inner rate of the settings in training and test."""
    net = net_of(settings)
    trial = fine_tuned(settings)
    return replace(trial, learner=maml(net, mse(net), settings.steps, settings.rate), rates=(settings.rate,))


def oracle(settings: Sinusoid) -> Trial:
    """Told amplitude and phase, it has nothing to adapt to."""
    net = net_of(settings, inputs=3)
    learner = pretrained(net, mse(net))
    tasks = Sinusoids(settings.shots, settings.queries, identity=True, seed=settings.seed)
    return Trial(learner, tasks, cases(settings, identity=True), lambda prior, rate: replace(learner, prior=prior), (0.0,))


def with_context(settings: Sinusoid, size: int = 5) -> Trial:
    """Only a context vector adapts."""
    net = WithContext(net_of(settings, inputs=1 + size), size)
    build = partial(context_vector, net, mse(net))

    def scored(prior: Params, rate: float) -> Learner:
        return replace(build(max(settings.test_steps, 1), rate), prior=prior)

    return replace(fine_tuned(settings), learner=build(settings.steps, settings.rate), scored=scored, rates=(settings.rate,))


def averaging(settings: Averaging, pull: Literal["none", "zero", "mean"] = "none") -> Trial:
    """The mean of networks trained on one task each, fine-tuned."""
    if settings.regressors < 1 or settings.points < 1:
        raise InputError(f"there are {settings.regressors} regressors and {settings.points} points; give at least one of each")
    nets = [net_of(settings, part=k) for k in range(settings.regressors)]
    learner = independent(nets, mse, settings.strength, pull)
    waves = FreshPoints(Sinusoids(seed=settings.seed), settings.regressors, settings.points)
    return replace(fine_tuned(settings), learner=learner, tasks=waves, finish=averaged)


TABLE_2 = "Finn et al. 2017, arXiv:1703.03400, Table 2"
SILENT = "paper; where it is silent: the mean for a loss (its code), PyTorch's start for weights"
MAML = {"5-shot": {1: 0.67, 5: 0.38, 10: 0.35}}

EXPERIMENTS = (
    Experiment(
        name="maml/sinusoid",
        title="MAML, α = 0.01",
        source=TABLE_2,
        follows=SILENT,
        claims=MAML,
        settings=Sinusoid(),
        build=meta_learned,
    ),
    Experiment(
        name="maml/sinusoid@release",
        title="MAML, α = 0.001, started near 0",
        source=TABLE_2,
        follows="released code and command, which leave α at 0.001 and start weights at a deviation of 0.01",
        claims=MAML,
        settings=Sinusoid(rate=0.001, start="released"),
        build=meta_learned,
    ),
    Experiment(
        name="maml/sinusoid@release-rate",
        title="MAML, α = 0.001",
        source=TABLE_2,
        follows="released command for α, PyTorch's start for weights",
        claims=MAML,
        settings=Sinusoid(rate=0.001),
        build=meta_learned,
    ),
    Experiment(
        name="maml/sinusoid-pretrained",
        title="pretraining on all tasks",
        source=TABLE_2,
        follows=SILENT,
        claims={"5-shot": {1: 2.41, 5: 2.23, 10: 2.19}},
        settings=Sinusoid(),
        build=fine_tuned,
        cost="1 min",
    ),
    Experiment(
        name="maml/sinusoid-multitask",
        title="mean of 500 regressors",
        source=TABLE_2,
        follows="paper; there is no code",
        claims={"5-shot": {1: 4.19, 5: 3.85, 10: 3.69}},
        settings=Averaging(),
        build=averaging,
    ),
    Experiment(
        name="maml/sinusoid-multitask-l2",
        title="mean of 500 regressors, weight decay",
        source=TABLE_2,
        follows="paper; there is no code",
        claims={"5-shot": {1: 7.18, 5: 5.69, 10: 5.60}},
        settings=Averaging(strength=0.01),
        build=partial(averaging, pull="zero"),
    ),
    Experiment(
        name="maml/sinusoid-multitask-mean",
        title="mean of 500 regressors, pulled to their mean",
        source=TABLE_2,
        follows="paper; there is no code",
        claims={"5-shot": {1: 2.91, 5: 2.72, 10: 2.71}},
        settings=Averaging(strength=0.3),
        build=partial(averaging, pull="mean"),
    ),
    Experiment(
        name="maml/sinusoid-context",
        title="context vector of 5",
        source="Finn et al. 2017, arXiv:1703.03400, App. C.2",
        follows="paper's protocol for MAML; it prints no number for regression",
        claims={},
        settings=Sinusoid(),
        build=with_context,
    ),
    Experiment(
        name="maml/sinusoid-random",
        title="random initialisation",
        source="Finn et al. 2017, arXiv:1703.03400, §5.1",
        follows=SILENT,
        claims={},
        settings=Sinusoid(iterations=0),
        build=fine_tuned,
        cost="10 s",
    ),
    Experiment(
        name="maml/sinusoid-oracle",
        title="oracle, told amplitude and phase",
        source="Finn et al. 2017, arXiv:1703.03400, Fig. 3",
        follows=SILENT,
        claims={},
        settings=Sinusoid(),
        build=oracle,
        cost="1 min",
    ),
)
