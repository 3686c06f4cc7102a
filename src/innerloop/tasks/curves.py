"""Curves y = f(x; c): regress y from x after a few points of one curve."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import lru_cache
from typing import ClassVar

import torch
from torch import Tensor

from innerloop.errors import InputError
from innerloop.learner import Task
from innerloop.tasks.source import from_blocks, generator_of

Range = tuple[float, float]

BLOCK = 1024  # tasks made at once, so that drawing a meta-batch is four slices


@dataclass(frozen=True)
class Curves(ABC):
    """y = f(x; c) + ε, with coefficients c uniform in their ranges for each task.

    Args:
        shots: support points K of a task.
        queries: query points of a task.
        x: range of all inputs.
        support_x: range of the support's inputs where it differs, such as one half of ``x``.
        noise: standard deviation of ε, on support and query alike.
        query_noise: that of the query where it differs; 0 for clean targets.
        seed: any whole number.

    The curve of task *i* does not depend on how many points are asked for.
    """

    shots: int = 10
    queries: int = 10
    x: Range = (-5.0, 5.0)
    support_x: Range | None = None
    noise: float = 0.0
    query_noise: float | None = None
    seed: int = 0

    RANGES: ClassVar[tuple[str, ...]] = ("x", "support_x")
    """Fields that must be a pair, the lower end first."""
    COEFFICIENTS: ClassVar[tuple[str, ...]] = ()
    """Names of the coefficients, in their order."""
    KEY: ClassVar[str] = ""
    """Of its random streams, so that sources of one seed share nothing."""

    def __post_init__(self) -> None:
        if self.shots < 1 or self.queries < 1:
            raise InputError(f"a task has {self.shots} shots and {self.queries} queries; it needs at least one of each")
        for name in self.RANGES:
            value = getattr(self, name)
            if value is not None and not (isinstance(value, tuple) and len(value) == 2 and value[0] <= value[1]):
                raise InputError(f"{name} is {value}; give a pair (low, high), the lower end first")
        if self.noise < 0 or (self.query_noise or 0) < 0:
            raise InputError(f"noise is {self.noise} and that of the query {self.query_noise}; a deviation must be 0 or more")

    @abstractmethod
    def curve(self, drawn: Tensor, x: Tensor) -> Tensor:
        """y without noise at x ``[…, points]`` of coefficients ``[…, c]``."""

    @abstractmethod
    def ranges(self, split: str) -> tuple[Range, ...]:
        """Those of the coefficients."""

    def known(self, drawn: Tensor) -> Tensor | None:
        """What every x is told of its curve, ``[tasks, told]``: nothing, but to an oracle."""
        return None

    def draw(self, split: str, first: int, count: int) -> Task:
        """Tasks ``first`` … ``first + count − 1`` of a split, stacked."""
        return from_blocks(lambda b: _block(self, split, b), BLOCK, first, count)

    def coefficients(self, split: str, first: int, count: int) -> Tensor:
        """Those of the same tasks, ``[tasks, c]``."""
        return from_blocks(lambda b: _drawn(self, split, b), BLOCK, first, count)


@dataclass(frozen=True)
class Lines(Curves):
    """y = a x + b + ε.

    Args:
        slope, intercept: ranges of a and b.

    >>> Lines(shots=5).draw("train", first=0, count=25).support[0].shape  # [tasks, points, 1]
    torch.Size([25, 5, 1])

    Source: Vuorio et al. 2018, arXiv:1812.07172 (MuMoMAML), App. A.1.
    """

    slope: Range = (-3.0, 3.0)
    intercept: Range = (-3.0, 3.0)

    RANGES = (*Curves.RANGES, "slope", "intercept")
    COEFFICIENTS = ("slope", "intercept")
    KEY = "lines "

    def curve(self, drawn: Tensor, x: Tensor) -> Tensor:
        a, b = drawn.unsqueeze(-2).unbind(-1)
        return a * x + b

    def ranges(self, split: str) -> tuple[Range, ...]:
        return self.slope, self.intercept


@dataclass(frozen=True)
class Parabolas(Curves):
    """y = ±a (x − c)² + b + ε, either sign equally often.

    Args:
        width, centre, height: ranges of a, c and b.

    >>> Parabolas(shots=5).draw("train", first=0, count=25).support[0].shape  # [tasks, points, 1]
    torch.Size([25, 5, 1])

    Source: Vuorio et al. 2018, arXiv:1812.07172 (MuMoMAML), App. A.1.
    """

    width: Range = (0.02, 0.15)
    centre: Range = (-3.0, 3.0)
    height: Range = (-3.0, 3.0)

    RANGES = (*Curves.RANGES, "width", "centre", "height")
    COEFFICIENTS = ("width", "centre", "height", "sign")
    KEY = "parabolas "

    def curve(self, drawn: Tensor, x: Tensor) -> Tensor:
        a, c, b, sign = drawn.unsqueeze(-2).unbind(-1)
        return sign.sign() * a * (x - c) ** 2 + b

    def ranges(self, split: str) -> tuple[Range, ...]:
        return self.width, self.centre, self.height, (-1.0, 1.0)


def uniform(generator: torch.Generator, bounds: Range, *shape: int) -> Tensor:
    """Numbers between two bounds."""
    low, high = bounds
    return low + (high - low) * torch.rand(shape, generator=generator)


def noisy(y: Tensor, noise: float, generator: torch.Generator) -> Tensor:
    """y + ε with ε ~ N(0, noise²)."""
    return y + noise * torch.randn(y.shape, generator=generator) if noise else y


@lru_cache(maxsize=64)
def _drawn(source: Curves, split: str, block: int) -> Tensor:
    g = generator_of(source.seed, split, block, source.KEY + "waves")
    return torch.stack([uniform(g, bounds, BLOCK) for bounds in source.ranges(split)], dim=1)


@lru_cache(maxsize=16)
def _block(source: Curves, split: str, block: int) -> Task:
    drawn = _drawn(source, split, block)
    told = source.known(drawn)

    def points(part: str, n: int, bounds: Range, noise: float) -> tuple[Tensor, Tensor]:
        g = generator_of(source.seed, split, block, source.KEY + part)
        x = uniform(g, bounds, BLOCK, n)
        y = noisy(source.curve(drawn, x), noise, g)
        x = x.unsqueeze(-1)
        if told is not None:
            x = torch.cat([x, told.unsqueeze(1).expand(-1, n, -1)], dim=-1)
        return x, y.unsqueeze(-1)

    return Task(
        points("support", source.shots, source.support_x or source.x, source.noise),
        points("query", source.queries, source.x, source.noise if source.query_noise is None else source.query_noise),
    )
