"""Sine waves: regress y from x after a few points of one wave."""

from dataclasses import dataclass
from math import pi
from typing import Literal

import torch
from torch import Tensor

from innerloop.errors import InputError
from innerloop.learner import Task
from innerloop.tasks.curves import Curves, Range, noisy, uniform
from innerloop.tasks.source import generator_of


@dataclass(frozen=True)
class Sinusoids(Curves):
    """y = A sin(ω x − φ) + ε, with A, ω, φ uniform in their ranges for each task.

    Args:
        shots, queries: support points K and query points of a task.
        x, support_x: ranges of all inputs, and of the support's where it differs.
        noise, query_noise: standard deviation of ε, and on the query where it differs.
        seed: any whole number.
        amplitude, phase, frequency: ranges of A, φ (radians) and ω (radians per unit of x).
        test_amplitude, test_phase, test_frequency: ranges of the ``test`` split where they differ.
        sign: ``minus`` for φ as in MAML's code, ``plus`` for + φ as in L2F's paper.
        identity: append A, φ (and ω where it varies) to every x, for an oracle.

    >>> task = Sinusoids(shots=10).draw("train", first=0, count=25)
    >>> task.support[0].shape  # [tasks, points, 1]
    torch.Size([25, 10, 1])

    The wave of task *i* does not depend on how many points are asked for.

    Source: Finn et al. 2017, arXiv:1703.03400, §5.1; frequency: Baik et al. 2020 (L2F), §4.2.
    """

    amplitude: Range = (0.1, 5.0)
    phase: Range = (0.0, pi)
    frequency: Range = (1.0, 1.0)
    test_amplitude: Range | None = None
    test_phase: Range | None = None
    test_frequency: Range | None = None
    sign: Literal["minus", "plus"] = "minus"
    identity: bool = False

    RANGES = (*Curves.RANGES, "amplitude", "phase", "frequency", "test_amplitude", "test_phase", "test_frequency")
    COEFFICIENTS = ("amplitude", "phase", "frequency")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.sign not in ("minus", "plus"):
            raise InputError(f"sign is {self.sign!r}; it must be 'minus' or 'plus'")

    def curve(self, drawn: Tensor, x: Tensor) -> Tensor:
        amplitude, phase, frequency = drawn.unsqueeze(-2).unbind(-1)
        return amplitude * torch.sin(frequency * x + (phase if self.sign == "plus" else -phase))

    def ranges(self, split: str) -> tuple[Range, ...]:
        own = (self.amplitude, self.phase, self.frequency)
        if split != "test":
            return own
        other = (self.test_amplitude, self.test_phase, self.test_frequency)
        return tuple(a if b is None else b for a, b in zip(own, other, strict=True))

    def known(self, drawn: Tensor) -> Tensor | None:
        if not self.identity:
            return None
        varies = len({*self.frequency, *(self.test_frequency or self.frequency)}) > 1
        return drawn if varies else drawn[:, :2]


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
        wave = self.source.coefficients("train", 0, self.waves)
        drawn = [self._points(wave, generator_of(self.seed, split, i, "fresh")) for i in range(first, first + count)]
        pairs = torch.stack([x for x, _ in drawn]), torch.stack([y for _, y in drawn])
        return Task(pairs, pairs)

    def _points(self, wave: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        x = uniform(generator, self.source.x, self.waves, self.points)
        return x.unsqueeze(-1), noisy(self.source.curve(wave, x), self.source.noise, generator).unsqueeze(-1)
