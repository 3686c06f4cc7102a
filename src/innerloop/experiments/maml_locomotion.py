"""Finn et al. 2017 (MAML), §5.3 and App. C.2: half-cheetah and ant."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from innerloop.experiments.experiment import Experiment
from innerloop.experiments.maml_navigation import SOURCE
from innerloop.experiments.practice import RETURN, PolicyTrial, Practice, by_chance, by_context, by_maml, by_oracle, by_pretraining
from innerloop.rl import World


@dataclass(frozen=True)
class Run(Practice):
    """Options of locomotion."""

    meta_batch: int = 40
    test_trajectories: int = 20
    horizon: int = 200
    robot: str = "cheetah"
    """cheetah or ant"""
    goal: str = "direction"
    """direction or velocity"""
    dynamics: str = "rllab"
    """rllab, the papers', or v5, gymnasium's of today: their returns cannot be compared"""


def ground(settings: Run, seed: int) -> World:
    """The world of a robot.

    Raises:
        InputError: gymnasium or MuJoCo is missing, or robot, goal or dynamics are not known.
    """
    from innerloop.rl.locomotion import locomotion

    named: tuple[Any, Any, Any] = (settings.robot, settings.goal, settings.dynamics)
    return locomotion(*named, settings.horizon, seed)


def on_the_ground(build: Callable[..., PolicyTrial]) -> Callable[[Run], PolicyTrial]:
    """A trial of a method, trained on tasks of its seed and scored on those that are the same for all."""

    def of(settings: Run) -> PolicyTrial:
        return build(settings, ground(settings, settings.seed), {f"{settings.robot}, {settings.goal}": ground(settings, 0)})

    return of


PRINTED: Mapping[str, Mapping[str, Mapping[int, float]]] = {
    "cheetah-direction": {
        "": {0: -50.69, 1: 293.19, 2: 313.48, 3: 315.65},
        "pretrained": {0: -43.03, 1: -24.75, 2: -12.85, 3: 19.57},
        "random": {0: -35.73, 1: 21.83, 2: 62.32, 3: 86.18},
        "oracle": {0: 442.69},
        "context": {0: -40.49, 1: -44.08, 2: -38.27, 3: -42.50},
    },
    "cheetah-velocity": {
        "": {0: -129.53, 1: -78.57, 2: -66.62, 3: -60.78},
        "pretrained": {0: -158.00, 1: -135.39, 2: -128.47, 3: -133.61},
        "random": {0: -254.83, 3: -230.83},
        "oracle": {0: -54.47},
    },
    "ant-velocity": {
        "": {0: 30.58, 1: 96.74, 2: 100.06, 3: 101.41},
        "pretrained": {0: -1.83, 1: 6.11, 2: 8.47, 3: 9.47},
        "random": {0: -78.64, 1: -62.81, 2: -48.55, 3: -35.56},
        "oracle": {0: 107.89},
    },
    "ant-direction": {
        "": {0: 8.66, 1: 499.15, 2: 500.68, 3: 499.11},
        "pretrained": {0: 3.16, 1: 1.27, 2: 6.51, 3: 6.86},
        "random": {0: 3.11, 1: 9.25, 2: 15.96, 3: 26.11},
        "oracle": {0: 524.80},
    },
}
"""Returns after 0, 1, 2, 3 steps by method: Table 5 and the released curves of Figure 5."""

OWN: Mapping[str, Run] = {
    "cheetah-direction": Run(iterations=100, limit=0.02),
    "cheetah-velocity": Run(goal="velocity", trajectories=10),
    "ant-velocity": Run(robot="ant", goal="velocity"),
    "ant-direction": Run(robot="ant", trajectories=40, test_trajectories=40, iterations=600, later=0.01),
}
"""What the evaluated runs of the released code were made with, where that is not the paper's text."""

COST = {"cheetah-direction": "25 min", "cheetah-velocity": "90 min", "ant-velocity": "6 h", "ant-direction": "12 h"}

METHODS = {
    "": ("MAML", by_maml),
    "pretrained": ("pretraining on all tasks", by_pretraining),
    "random": ("random weights", by_chance),
    "oracle": ("oracle, told the goal", by_oracle),
    "context": ("context vector", by_context),
    "tanh": ("MAML, tanh in place of ReLU", by_maml),
}

CHANGES: Mapping[str, dict[str, Any]] = {
    "random": {"iterations": 0},
    "oracle": {"test_steps": 0},
    "tanh": {"nonlinearity": "tanh"},
}

FOLLOWS = {
    "rllab": "released code: rllab's time step, observations, rewards and velocity, numbers of rollouts and iterations of the evaluated "
    "runs; its contact forces are those of today's MuJoCo; ours: curvature on a quarter of the rollouts, above 20,000 steps",
    "v5": "ours: gymnasium's models and costs of today, tanh in the policy, the paper's settings otherwise; not to be compared with the "
    "paper's returns",
}
OF_TODAY = {"dynamics": "v5", "nonlinearity": "tanh"}


def _experiments() -> Iterator[Experiment]:
    for cell, own in OWN.items():
        for dynamics in ("v5", "rllab"):
            for variant, (title, build) in METHODS.items():
                if dynamics == "v5" and variant not in ("", "oracle"):
                    continue
                claim = PRINTED[cell].get("" if variant == "tanh" else variant) if dynamics == "rllab" else None
                at = "-".join(filter(None, (dynamics if dynamics == "rllab" else "", variant)))
                yield Experiment(
                    name=f"maml/{cell}" + (f"@{at}" if at else ""),
                    title=f"{title}, {own.robot}, {own.goal}",
                    source=SOURCE + "Figure 5, Table 5",
                    follows=FOLLOWS[dynamics],
                    claims={f"{own.robot}, {own.goal}": claim} if claim else {},
                    settings=replace(own, **(OF_TODAY if dynamics == "v5" else {}), **CHANGES.get(variant, {})),
                    build=on_the_ground(build),
                    metric=RETURN,
                    cost="5 min" if variant == "random" else COST[cell],
                    needs=("mujoco",),
                )


EXPERIMENTS = tuple(_experiments())
