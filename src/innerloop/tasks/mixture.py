"""Tasks of several kinds: a mixture of sources, whose modes a learner is not told."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import NamedTuple, Self

import torch
from torch import Tensor

from innerloop.batches import join, map_tensors, onto
from innerloop.errors import InputError, nearest
from innerloop.learner import Batch, Task
from innerloop.tasks.curves import Curves
from innerloop.tasks.source import Source, most_together, named_source, on


class Told(NamedTuple):
    """A batch, and the number of the mode that it is of: for an oracle alone."""

    batch: Batch
    mode: Tensor


@dataclass(frozen=True, eq=False)
class Mixture:
    """Tasks of each source in turn: a round has ``shares[m]`` tasks of source m, so every meta-batch of whole rounds has the same parts.

    Args:
        sources: by the name of the mode; their tasks have the same shapes. Each is drawn from
            by its own seed, task by task, so that none is left out.
        shares: tasks of each source in a round, by default 1; 0 for none of it, while modes keep their numbers.
        told: give the mode with the support, as ``Told``: for ``multi_maml``.

    >>> from innerloop.tasks import Lines, Sinusoids
    >>> both = Mixture({"waves": Sinusoids(5), "lines": Lines(5)})
    >>> both.draw("train", first=0, count=50).support[0].shape
    torch.Size([50, 5, 1])
    >>> both.modes(0, 4)
    tensor([0, 1, 0, 1])

    Raises:
        InputError: there is no source, shares do not fit, two are curves of one kind and seed, or the sources' tasks differ in shape.

    Source: Vuorio et al. 2018, arXiv:1812.07172 (MuMoMAML), §5.1; equal parts in each meta-batch: its released code.
    """

    sources: Mapping[str, Source]
    shares: Sequence[int] = ()
    told: bool = False

    def __post_init__(self) -> None:
        if not self.sources or (self.shares and (len(self.shares) != len(self.sources) or min(self.shares) < 0 or not sum(self.shares))):
            raise InputError(
                f"there are {len(self.sources)} sources with shares {list(self.shares)}; give one source or more, and a whole share for "
                "each or none, not all of them 0"
            )
        drawn: dict[tuple[type, int], str] = {}
        for name, source in self.sources.items():
            if isinstance(source, Curves) and (twin := drawn.setdefault((type(source), source.seed), name)) != name:
                kind = type(source).__name__
                raise InputError(
                    f"{twin} and {name} are both {kind} of seed {source.seed}, so that their tasks would be at the same points, twin by "
                    f"twin; give one of them another seed, as in {kind}(seed={source.seed + 1})"
                )

    @property
    def seed(self) -> int:
        return next(iter(self.sources.values())).seed

    @property
    def together(self) -> int | None:
        """How many tasks can be stacked, where a source limits it."""
        return min(filter(None, map(most_together, self.sources.values())), default=None)

    @cached_property
    def _round(self) -> Tensor:
        return torch.arange(len(self.sources)).repeat_interleave(torch.tensor(self.shares or [1] * len(self.sources)))

    def modes(self, first: int, count: int) -> Tensor:
        """Number of each task's source, ``[tasks]``, of any split."""
        return self._round[torch.arange(first, first + count) % len(self._round)]

    def draw(self, split: str, first: int, count: int) -> Task:
        """Tasks ``first`` … ``first + count − 1`` of a split, stacked."""
        modes, before = self.modes(first, count), self._counts(first)
        parts = {
            name: source.draw(split, int(before[m]), n)
            for m, (name, source) in enumerate(self.sources.items())
            if (n := int((modes == m).sum()))
        }
        try:
            drawn = join(list(parts.values()))
        except (RuntimeError, KeyError, ValueError) as problem:
            raise InputError(f"the tasks of {' and '.join(parts)} differ in shape; make them alike to mix them: {problem}") from problem
        order = modes.argsort(stable=True).argsort()  # from source by source to task by task
        mixed = map_tensors(lambda t: t[onto(order, t.device)], drawn)
        return mixed._replace(support=Told(mixed.support, modes)) if self.told else mixed

    def alone(self, mode: str) -> Self:
        """The tasks of one source; modes keep their numbers.

        Raises:
            InputError: there is no such mode.
        """
        if mode not in self.sources:
            raise InputError(f"there is no mode {mode!r}; {nearest(mode, self.sources)}")
        return replace(self, shares=[int(name == mode) for name in self.sources])

    def on(self, device: str) -> Self:
        """The same tasks, made on a device."""
        return replace(self, sources={name: on(source, device) for name, source in self.sources.items()})

    def _counts(self, first: int) -> Tensor:
        """How many tasks of each source come before one."""
        rounds, rest = divmod(first, len(self._round))
        m = len(self.sources)
        return rounds * self._round.bincount(minlength=m) + self._round[:rest].bincount(minlength=m)

    def __repr__(self) -> str:
        shares = f", shares={list(self.shares)}" if self.shares else ""
        return f"Mixture({', '.join(f'{name}={named_source(source)}' for name, source in self.sources.items())}{shares})"
