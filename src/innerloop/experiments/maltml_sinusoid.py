"""Devos & Dandi 2020 (MALTML), §4.1: few-task few-shot regression of families of sine waves that share their phase."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from innerloop.experiments.experiment import Experiment, Trial
from innerloop.experiments.few_task import SOURCE, WITHOUT, Build, FewTask, few_task
from innerloop.experiments.maml_sinusoid import Sinusoid, net_of
from innerloop.learner import Learner
from innerloop.losses import mse
from innerloop.methods import anil, boil, fomaml, maltml, maml, pretrained, toward_end
from innerloop.params import Params
from innerloop.tasks import Families, Goals, Sinusoids


@dataclass(frozen=True)
class FewTaskSinusoid(FewTask, Sinusoid):
    """Options of few-task few-shot regression; these are MALTML's."""

    meta_batch: int = 10
    """families of one iteration; tasks for methods that ignore families"""
    shots: int = 5
    queries: int = 5
    rate: float = 0.001
    """inner rates α, of related tasks, and γ, of goal tasks"""
    test_tasks: int = 2_000


def families(settings: FewTaskSinusoid) -> Families:
    """Those of training."""
    return Families(_waves(settings), related=settings.related, goals=settings.goals)


def goals(settings: FewTaskSinusoid, identity: bool = False) -> Goals:
    """Goal tasks that are scored, with more query points than in training; related tasks have no more."""
    waves = replace(_waves(settings), seed=0, identity=identity)
    return Goals(Families(waves, related=settings.test_related, goals=settings.goals, goal_queries=settings.test_queries))


def _waves(settings: FewTaskSinusoid) -> Sinusoids:
    return Sinusoids(settings.shots, settings.queries, seed=settings.seed)


def _adapting(net: nn.Module, method: Callable[..., Learner] = maml) -> Build:
    return lambda steps, rate: method(net, mse(net), steps, rate)


def trial(settings: FewTaskSinusoid, learner: Learner, base: Build, tasks: Any, **how: Any) -> Trial:
    """A trial of what is trained on ``tasks``, scored on goals by ``base``."""
    asked = goals(settings)
    made = few_task(settings, learner, tasks, base, asked, 1, settings.rate, **how)
    return replace(made, pictured={f"{settings.shots} points, {settings.test_related} related tasks": asked})


def by_maltml(settings: FewTaskSinusoid, first_order: bool = False, method: Callable[..., Learner] = maml) -> Trial:
    """MALTML, of third order or of first, over any base learner."""
    net = net_of(settings)
    base = _adapting(net, fomaml if first_order else method)
    learner = maltml(base(settings.steps, settings.rate), settings.meta_steps, settings.meta_rate, first_order=first_order)
    return trial(settings, learner, base, families(settings))


def _with_rates(net: nn.Module, rates: Params, which: str) -> Build:
    """MAML at a rate that is learned with the prior; all of ``rates`` are in it."""

    def build(steps: int, rate: float) -> Learner:
        learner = maml(net, mse(net), steps, lambda params, name: params[which])
        return replace(learner, prior=learner.prior | rates)

    return build


def by_learned_rates(settings: FewTaskSinusoid) -> Trial:
    """MALTML whose α, β and γ are learned with the prior, one number each, from where the settings have them."""
    started = {"rate.task": settings.rate, "rate.family": settings.meta_rate, "rate.goal": settings.rate}
    net, rates = net_of(settings), {name: torch.tensor(value) for name, value in started.items()}
    task, goal = (_with_rates(net, rates, which) for which in ("rate.task", "rate.goal"))

    def meta_rate(params: Params, name: str) -> Tensor:
        return params["rate.family"]

    first, last = (made(settings.steps, settings.rate) for made in (task, goal))
    learner = maltml(first, settings.meta_steps, meta_rate, goal=last)
    return trial(settings, learner, task, families(settings), goal=goal, meta_rate=meta_rate)


