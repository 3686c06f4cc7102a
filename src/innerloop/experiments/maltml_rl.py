"""Devos & Dandi 2020 (MALTML), §4.2: families of navigation tasks, and continual learning of a robot under changing gravity."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from innerloop.errors import InputError
from innerloop.experiments.experiment import Experiment
from innerloop.experiments.few_task import SOURCE
from innerloop.experiments.maml_locomotion import Run, ground
from innerloop.experiments.maml_navigation import Walk, plane
from innerloop.experiments.practice import RETURN, Nonlinearity, PolicyTrial, Practice, experience, inner_loss, policy_of, rates
from innerloop.learner import Learner
from innerloop.methods import maltml, maml, pretrained
from innerloop.params import Params
from innerloop.rl import Drifting, FamilyExperience, Navigation, Rectangles, Told, judged


@dataclass(frozen=True)
class Few(Practice):
    """Options of learning from families of tasks."""

    meta_batch: int = 5
    """families of one iteration; tasks for methods that ignore families"""
    related: int = 5
    """tasks that tell of a family"""
    goals: int = 2
    """tasks that are asked"""
    meta_steps: int = 1
    """steps on the related tasks"""
    meta_rate: float = 0.02
    """of these steps, on the sum over related tasks"""

    def quick(self) -> Any:
        return replace(super().quick(), related=2, goals=1)


@dataclass(frozen=True)
class FewWalks(Few, Walk):
    """Options of navigation in families."""


@dataclass(frozen=True)
class FewRuns(Few, Run):
    """Options of a robot whose gravity changes."""

    goal: str = "velocity"
    steps: int = 3
    """inner steps, each under another gravity"""
    later: float = 1.0
    meta_batch: int = 4
    iterations: int = 100
    nonlinearity: Nonlinearity = "tanh"

    def quick(self) -> Any:
        return replace(super().quick(), steps=2)


def _trial(settings: Any, world: Any, asked: Any, families: bool, case: str, adapts: bool = True) -> PolicyTrial:
    if settings.outer == "promp":
        raise InputError("outer is promp, which is not of families; trpo or adam would do")
    if settings.credit:
        raise InputError("credit, E-MAML's term, is not of families; leave it out")
    policy = policy_of(settings, world)
    loss = inner_loss(settings, policy)

    def inner(steps: int, rate: Any) -> Learner:
        how = maml(policy, loss, steps, rate, first_order=settings.first_order) if adapts else pretrained(policy, loss)
        return judged(how, policy)

    base = inner(settings.steps, settings.rate)
    meant = inner(max(settings.test_steps, 1), rates(settings, settings.rate))
    over = maltml(base, settings.meta_steps if adapts else 0, settings.meta_rate)

    def scored(prior: Params, rate: float) -> Learner:
        return replace(over, prior=prior)

    met = experience(settings, world)
    return PolicyTrial(
        learner=over if families else base,
        tasks=FamilyExperience(met, base, settings.related, settings.goals) if families else met,
        cases={case: FamilyExperience(experience(settings, asked, test=True), base, settings.related, settings.goals, meant)},
        scored=scored,
        rates=(settings.rate,),
        goal=base if families else None,
    )


def by_maltml(settings: FewWalks, families: bool = True) -> PolicyTrial:
    """MALTML; without families, MAML, which is meta-finetuned on related tasks at test too."""
    return _trial(settings, *_rectangles(settings), families, "rectangles")


def told(settings: FewWalks) -> PolicyTrial:
    """A policy that sees the goal, asked of the same goals as the others."""
    return _trial(settings, *_rectangles(settings, Told), families=False, case="rectangles", adapts=False)


def _rectangles(settings: FewWalks, shown: Callable[[Navigation], Any] = lambda plain: plain) -> tuple[Rectangles, Rectangles]:
    """Families of training, and those that are asked."""
    own, asked = (Rectangles(shown(plane(settings, seed=seed))) for seed in (settings.seed, 0))
    return own, asked


def continual(settings: FewRuns, families: bool = True) -> PolicyTrial:
    """A stream of changing tasks, each of which a step learns from; the last one is asked."""
    own, asked = (Drifting(ground(settings, seed), settings.steps + 1) for seed in (settings.seed, 0))
    return _trial(settings, own, asked, families, "changing gravity")


FOLLOWS = (
    "paper: rectangles of 25 to 75 % of the unit length; where it is silent: MAML's released code for policies, 5 related and 2 goal "
    "tasks as in its regression, β = 0.02 on the sum over related tasks"
)
DRIFT = (
    "ours: the paper proposes it in a sentence; gravity of 7 to 17 m/s² as in Kaplanis et al. 2019, arXiv:1902.00255; tanh in the policy"
)
EXPERIMENTS = tuple(
    Experiment(
        name=f"maltml/{name}",
        title=title,
        source=SOURCE + "§4.2",
        follows=follows,
        claims={},
        settings=settings,
        build=build,
        metric=RETURN,
        cost=cost,
        needs=needs,
    )
    for name, title, settings, build, follows, cost, needs in (
        ("navigation-families", "MALTML, navigation in rectangles", FewWalks(), by_maltml, FOLLOWS, "60 min", ()),
        (
            "navigation-families@maml",
            "MAML, navigation in rectangles",
            FewWalks(meta_batch=20),
            partial(by_maltml, families=False),
            FOLLOWS,
            "15 min",
            (),
        ),
        ("navigation-families@oracle", "oracle, told the goal", FewWalks(meta_batch=20, test_steps=0), told, FOLLOWS, "15 min", ()),
        ("continual-rl@rllab", "MALTML, cheetah under changing gravity", FewRuns(), continual, DRIFT, "10 h", ("mujoco",)),
        (
            "continual-rl@rllab-maml",
            "MAML, cheetah under changing gravity",
            FewRuns(meta_batch=20),
            partial(continual, families=False),
            DRIFT,
            "3 h",
            ("mujoco",),
        ),
    )
)
