"""What the experiments of reinforcement learning share: their settings, and a trial that is trained and scored on rollouts."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal, Self

from torch import nn

from innerloop.errors import InputError
from innerloop.evaluate import Scores
from innerloop.experiments.experiment import Budget, Metric, Options, Trial
from innerloop.learner import Learner, Loss
from innerloop.methods import maml, pretrained
from innerloop.models import WithContext
from innerloop.outer import Row, adam
from innerloop.params import Params
from innerloop.rl import (
    Experience,
    GaussianPolicy,
    Returns,
    Told,
    World,
    e_maml,
    evaluate_policy,
    gaussian_mlp,
    judged,
    loaded_dice,
    promp,
    ratio,
    score,
    train_policy,
    trpo,
)
from innerloop.tasks.source import generator_of

RETURN = Metric("return", higher=True)

Estimator = Literal["score", "ratio", "dice"]
Nonlinearity = Literal["relu", "tanh"]
NONLINEARITIES: dict[Nonlinearity, type[nn.Module]] = {"relu": nn.ReLU, "tanh": nn.Tanh}


@dataclass(frozen=True)
class Practice(Budget):
    """What is run of a policy."""

    iterations: int = 500
    meta_batch: int = 20
    """tasks of one iteration"""
    test_steps: int = 3
    """gradient steps that are scored"""
    test_tasks: int = 40
    """tasks that are scored"""
    test_trajectories: int = 40
    """rollouts of each step at test"""
    trajectories: int = 20
    """rollouts of each step in training"""
    horizon: int = 100
    """time steps of an episode"""
    steps: int = 1
    """inner steps in training"""
    rate: float = 0.1
    """inner rate"""
    later: float = 0.5
    """factor of the inner rate from the second step on, at test"""
    estimator: Estimator = "score"
    """inner loss: score (MAML's), ratio (low variance) or dice (unbiased)"""
    dice_weight: float = 1.0
    """λ of dice: 1 without bias, 0 of low variance"""
    credit: bool = False
    """E-MAML's term: rollouts before a step are credited with the return after it"""
    first_order: bool = False
    """leave second derivatives out"""
    hidden: tuple[int, ...] = (100, 100)
    """units of the policy's layers"""
    nonlinearity: Nonlinearity = "relu"
    """of the policy's hidden layers"""
    discount: float = 0.99
    """γ of returns"""
    trace: float = 1.0
    """λ of generalised advantage estimation"""
    bootstrap: bool = False
    """take an episode that is cut at the horizon to go on as the baseline expects"""
    normalised: bool = True
    """make advantages of a task of mean 0 and deviation 1; E-MAML's term is in units of rewards, as they are without"""
    outer: Literal["trpo", "adam", "promp"] = "trpo"
    """outer step"""
    limit: float = 0.01
    """of the KL in an outer step by trpo"""
    part: float = 0.0
    """of the rollouts, that TRPO's curvature is taken on; 0 for all up to 20,000 steps, a quarter above"""
    hessian: Literal["exact", "differences"] = "exact"
    """products of trpo's curvature: exact, or differences of two gradients as in MAML's code"""
    damping: float = 1e-5
    """added to the diagonal of trpo's curvature"""
    precision: str = "float32"
    """float32, tf32 or bfloat16: of the products of trpo's curvature, and of nothing else"""
    outer_rate: float = 1e-3
    """of adam and promp"""
    ratio_bound: float = 0.3
    """of promp: how far a ratio of probabilities counts"""
    inner_kl: float = 5e-4
    """of promp: price of the KL that inner steps move by"""
    best: bool = True
    """keep the prior with the best return after adaptation in training, not the last one"""

    def quick(self) -> Self:
        small = {"meta_batch": 2, "trajectories": 4, "test_trajectories": 4, "horizon": 10, "hidden": (8, 8), "part": 1.0}
        return replace(self, iterations=min(self.iterations, 3), test_tasks=min(self.test_tasks, 4), **small)


@dataclass(frozen=True)
class PolicyTrial(Trial):
    """A trial whose ``tasks`` and ``cases`` are ``Experience``s, or ``FamilyExperience``s.

    Args:
        goal: what adapts to a family's goal tasks, where ``tasks`` are families.
    """

    goal: Learner | None = None

    def trained(self, settings: Any, options: Options, folder: Path, log: Callable[[Row], None]) -> Learner:
        """The learner with its prior trained, as ``train_policy`` does it.

        Raises:
            InputError: an option is given that training of policies, its estimator or its outer step has no use for.
        """
        if options.watch or options.chunk:
            raise InputError("watch and chunk are of learners with data, not of policies; leave them out")
        _see_use(settings)
        own = {name: getattr(settings, name) for name in OF_TRPO}
        return train_policy(
            self.learner,
            self.tasks,
            settings.iterations,
            meta_batch=settings.meta_batch,
            outer=partial(trpo, part=settings.part or None, goal=self.goal, **own) if settings.outer == "trpo" else None,
            optimizer=None if settings.outer == "trpo" else adam(settings.outer_rate),
            outer_steps=5 if settings.outer == "promp" else 1,
            best=settings.best,
            engine=options.engine,
            device=options.device,
            out=folder,
            resume=options.resume,
            checkpoint_every=min(options.checkpoint_every, 10),
            progress=options.progress,
            track=options.track,
            log=log,
        )

    def taking(self, learner: Learner, steps: int) -> Learner:
        """The learner that takes so many steps on a task; of families, its meta-steps stay as they are."""
        return next(iter(self.cases.values())).going(learner, steps)[0]

    def scores(self, learner: Learner, tasks: Any, steps: int, n_tasks: int, **how: Any) -> Scores:
        """Returns before and after each step, as ``evaluate_policy`` gives them."""
        how.pop("metric", None)
        return evaluate_policy(learner, tasks, steps, n_tasks, **how)


OF_TRPO = ("limit", "hessian", "damping", "precision")
OF: tuple[tuple[str, str, tuple[str, ...]], ...] = (
    *((name, "outer", ("trpo",)) for name in ("hessian", "damping", "precision")),
    ("outer_rate", "outer", ("adam", "promp")),
    ("ratio_bound", "outer", ("promp",)),
    ("inner_kl", "outer", ("promp",)),
    ("dice_weight", "estimator", ("dice",)),
)
"""Settings that mean something beside some values of another alone."""


def _see_use(settings: Practice) -> None:
    for name, other, values in OF:
        if getattr(settings, name) != getattr(Practice, name) and (own := getattr(settings, other)) not in values:
            raise InputError(f"{name} is of {other} {' or '.join(values)}, and {other} is {own}; leave it out")
    if settings.credit and settings.normalised:
        raise InputError(
            "credit is in units of rewards, beside which normalised advantages count for nothing; take it with --no-normalised"
        )


def inner_loss(settings: Practice, policy: nn.Module) -> Loss:
    """The estimator that inner steps descend."""
    if settings.estimator == "dice":
        return loaded_dice(policy, settings.dice_weight)
    return {"score": score, "ratio": ratio}[settings.estimator](policy)


def policy_of(settings: Practice, world: World, inputs: int = 0) -> GaussianPolicy:
    """The papers' policy for a world, with so many inputs more that a context vector gives it."""
    sizes = world.observations + inputs, *settings.hidden, world.actions
    policy = gaussian_mlp(*sizes, nonlinearity=NONLINEARITIES[settings.nonlinearity], generator=generator_of(settings.seed, "weights"))
    return GaussianPolicy(WithContext(policy.mean, inputs), world.actions) if inputs else policy


def experience(settings: Practice, world: World, test: bool = False, **how: Any) -> Experience:
    """How tasks of the world are met, in training or at test."""
    own = {name: getattr(settings, name) for name in ("discount", "trace", "bootstrap", "normalised")}
    return Experience(world, settings.test_trajectories if test else settings.trajectories, returns=Returns(**own), **how)


Build = Callable[[int, Any], Learner]
"""Number of inner steps and the rate of each, or one for all → learner."""


def rates(settings: Practice, rate: float) -> list[float]:
    """One for each step at test: the first, and then those that are shorter."""
    return [rate] + [rate * settings.later] * (max(settings.test_steps, 1) - 1)


def trial(
    settings: Practice,
    build: Build,
    world: World,
    cases: Mapping[str, World],
    policy: nn.Module,
    *,
    trained: Learner | None = None,
    candidates: tuple[float, ...] = (),
    **how: Any,
) -> PolicyTrial:
    """A trial of a method on a world.

    Args:
        build: makes the learner.
        world: of training, with the seed of the run.
        cases: worlds that are scored, by name.
        policy: of the learner.
        trained: in the place of the learner that adapts, such as one that does not.
        candidates: inner rates at test, of which validation tasks choose.
        how: further settings of ``Experience``.
    """
    learner = trained or judged(build(settings.steps, settings.rate), policy)
    if settings.credit:
        learner = e_maml(learner, policy)
    if settings.outer == "promp":
        learner = promp(learner, policy, settings.ratio_bound, settings.inner_kl)

    def scored(prior: Params, rate: float) -> Learner:
        return replace(build(max(settings.test_steps, 1), rates(settings, rate)), prior=prior)

    return PolicyTrial(
        learner=learner,
        tasks=experience(settings, world, **how),
        cases={name: experience(settings, of, test=True, **how) for name, of in cases.items()},
        scored=scored,
        rates=candidates or (settings.rate,),
    )


def by_maml(settings: Practice, world: World, cases: Mapping[str, World], **how: Any) -> PolicyTrial:
    """MAML, whose log-deviations adapt with the weights."""
    policy = policy_of(settings, world)
    loss = inner_loss(settings, policy)
    return trial(settings, lambda k, rate: maml(policy, loss, k, rate, first_order=settings.first_order), world, cases, policy, **how)


CANDIDATES = (0.02, 0.05, 0.1, 0.2, 0.5, 1.0)
"""Inner rates that baselines are tuned over, on validation tasks: the papers say only that theirs were tuned by hand."""


def by_pretraining(settings: Practice, world: World, cases: Mapping[str, World]) -> PolicyTrial:
    """One policy for all tasks, trained without adaptation, then adapted like MAML's at the rate that suits it."""
    policy = policy_of(settings, world)
    return by_maml(settings, world, cases, trained=pretrained(policy, ratio(policy)), candidates=CANDIDATES)


def by_chance(settings: Practice, world: World, cases: Mapping[str, World]) -> PolicyTrial:
    """Random weights, adapted like MAML's at the rate that suits them; for 0 iterations."""
    return by_maml(settings, world, cases, candidates=CANDIDATES)


def by_oracle(settings: Practice, world: World, cases: Mapping[str, World]) -> PolicyTrial:
    """A policy that sees the task, and does not adapt."""
    seeing, told = Told(world), {name: Told(of) for name, of in cases.items()}
    policy = policy_of(settings, seeing)
    build: Build = lambda k, rate: pretrained(policy, ratio(policy))  # noqa: E731
    return trial(settings, build, seeing, told, policy)


def by_context(settings: Practice, world: World, cases: Mapping[str, World], size: int = 20) -> PolicyTrial:
    """Free inputs of the policy adapt, its weights do not."""
    policy = policy_of(settings, world, size)
    loss = inner_loss(settings, policy)
    return trial(
        settings,
        lambda k, rate: maml(policy, loss, k, rate, only="net.mean.context", first_order=settings.first_order),
        world,
        cases,
        policy,
    )