def by_maml_with_learned_rate(settings: FewTaskSinusoid) -> Trial:
    """MAML whose α is learned likewise: what MALTML's learned rates stand beside."""
    base = _with_rates(net_of(settings), {"rate.task": torch.tensor(settings.rate)}, "rate.task")
    return trial(settings, base(settings.steps, settings.rate), base, _waves(settings))


def by_steps_toward_the_end(settings: FewTaskSinusoid) -> Trial:
    """The paper's first-order form: the prior moves to where several meta-steps end; goals are not looked at."""
    net = net_of(settings)
    base, one = _adapting(net), _adapting(net, fomaml)
    first = maltml(one(settings.steps, settings.rate), settings.meta_steps, settings.meta_rate, first_order=True)
    learner = maltml(base(settings.steps, settings.rate), settings.meta_steps, settings.meta_rate)
    return replace(trial(settings, learner, base, families(settings)), phases={0: toward_end(first)})


def by_maml(settings: FewTaskSinusoid, method: Callable[..., Learner] = maml) -> Trial:
    """MAML, which ignores families, and is meta-finetuned at test like MALTML."""
    net = net_of(settings)
    base = _adapting(net, method)
    return trial(settings, base(settings.steps, settings.rate), base, _waves(settings))


def by_pretraining(settings: FewTaskSinusoid) -> Trial:
    """A network that regresses all waves at once, adapted like the others."""
    net = net_of(settings)
    return trial(settings, pretrained(net, mse(net)), _adapting(net), _waves(settings))


def by_oracle(settings: FewTaskSinusoid) -> Trial:
    """Told amplitude and phase, it has nothing to adapt to."""
    net = net_of(settings, inputs=3)
    learner = pretrained(net, mse(net))
    told, asked = replace(_waves(settings), identity=True), goals(settings, identity=True)
    made = few_task(settings, learner, told, lambda steps, rate: learner, asked, 0, settings.rate)
    return replace(made, cases={WITHOUT: asked})


FOLLOWS = (
    "paper; where it is silent: MAML's baseline has 25 tasks an iteration and is meta-finetuned at test like MALTML, sines of x − φ "
    "(torchmeta, which it names), the mean over points and goals, PyTorch's start of weights"
)
MANY = {"test_related": 50, "test_meta_steps": 20, "test_meta_rate": 0.0002}
"""The paper's MAML oracle has a large number of the family's tasks; β, which is on their sum, is 0.01 on their mean, as more diverges."""

VARIANTS: dict[str, tuple[str, Callable[[Any], Trial], dict[str, Any]]] = {
    "": ("MALTML, third order", by_maltml, {}),
    "first-order": ("MALTML, first order", partial(by_maltml, first_order=True), {}),
    "learned-rates": ("MALTML, learned rates of all levels", by_learned_rates, {}),
    "anil": ("MALTML over ANIL", partial(by_maltml, method=anil), {}),
    "boil": ("MALTML over BOIL", partial(by_maltml, method=boil), {}),
    "reptile": ("MALTML, two levels of first order", by_steps_toward_the_end, {"meta_steps": 5}),
    "maml": ("MAML, which ignores families", by_maml, {"meta_batch": 25}),
    "maml-learned-rate": ("MAML, learned rate", by_maml_with_learned_rate, {"meta_batch": 25}),
    "maml-many": ("MAML, meta-finetuned on 50 tasks", by_maml, {"meta_batch": 25, **MANY}),
    "pretrained": ("pretraining on all tasks", by_pretraining, {"meta_batch": 25}),
    "oracle": ("oracle, told amplitude and phase", by_oracle, {"meta_batch": 25}),
}


def _experiments() -> Iterator[Experiment]:
    for variant, (title, build, own) in VARIANTS.items():
        yield Experiment(
            name="maltml/sinusoid" + (f"@{variant}" if variant else ""),
            title=title,
            source=SOURCE + "§4.1 and Fig. 2",
            follows=FOLLOWS,
            claims={},
            settings=FewTaskSinusoid(**own),
            build=build,
            cost="10 min" if "meta_batch" not in own else "2 min",
        )


EXPERIMENTS = tuple(_experiments())
