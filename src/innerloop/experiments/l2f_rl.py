"""Baik et al. 2020 (L2F), §4.3, App. D and Table K(b): navigation, on the tasks of training and on shifted ones, and locomotion."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from torch import nn

from innerloop.experiments.experiment import Experiment
from innerloop.experiments.maml_locomotion import Run, on_the_ground
from innerloop.experiments.maml_navigation import Walk, plane
from innerloop.experiments.practice import RETURN, PolicyTrial, Practice, by_maml, inner_loss, policy_of, trial
from innerloop.learner import Learner
from innerloop.methods import attenuated, maml, mumomaml, per_step_rates
from innerloop.models import OfTrajectory, with_film
from innerloop.rl import World
from innerloop.tasks.source import generator_of


@dataclass(frozen=True)
class Shifted(Walk):
    """Options of L2F's navigation, Table L."""

    rate: float = 0.01
    later: float = 1.0
    test_trajectories: int = 20
    bound: float = 0.2
    reward: str = "squared"  # type: ignore[assignment]


def cases(settings: Shifted) -> dict[str, World]:
    """The tasks of training, and the three that differ."""
    far = {"starts": 2.0, "goals": 2.0}
    own = {"same tasks": {}, "random starts": {"starts": 0.5}, "far goals": {"goals": 2.0}, "far starts and goals": far}
    return {name: plane(settings, seed=0, **changes) for name, changes in own.items()}


WEIGHTS = ["net", "-net.log_sd"]
"""What is attenuated: log-deviations adapt, but they are no knowledge that could be in the way."""


def by_l2f(settings: Practice, world: World, of: Mapping[str, World], again: bool = False) -> PolicyTrial:
    """L2F: the first rollouts' policy gradient tells what to forget, and adaptation begins with rollouts of what is left."""
    policy = policy_of(settings, world)
    loss = inner_loss(settings, policy)

    def build(steps: int, rate: Any) -> Learner:
        inner = maml(policy, loss, steps, rate, first_order=settings.first_order)
        return attenuated(inner, loss, WEIGHTS, generator=generator_of(settings.seed, "gate"))

    return trial(settings, build, world, of, policy, again=again)


def by_rates(settings: Practice, world: World, of: Mapping[str, World]) -> PolicyTrial:
    """MAML++'s learned rates for each tensor and step; those of the last step go on at test."""
    policy = policy_of(settings, world)
    loss = inner_loss(settings, policy)

    def build(steps: int, rate: Any) -> Learner:
        return per_step_rates(policy, loss, settings.steps, settings.rate, first_order=settings.first_order).taking(steps)

    return trial(settings, build, world, of, policy)


def by_mumomaml(settings: Practice, world: World, of: Mapping[str, World], hidden: int = 8) -> PolicyTrial:
    """MuMoMAML: one trajectory of the unmodulated policy tells how the policy's layers are scaled and shifted."""
    policy: nn.Module = with_film(policy_of(settings, world))
    loss = inner_loss(settings, policy)

    def build(steps: int, rate: Any) -> Learner:
        encoder = OfTrajectory(world.observations + world.actions + 1, hidden, generator_of(settings.seed, "encoder"))
        how = {"encoder": encoder, "hidden": None, "generator": generator_of(settings.seed, "heads"), "first_order": settings.first_order}
        return mumomaml(policy, loss, steps, rate, **how)

    return trial(settings, build, world, of, policy, preparing=1)


SOURCE = "Baik et al. 2020, arXiv:1906.05859, "
CLAIMS: Mapping[str, Mapping[int, float]] = {
    "": {1: -24.230, 2: -19.598, 3: -16.517},
    "maml": {1: -32.626, 2: -25.746, 3: -20.734},
    "mumomaml": {1: -25.785, 2: -23.705, 3: -19.747},
    "maml++": {1: -36.281, 2: -27.264, 3: -18.620},
}
SILENT = (
    "where it is silent: MAML's released code (scaled actions, linear baseline, TRPO with a KL of 0.01); ours: weights and biases are "
    "attenuated, log-deviations adapt but are not"
)
METHODS: Mapping[str, tuple[str, Callable[..., PolicyTrial]]] = {
    "": ("L2F", by_l2f),
    "again": ("L2F, whose first step sees the rollouts of the gate", partial(by_l2f, again=True)),
    "maml": ("MAML", by_maml),
    "mumomaml": ("MuMoMAML", by_mumomaml),
    "maml++": ("MAML++, its learned rates", by_rates),
}


def _walk(build: Callable[..., PolicyTrial]) -> Callable[[Shifted], PolicyTrial]:
    return lambda settings: build(settings, plane(settings), cases(settings))


def _experiments() -> Iterator[Experiment]:
    for variant, (title, build) in METHODS.items():
        claim = CLAIMS.get(variant)
        yield Experiment(
            name="l2f/navigation" + (f"@{variant}" if variant else ""),
            title=f"{title}, 2D navigation",
            source=SOURCE + "Table K(b), Figure K",
            follows="paper, Table L: inner rate 0.01, steps of at most 0.2, reward −distance², 20 rollouts a step; " + SILENT,
            claims={"same tasks": claim} if claim else {},
            comparable=False,  # MAML by what is printed has −2.4 where −32.6 is printed
            settings=Shifted(),
            build=_walk(build),
            metric=RETURN,
            engine="vmap" if variant == "mumomaml" else "auto",  # a compiler takes minutes for an encoder of 100 time steps
            cost="60 min" if variant == "mumomaml" else "20 min",
        )
    for goal in ("direction", "velocity"):
        for variant in ("", "maml"):
            title, build = METHODS[variant]
            yield Experiment(
                name=f"l2f/locomotion-{goal}@rllab" + (f"-{variant}" if variant else ""),
                title=f"{title}, cheetah, {goal}",
                source=SOURCE + "Figure 5(b, c)",
                follows=f"paper: inner rate 0.01; the robot, which it does not name, is the cheetah, 40 rollouts a step at test; {SILENT}",
                claims={},
                settings=replace(Run(goal=goal), rate=0.01, later=1.0, test_trajectories=40),
                build=on_the_ground(build),
                metric=RETURN,
                cost="2 h",
                needs=("mujoco",),
            )


EXPERIMENTS = tuple(_experiments())
