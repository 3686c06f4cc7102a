"""Reinforcement learning: worlds, policies, rollouts, the losses of a policy, and training one by trust regions."""

from importlib import import_module
from typing import Any

from innerloop.rl.evaluate import evaluate_policy
from innerloop.rl.families import Drifting, FamilyExperience, Rectangles
from innerloop.rl.losses import clipped, e_maml, judged, loaded_dice, promp, ratio, score, summing
from innerloop.rl.policies import Categorical, CategoricalPolicy, Gaussian, GaussianPolicy, gaussian_mlp
from innerloop.rl.returns import Returns, discounted
from innerloop.rl.rollouts import Experience, Rollouts, collect, total
from innerloop.rl.train import train_policy
from innerloop.rl.trust import trpo
from innerloop.rl.worlds import Navigation, Told, World

__all__ = [
    "Categorical",
    "CategoricalPolicy",
    "Drifting",
    "Experience",
    "FamilyExperience",
    "Gaussian",
    "GaussianPolicy",
    "Navigation",
    "Rectangles",
    "Returns",
    "Rollouts",
    "Told",
    "World",
    "clipped",
    "collect",
    "discounted",
    "e_maml",
    "evaluate_policy",
    "gaussian_mlp",
    "judged",
    "loaded_dice",
    "promp",
    "ratio",
    "score",
    "summing",
    "total",
    "train_policy",
    "trpo",
]


def __getattr__(name: str) -> Any:
    """``rl.gym`` and ``rl.locomotion``, which need gymnasium, when they are asked for."""
    if name in ("gym", "locomotion"):
        return import_module(f"innerloop.rl.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
