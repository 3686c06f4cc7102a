"""Finn et al. 2017 (MAML), §5.3 and App. C.2: 2D navigation."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from innerloop.experiments.experiment import Experiment
from innerloop.experiments.practice import (
    RETURN,
    PolicyTrial,
    Practice,
    by_chance,
    by_context,
    by_maml,
    by_oracle,
    by_pretraining,
)
from innerloop.rl import Navigation
from innerloop.rl.worlds import Reward, Stop


@dataclass(frozen=True)
class Walk(Practice):
    """Options of navigation in the plane."""

    reward: Reward = "distance"
    """minus the distance to the goal, or minus its square"""
    bound: float = 0.1
    """largest step along an axis"""
    scaled: bool = True
    """actions of ±1 are the largest steps; without, actions are steps"""
    stop: Stop = "box"
    """episodes end within 0.01 of the goal along both axes, at a distance of 0.01, or never before the horizon"""


def plane(settings: Walk, **how: Any) -> Navigation:
    """The world, with the seed of the run."""
    own = {name: getattr(settings, name) for name in ("reward", "bound", "scaled", "stop", "horizon", "seed")}
    return Navigation(**(own | how))


def on_the_plane(build: Callable[..., PolicyTrial]) -> Callable[[Walk], PolicyTrial]:
    """A trial of a method, trained on tasks of its seed and scored on those that are the same for all."""
    return lambda settings: build(settings, plane(settings), {"2D navigation": plane(settings, seed=0)})


SOURCE = "Finn et al. 2017, arXiv:1703.03400, "
FOLLOWS = (
    "paper, but the reward of its released code, −distance, which the printed returns are of (the text says −distance²); code: actions "
    "scaled by 0.1, log-deviations adapt, linear baseline, TRPO with a KL of 0.01, tanh for random weights; ours: curvature on a "
    "quarter of the rollouts"
)
RELEASE = "the snapshot that the paper's numbers are of: α = 0.5, 100 iterations; for the rest: " + FOLLOWS
TABLE_4 = {0: -40.41, 1: -11.68, 2: -3.33, 3: -3.23}
CLAIMS: Mapping[str, Mapping[int, float]] = {
    "": TABLE_4,
    "release": TABLE_4,
    "pretrained": {0: -40.81, 1: -19.73, 2: -11.72, 3: -8.47},
    "random": {0: -82.66, 1: -57.96, 2: -53.84, 3: -46.81},
    "oracle": {0: -2.29},
    "context": {0: -42.42, 1: -13.90, 2: -5.17, 3: -3.18},
}

METHODS = (
    ("", "MAML, 2D navigation", "Figure 4, Table 4", by_maml, Walk()),
    ("release", "MAML, α = 0.5, 2D navigation", "Figure 4, Table 4", by_maml, Walk(rate=0.5, iterations=100)),
    ("squared", "MAML, 2D navigation, reward −distance²", "§5.3", by_maml, Walk(reward="squared", stop="radius")),
    ("first-order", "first-order MAML, 2D navigation", "§5.2", by_maml, Walk(first_order=True)),
    ("low-variance", "MAML with low-variance curvature inside", "§5.3", by_maml, Walk(estimator="ratio")),
    ("dice", "MAML with Loaded DiCE inside, without bias", "§5.3", by_maml, Walk(estimator="dice")),
    ("promp", "ProMP, 2D navigation", "§5.3", by_maml, Walk(estimator="ratio", outer="promp")),
    ("pretrained", "pretraining on all tasks", "Figure 4", by_pretraining, Walk()),
    ("random", "random weights", "Figure 4", by_chance, Walk(iterations=0, nonlinearity="tanh")),
    ("oracle", "oracle, told the goal", "Figure 4", by_oracle, Walk(test_steps=0)),
    ("context", "context vector", "Table 4", by_context, Walk()),
)

EXPERIMENTS = tuple(
    Experiment(
        name="maml/navigation" + (f"@{variant}" if variant else ""),
        title=title,
        source=SOURCE + where,
        follows=RELEASE if variant == "release" else FOLLOWS,
        claims={"2D navigation": CLAIMS[variant]} if variant in CLAIMS else {},
        settings=replace(settings),
        build=on_the_plane(build),
        metric=RETURN,
        cost="2 min" if variant == "random" else "5 min" if variant == "release" else "15 min",
    )
    for variant, title, where, build, settings in METHODS
)
