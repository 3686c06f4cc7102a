"""Devos & Dandi 2020 (MALTML), §4.2: continual regression of sine waves by OML, in families that differ in frequency."""

from dataclasses import dataclass, replace
from typing import Any, Self

from torch import nn

from innerloop.errors import InputError
from innerloop.experiments.experiment import Experiment, Trial
from innerloop.experiments.few_task import SOURCE, Build, FewTask, few_task
from innerloop.losses import mse
from innerloop.methods import maltml, oml
from innerloop.models import mlp
from innerloop.tasks import Goals, Sinusoids, StreamFamilies, Streams, Unrelated
from innerloop.tasks.source import generator_of


@dataclass(frozen=True)
class Continual(FewTask):
    """Options of continual regression; those of a stream are OML's, after its meta-gradients were mended."""

    iterations: int = 20_000
    meta_batch: int = 1
    """families of one iteration; streams for methods that ignore families"""
    outer_rate: float = 1e-4
    functions: int = 10
    """waves that come one after the other"""
    updates: int = 5
    """batches of each, one a step"""
    points: int = 10
    """of a batch"""
    queries: int = 32
    """points of each wave that are asked at the end"""
    rate: float = 0.003
    """inner rate"""
    inner_clip: float = 10.0
    """largest element of an inner gradient"""
    width: int = 400
    """units of a layer"""
    layers: int = 5
    """of the representation, before the layer that adapts"""
    meta_rate: float = 0.001
    test_meta_rate: float = 0.001
    frequencies: tuple[float, float] = (0.5, 1.5)
    """of which each family has one"""
    test_tasks: int = 200
    test_steps: int = 50

    def quick(self) -> Self:
        small = {"iterations": 3, "functions": 3, "updates": 2, "test_steps": 6, "validation_tasks": 4}
        return replace(super().quick(), **small)


def streams(settings: Continual, related: int, goals: int) -> StreamFamilies:
    """Families of streams of waves; all waves of a family have one frequency."""
    shots = settings.updates * settings.points
    waves = Sinusoids(shots, settings.queries, amplitude=(0.1, 5.1), frequency=settings.frequencies, sign="plus", seed=settings.seed)
    return StreamFamilies(Streams(waves, settings.functions, settings.updates, shared=("frequency",)), related, goals)


def _net(settings: Continual) -> nn.Sequential:
    hidden = [settings.width] * settings.layers
    return mlp(1 + settings.functions, *hidden, 1, generator=generator_of(settings.seed, "weights"))


def _trial(settings: Continual, families: bool) -> Trial:
    steps = settings.functions * settings.updates
    if settings.test_steps > steps:
        raise InputError(f"test_steps is {settings.test_steps} but a stream has {steps} batches; give --test-steps {steps}")
    net = _net(settings)
    build: Build = lambda steps, rate: oml(net, mse(net), steps, rate, clip=settings.inner_clip)  # noqa: E731
    learner, asked = build(steps, settings.rate), Goals(streams(replace(settings, seed=0), settings.test_related, settings.goals))
    if families:
        own: Any = streams(settings, settings.related, settings.goals)
        learner = maltml(learner, settings.meta_steps, settings.meta_rate)
    else:
        own = Unrelated(streams(settings, 1, 1))
    return few_task(settings, learner, own, build, asked, steps, settings.rate)


def by_maltml(settings: Continual) -> Trial:
    """MALTML over OML."""
    return _trial(settings, families=True)


def by_oml(settings: Continual) -> Trial:
    """OML, which ignores families, and is meta-finetuned at test like MALTML."""
    return _trial(settings, families=False)


FOLLOWS = (
    "released code of OML as mended in 2020: 10 waves, 5 updates of 10 points each, five layers of 400, one linear layer that adapts, "
    "inner rate 0.003, elements of inner gradients below 10; ours: frequencies from 0.5 to 1.5, β = 0.001 on the sum, and 10 numbers of "
    "waves instead of 50, dealt anew for each stream"
)
EXPERIMENTS = tuple(
    Experiment(
        name=name,
        title=title,
        source=SOURCE + "§4.2, after Javed & White 2019, arXiv:1905.12588, §4.1",
        follows=FOLLOWS,
        claims={},
        settings=settings,
        build=build,
        cost=cost,
        engine=engine,
    )
    for name, title, settings, build, cost, engine in (
        # One meta-step is fifty steps of each related task and the way back through them: too much for a compiler.
        ("maltml/continual-regression", "MALTML over OML", Continual(), by_maltml, "100 h", "loop"),
        ("maltml/continual-regression@oml", "OML, which ignores families", Continual(meta_batch=8), by_oml, "10 h", "auto"),
    )
)
