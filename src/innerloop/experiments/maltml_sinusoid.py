"""Devos & Dandi 2020 (MALTML), §4.1: few-task few-shot regression of families of sine waves that share their phase."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from torch import nn

from innerloop.experiments.experiment import Experiment, Trial
from innerloop.experiments.maml_sinusoid import Sinusoid, net_of
from innerloop.learner import Learner
from innerloop.losses import mse
from innerloop.methods import fomaml, maltml, maml, meta_finetuned, pretrained, toward_end
from innerloop.params import Params
from innerloop.tasks import Families, Goals, Sinusoids


@dataclass(frozen=True)
class FewTask(Sinusoid):
    """Options of few-task few-shot regression; these are MALTML's."""

    meta_batch: int = 10
    """families of one iteration; tasks for methods that ignore families"""
    shots: int = 5
    queries: int = 5
    rate: float = 0.001
    """inner rates α, of related tasks, and γ, of goal tasks"""
    related: int = 5
    """related tasks of a family"""
    goals: int = 2
    """goal tasks of a family"""
    meta_steps: int = 1
    """steps on the related tasks while training"""
    meta_rate: float = 0.01
    """β, on the sum over related tasks"""
    test_related: int = 5
    """related tasks of a family that is scored"""
    test_meta_steps: int = 1
    """steps on them"""
    test_meta_rate: float = 0.01
    """β of these"""
    test_tasks: int = 2_000


AFTER, WITHOUT = "after the meta-update", "without it"
"""The same goal tasks, scored with and without a meta-update of the prior on their family's related tasks."""

Build = Callable[[int], Learner]


def families(settings: FewTask) -> Families:
    """Those of training."""
    return Families(_waves(settings), related=settings.related, goals=settings.goals)


def goals(settings: FewTask, identity: bool = False) -> Goals:
    """Goal tasks that are scored, with more query points than in training; related tasks have no more."""
    waves = replace(_waves(settings), seed=0, identity=identity)
    return Goals(Families(waves, related=settings.test_related, goals=settings.goals, goal_queries=settings.test_queries))


def _waves(settings: FewTask) -> Sinusoids:
    return Sinusoids(settings.shots, settings.queries, seed=settings.seed)


def _adapting(settings: FewTask, net: nn.Module, method: Callable[..., Learner] = maml) -> Build:
    return lambda steps: method(net, mse(net), steps, settings.rate)


def trial(settings: FewTask, learner: Learner, base: Build, tasks: Any, identity: bool = False) -> Trial:
    """A trial of what is trained on ``tasks``; ``base`` of so many steps adapts to a goal."""

    def scored(prior: Params, rate: float, meta_steps: int = settings.test_meta_steps) -> Learner:
        own = replace(base(1), prior=prior)
        built = meta_finetuned(maltml(own, meta_steps, settings.test_meta_rate), own)
        return built.taking(max(settings.test_steps, 1)) if own.steps else built

    asked = goals(settings, identity)
    return Trial(
        learner=learner,
        tasks=tasks,
        cases={WITHOUT: asked} if identity else {AFTER: asked, WITHOUT: asked},
        scored=scored,
        by_case={WITHOUT: partial(scored, meta_steps=0)},
        rates=(settings.rate,),
        pictured=None if identity else {f"{settings.shots} points, {settings.test_related} related tasks": asked},
    )


def by_maltml(settings: FewTask, first_order: bool = False) -> Trial:
    """MALTML, of third order or of first."""
    net = net_of(settings)
    base = _adapting(settings, net, fomaml if first_order else maml)
    learner = maltml(base(settings.steps), settings.meta_steps, settings.meta_rate, first_order=first_order)
    return trial(settings, learner, base, families(settings))


def by_steps_toward_the_end(settings: FewTask) -> Trial:
    """The paper's first-order form: the prior moves to where several meta-steps end; goals are not looked at."""
    net = net_of(settings)
    base = _adapting(settings, net)
    first = maltml(_adapting(settings, net, fomaml)(settings.steps), settings.meta_steps, settings.meta_rate, first_order=True)
    made = trial(settings, maltml(base(settings.steps), settings.meta_steps, settings.meta_rate), base, families(settings))
    return replace(made, phases={0: toward_end(first)})


def by_maml(settings: FewTask) -> Trial:
    """MAML, which ignores families, and is meta-finetuned at test like MALTML."""
    net = net_of(settings)
    base = _adapting(settings, net)
    return trial(settings, base(settings.steps), base, _waves(settings))


def by_pretraining(settings: FewTask) -> Trial:
    """A network that regresses all waves at once, adapted like the others."""
    net = net_of(settings)
    base = _adapting(settings, net)
    return trial(settings, pretrained(net, mse(net)), base, _waves(settings))


def by_oracle(settings: FewTask) -> Trial:
    """Told amplitude and phase, it has nothing to adapt to."""
    net = net_of(settings, inputs=3)
    learner = pretrained(net, mse(net))
    return trial(settings, learner, lambda steps: learner, replace(_waves(settings), identity=True), identity=True)


FOLLOWS = (
    "paper; where it is silent: MAML's baseline has 25 tasks an iteration and is meta-finetuned at test like MALTML, sines of x − φ "
    "(torchmeta, which it names), the mean over points and goals, PyTorch's start of weights"
)
MANY = {"test_related": 50, "test_meta_steps": 20, "test_meta_rate": 0.001}
"""The paper's MAML oracle has a large number of the family's tasks; β is on their sum, so it is a tenth."""

VARIANTS: dict[str, tuple[str, Callable[[Any], Trial], dict[str, Any]]] = {
    "": ("MALTML, third order", by_maltml, {}),
    "first-order": ("MALTML, first order", partial(by_maltml, first_order=True), {}),
    "reptile": ("MALTML, two levels of first order", by_steps_toward_the_end, {"meta_steps": 5}),
    "maml": ("MAML, which ignores families", by_maml, {"meta_batch": 25}),
    "maml-many": ("MAML, meta-finetuned on 50 tasks", by_maml, {"meta_batch": 25, **MANY}),
    "pretrained": ("pretraining on all tasks", by_pretraining, {"meta_batch": 25}),
    "oracle": ("oracle, told amplitude and phase", by_oracle, {"meta_batch": 25}),
}


def _experiments() -> Iterator[Experiment]:
    for variant, (title, build, own) in VARIANTS.items():
        yield Experiment(
            name="maltml/sinusoid" + (f"@{variant}" if variant else ""),
            title=title,
            source="Devos & Dandi 2020, Model-Agnostic Learning to Meta-Learn, §4.1 and Fig. 2",
            follows=FOLLOWS,
            claims={},
            settings=FewTask(**own),
            build=build,
            cost="10 min" if "meta_batch" not in own else "2 min",
        )


EXPERIMENTS = tuple(_experiments())
