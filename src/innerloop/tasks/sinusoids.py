"""Sine waves: regress y from x after a few points of one wave."""

from dataclasses import dataclass
from functools import lru_cache
from math import pi
from typing import Literal

import torch
from torch import Tensor

from innerloop.errors import InputError
from innerloop.learner import Task
from innerloop.tasks.source import from_blocks, generator_of

Range = tuple[float, float]

RANGES = ("amplitude", "phase", "frequency", "test_amplitude", "test_phase", "test_frequency", "x", "support_x")

BLOCK = 1024  # tasks made at once, so that drawing a meta-batch is four slices


@dataclass(frozen=True)
class Sinusoids:
    """y = A sin(ω x − φ) + ε, with A, ω, φ uniform in their ranges for each task.

    Args:
        shots: support points K of a task.
        queries: query points of a task.
        amplitude, phase, frequency: ranges of A, φ (radians) and ω (radians per unit of x).
        test_amplitude, test_phase, test_frequency: ranges of the ``test`` split where they differ.
        x: range of all inputs.
        support_x: range of the support's inputs where it differs, such as one half of ``x``.
        noise: standard deviation of ε, on support and query alike.
        sign: ``minus`` for φ as in MAML's code, ``plus`` for + φ as in L2F's paper.
        identity: append A, φ (and ω where it varies) to every x, for an oracle.
        seed: any whole number.

    >>> task = Sinusoids(shots=10).draw("train", first=0, count=25)
    >>> task.support[0].shape  # [tasks, points, 1]
    torch.Size([25, 10, 1])

    The wave of task *i* does not depend on how many points are asked for.

    Source: Finn et al. 2017, arXiv:1703.03400, §5.1; frequency: Baik et al. 2020 (L2F), §4.2.
    """

    shots: int = 10
    queries: int = 10
    amplitude: Range = (0.1, 5.0)
    phase: Range = (0.0, pi)
    frequency: Range = (1.0, 1.0)
    test_amplitude: Range | None = None
    test_phase: Range | None = None
    test_frequency: Range | None = None
    x: Range = (-5.0, 5.0)
    support_x: Range | None = None
    noise: float = 0.0
    sign: Literal["minus", "plus"] = "minus"
    identity: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        if self.shots < 1 or self.queries < 1:
            raise InputError(f"a task has {self.shots} shots and {self.queries} queries; it needs at least one of each")
        for name in RANGES:
            value = getattr(self, name)
            if value is not None and not (isinstance(value, tuple) and len(value) == 2 and value[0] <= value[1]):
                raise InputError(f"{name} is {value}; give a pair (low, high), the lower end first")
        if self.noise < 0 or self.sign not in ("minus", "plus"):
            raise InputError(f"noise is {self.noise} and sign {self.sign!r}; noise must be 0 or more, sign 'minus' or 'plus'")

    def draw(self, split: str, first: int, count: int) -> Task:
        """Tasks ``first`` … ``first + count − 1`` of a split, stacked."""
        return from_blocks(lambda b: _block(self, split, b), BLOCK, first, count)

    def waves(self, split: str, first: int, count: int) -> Tensor:
        """A, φ and ω of the same tasks, ``[tasks, 3]``."""
        return torch.cat([_waves(self, split, b) for b in range((first + count - 1) // BLOCK + 1)])[first : first + count]

    def curve(self, wave: Tensor, x: Tensor) -> Tensor:
        """y without noise at x ``[…, points]`` of waves ``[…, 3]``."""
        amplitude, phase, frequency = wave.unsqueeze(-2).unbind(-1)
        return amplitude * torch.sin(frequency * x + (phase if self.sign == "plus" else -phase))


def _uniform(generator: torch.Generator, bounds: Range, *shape: int) -> Tensor:
    low, high = bounds
    return low + (high - low) * torch.rand(shape, generator=generator)


def _noisy(source: Sinusoids, y: Tensor, generator: torch.Generator) -> Tensor:
    return y + source.noise * torch.randn(y.shape, generator=generator) if source.noise else y


@lru_cache(maxsize=64)
def _waves(source: Sinusoids, split: str, block: int) -> Tensor:
    g = generator_of(source.seed, split, block, "waves")
    own = (source.amplitude, source.phase, source.frequency)
    if split == "test":
        other = (source.test_amplitude, source.test_phase, source.test_frequency)
        own = tuple(a if b is None else b for a, b in zip(own, other, strict=True))
    return torch.stack([_uniform(g, bounds, BLOCK) for bounds in own], dim=1)


@lru_cache(maxsize=16)
def _block(source: Sinusoids, split: str, block: int) -> Task:
    wave = _waves(source, split, block)

    def points(part: str, n: int, bounds: Range) -> tuple[Tensor, Tensor]:
        g = generator_of(source.seed, split, block, part)
        x = _uniform(g, bounds, BLOCK, n)
        y = _noisy(source, source.curve(wave, x), g)
        x = x.unsqueeze(-1)
        if source.identity:
            varies = len({*source.frequency, *(source.test_frequency or source.frequency)}) > 1
            known = wave if varies else wave[:, :2]
            x = torch.cat([x, known.unsqueeze(1).expand(-1, n, -1)], dim=-1)
        return x, y.unsqueeze(-1)

    return Task(points("support", source.shots, source.support_x or source.x), points("query", source.queries, source.x))


@dataclass(frozen=True)
class FreshPoints:
    """The first waves of a source's ``train`` split all together as one task, new points at each draw.

    The query is ``(x, y)`` of shape ``[waves, points, 1]``, for ``methods.independent``.
    """

    source: Sinusoids
    waves: int = 500
    points: int = 50

    @property
    def seed(self) -> int:
        return self.source.seed

    def draw(self, split: str, first: int, count: int) -> Task:
        """Draws ``first`` … of a split, stacked."""
        wave = self.source.waves("train", 0, self.waves)
        drawn = [self._points(wave, generator_of(self.seed, split, i, "fresh")) for i in range(first, first + count)]
        pairs = torch.stack([x for x, _ in drawn]), torch.stack([y for _, y in drawn])
        return Task(pairs, pairs)

    def _points(self, wave: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        x = _uniform(generator, self.source.x, self.waves, self.points)
        return x.unsqueeze(-1), _noisy(self.source, self.source.curve(wave, x), generator).unsqueeze(-1)
