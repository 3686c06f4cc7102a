"""N-way K-shot classification of fixed vectors, such as a trained network's embeddings of images."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import numpy
import torch
from torch import Tensor
from torch.nn import functional

from innerloop.batches import onto
from innerloop.errors import InputError, nearest
from innerloop.images.decode import file, unpacked
from innerloop.images.pickles import unpickled
from innerloop.images.splits import PARTS
from innerloop.learner import Task
from innerloop.tasks.images import BLOCK, Turns, chosen, shown_and_asked
from innerloop.tasks.source import from_blocks


@dataclass(frozen=True, eq=False)
class VectorTasks:
    """Tasks of N classes with K support and Q query vectors each, no vector in both; y is 0 … N − 1, drawn anew for each task.

    Args:
        x: vectors ``[n, features]``.
        y: numbers of their classes ``[n]``, 0 or more.
        classes: numbers of the classes by split.
        ways, shots, queries: N, K and Q.
        seed: any whole number.

    >>> x, y = torch.randn(40, 8), torch.arange(40) % 4
    >>> task = VectorTasks(x, y, {"train": [0, 1, 3]}, ways=3, shots=1, queries=2).draw("train", first=0, count=5)
    >>> task.support[0].shape, task.query[1].shape
    (torch.Size([5, 3, 8]), torch.Size([5, 6]))

    Raises:
        InputError: a split has fewer than N classes, or one of its classes fewer than K + Q vectors.
    """

    x: Tensor
    y: Tensor
    classes: Mapping[str, Sequence[int]]
    ways: int = 5
    shots: int = 1
    queries: int = 15
    seed: int = 0

    turns: Turns = "none"

    def __post_init__(self) -> None:
        if min(self.ways, self.shots, self.queries) < 1:
            raise InputError(f"a task has {self.ways} ways, {self.shots} shots and {self.queries} queries; it needs at least one of each")
        if self.x.ndim != 2 or self.y.shape != self.x.shape[:1]:
            raise InputError(f"x is {list(self.x.shape)} and y {list(self.y.shape)}; give vectors [n, features] and a class for each")
        counts = torch.bincount(self.y)
        for split, classes in self.classes.items():
            if len(classes) < self.ways:
                raise InputError(f"{self.ways} ways need as many classes, and {split!r} has {len(classes)}; ask for fewer ways")
            few = min(classes, key=lambda k: int(counts[k]) if k < len(counts) else 0)
            there = int(counts[few]) if few < len(counts) else 0
            if there < self.shots + self.queries:
                raise InputError(
                    f"class {few} in {split!r} has {there} vectors, and {self.shots} shots and {self.queries} queries need "
                    f"{self.shots + self.queries}; ask for fewer or leave the class out"
                )

    def draw(self, split: str, first: int, count: int) -> Task:
        """Tasks ``first`` … ``first + count − 1`` of a split, stacked."""
        if split not in self.classes:
            raise InputError(f"the vectors have no split {split!r}; {nearest(split, self.classes)}")
        which, _ = from_blocks(lambda b: chosen(self, split, b), BLOCK, first, count)
        return shown_and_asked(self.x[onto(self._order[which], self.x.device)], self.shots)

    def on(self, device: str) -> Self:
        """The same tasks, gathered on a device."""
        return replace(self, x=self.x.to(device))

    @cached_property
    def numbers(self) -> dict[str, Tensor]:
        """Classes of each split, and of all classes the ``counts`` of vectors and their ``starts`` in the order of classes."""
        counts = torch.bincount(self.y.cpu())
        lists = {split: torch.tensor(list(classes)) for split, classes in self.classes.items()}
        return {**lists, "counts": counts, "starts": counts.cumsum(0) - counts}

    @cached_property
    def _order(self) -> Tensor:
        return self.y.cpu().argsort(stable=True)

    def __repr__(self) -> str:
        return f"VectorTasks({list(self.x.shape)}, {self.ways}-way {self.shots}-shot, {self.queries} queries, seed={self.seed})"


def read_vectors(paths: Sequence[str | Path], unit: bool = True) -> tuple[Tensor, Tensor, dict[str, list[int]]]:
    """Vectors, class numbers and classes by split, of files.

    Either LEO's ``train_embeddings.pkl``, ``val_embeddings.pkl`` and ``test_embeddings.pkl``, with ``embeddings`` and ``keys``
    such as ``17-n0153282900-n0153282900_5.jpg``; or one ``.npz`` with ``x [n, features]``, ``y [n]`` and ``split [n]``, each
    ``train``, ``val`` or ``test``.

    Args:
        unit: make every vector of length 1, as LEO's are.

    Raises:
        InputError: a file is missing, damaged or of another layout, or a class is in two splits.
    """
    files = [file(path) for path in paths]
    if not files:
        raise InputError("no file of embeddings was named; give LEO's three .pkl files, or one .npz with x, y and split")
    parts: list[tuple[Any, list[str], list[str]]] = []
    for path in files:
        if path.suffix == ".npz":
            held = unpacked(path)
            if missing := {"x", "y", "split"} - held.keys():
                raise InputError(f"{path} has no {min(missing)} but {', '.join(held) or 'nothing'}; give x, y and split")
            parts.append((held["x"], [str(y) for y in held["y"].tolist()], [str(s) for s in held["split"].tolist()]))
        else:
            part = next((name for name in PARTS if path.name.startswith(name)), None)
            held = unpickled(path)
            if part is None or not isinstance(held, dict) or not {"embeddings", "keys"} <= held.keys():
                raise InputError(f"{path} is none of LEO's files; give train_, val_ and test_embeddings.pkl, each with embeddings and keys")
            keys = [str(key).split("-") for key in held["keys"]]
            parts.append((held["embeddings"], [key[1] if len(key) > 1 else key[0] for key in keys], [part] * len(keys)))
    labels, splits = [y for _, own, _ in parts for y in own], [s for _, _, own in parts for s in own]
    vectors = [numpy.asarray(own, dtype=numpy.float32) for own, _, _ in parts]
    if any(v.ndim != 2 or len(v) != len(own) for v, (_, own, _) in zip(vectors, parts, strict=True)) or len(labels) != len(splits):
        shapes = ", ".join(str(list(v.shape)) for v in vectors)
        raise InputError(f"there are vectors of shapes {shapes}, {len(labels)} labels and {len(splits)} splits; give one of each for each")
    names = sorted(set(labels))
    number = {name: k for k, name in enumerate(names)}
    classes: dict[str, set[str]] = {part: {y for y, s in zip(labels, splits, strict=True) if s == part} for part in PARTS}
    if twice := [y for y in names if sum(y in of for of in classes.values()) != 1]:
        raise InputError(f"class {twice[0]!r} is not in exactly one of {', '.join(PARTS)}; name one split for each class")
    x = torch.from_numpy(numpy.concatenate(vectors))
    y = torch.tensor([number[label] for label in labels])
    return functional.normalize(x) if unit else x, y, {part: sorted(number[y] for y in of) for part, of in classes.items() if of}
