"""Vuorio et al. 2018 (MuMoMAML), §5.3 and App. A.3: navigation to goals of two Gaussians."""

from collections.abc import Callable
from dataclasses import dataclass, replace

from innerloop.experiments.experiment import Experiment
from innerloop.experiments.l2f_rl import by_mumomaml
from innerloop.experiments.maml_navigation import Walk, plane
from innerloop.experiments.practice import RETURN, PolicyTrial, by_maml
from innerloop.rl import Navigation


@dataclass(frozen=True)
class Bimodal(Walk):
    """Options of bimodal navigation, App. A.3."""

    rate: float = 0.01
    later: float = 1.0
    test_trajectories: int = 20
    hidden: tuple[int, ...] = (32, 32)
    stop: str = "radius"  # type: ignore[assignment]
    spread: float = 0.5
    """deviation of each Gaussian of goals, around (½, ½) and (−½, −½)"""


def bimodal(settings: Bimodal, seed: int) -> Navigation:
    """The world of two Gaussians."""
    return plane(settings, seed=seed, centres=((0.5, 0.5), (-0.5, -0.5)), spread=settings.spread)


def _walk(build: Callable[..., PolicyTrial]) -> Callable[[Bimodal], PolicyTrial]:
    return lambda settings: build(settings, bimodal(settings, settings.seed), {"two Gaussians": bimodal(settings, 0)})


FOLLOWS = (
    "paper, App. A.3: GRU of 8 units over one trajectory, two layers of 32, rates and discounts of its search; reward −distance as in its "
    "§5.3 (App. A.3 has the square); where it is silent: MAML's released code, 500 iterations; ours: linear heads, as in its released code "
    "of regression, where the paper has an MLP"
)
EXPERIMENTS = tuple(
    Experiment(
        name="mumomaml/navigation" + at,
        title=f"{title}, goals of two Gaussians",
        source="Vuorio et al. 2018, arXiv:1812.07172, §5.3, Figure 5(a)",
        follows=FOLLOWS,
        claims={},
        settings=settings,
        build=_walk(build),
        metric=RETURN,
        engine=engine,
        cost=cost,
    )
    for at, title, build, settings, engine, cost in (
        ("", "MuMoMAML", by_mumomaml, Bimodal(), "vmap", "60 min"),
        ("@maml", "MAML", by_maml, replace(Bimodal(), rate=0.03, discount=0.95), "auto", "10 min"),
    )
)
