"""What a task source is, and one made of a function."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache, wraps
from hashlib import blake2b
from typing import Any, Protocol
from weakref import WeakKeyDictionary

import torch

from innerloop.batches import join, map_tensors, some, stack, tensors
from innerloop.errors import InputError, nearest
from innerloop.learner import Task

SPLITS = ("train", "val", "test")


class Source(Protocol):
    """Tasks by number: the same (seed, split, number) always gives the same task.

    One whose tasks differ in shape says how many of them can be stacked by ``together``, an attribute of its own.
    """

    @property
    def seed(self) -> int: ...

    def draw(self, split: str, first: int, count: int) -> Task:
        """Tasks ``first`` … ``first + count − 1`` of a split, stacked."""
        ...


def check_split(split: str) -> None:
    """Refuse what is no split."""
    if split not in SPLITS:
        raise InputError(f"no split {split!r}; {nearest(split, SPLITS)}")


def most_together(source: Source) -> int | None:
    """How many of a source's tasks can be stacked, where they differ in shape; None for any number."""
    return getattr(source, "together", None)


def on(source: Source, device: str) -> Source:
    """The source with its tasks made on a device, where it can; otherwise itself."""
    move: Callable[[str], Source] | None = getattr(source, "on", None)
    return move(device) if move else source


def named_source(source: Any) -> str:
    """What a source, or a world, calls itself, without addresses in memory, which differ from run to run."""
    silent = type(source).__repr__ is object.__repr__ and type(source).__str__ is object.__str__
    return type(source).__qualname__ if silent else re.sub(" at 0x[0-9a-f]+", "", str(source))


def check_source(tasks: Any) -> None:
    """Refuse what no tasks can be drawn from."""
    if hasattr(tasks, "gather"):
        raise InputError(f"tasks is a {type(tasks).__name__}, of policies; innerloop.rl has train_policy and evaluate_policy for them")
    if not hasattr(tasks, "draw"):
        raise InputError(
            f"tasks is a {type(tasks).__name__} and no source; make one of a function with innerloop.from_function, "
            "or of lists of tasks with innerloop.from_tasks"
        )


def generator_of(*key: object) -> torch.Generator:
    """A generator for a key: equal keys give equal streams, different keys unrelated ones."""
    digest = blake2b("/".join(map(str, key)).encode(), digest_size=8).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest, "big") >> 1)


def from_blocks(block: Callable[[int], Any], size: int, first: int, count: int) -> Any:
    """Tasks ``first`` … of a sequence that is made in blocks of ``size``; ``block(b)`` gives one."""
    parts, number = [], first
    while number < first + count:
        b, offset = divmod(number, size)
        n = min(size - offset, first + count - number)
        parts.append(map_tensors(torch.clone, some(block(b), offset, offset + n)))  # the block is kept for later draws
        number += n
    return join(parts)


KEPT = 16
"""Blocks that are kept of each source."""


def kept(made: Callable[..., Any]) -> Callable[..., Any]:
    """``made(source, …)``, whose last results are kept with the source, and go with it: it may hold a set of images on a GPU."""
    of_each: WeakKeyDictionary[Any, dict[Any, Any]] = WeakKeyDictionary()

    @wraps(made)
    def call(source: Any, *rest: Any) -> Any:
        own = of_each.setdefault(source, {})
        if rest not in own:
            if len(own) == KEPT:
                del own[next(iter(own))]
            own[rest] = made(source, *rest)
        return own[rest]

    return call


@dataclass(frozen=True, repr=False)
class Deferred:
    """A source that is made when the first task is drawn: what it needs may be missing until then."""

    make: Callable[[], Source]

    @cached_property
    def made(self) -> Source:
        return self.make()

    @property
    def seed(self) -> int:
        return self.made.seed

    @property
    def together(self) -> int | None:
        return most_together(self.made)

    def draw(self, split: str, first: int, count: int) -> Task:
        return self.made.draw(split, first, count)

    def on(self, device: str) -> Source:
        return on(self.made, device)

    def __repr__(self) -> str:
        return repr(self.made)


def stacked(tasks: Sequence[Task], split: str, numbers: Sequence[int]) -> Task:
    """Tasks as a batch.

    Raises:
        InputError: they differ in shape, or one holds NaN or infinity.
    """
    try:
        batch = stack(tasks)
    except InputError:
        raise
    except (RuntimeError, ValueError, KeyError) as problem:
        where = f"tasks {numbers[0]} to {numbers[-1]} of {split!r}"
        raise InputError(
            f"{where} differ in shape, so that they cannot be stacked: {problem}; make them alike, or give from_function together=1"
        ) from problem
    for part, content in batch._asdict().items():
        for finite in (t.isfinite().reshape(len(t), -1).all(1) for t in tensors(content)):
            if not finite.all():
                number = numbers[int(finite.int().argmin())]
                raise InputError(f"the {part} of task {number} of {split!r} holds NaN or infinity; clean the data or leave the task out")
    return batch


@dataclass(frozen=True)
class FunctionSource:
    """Tasks that a function makes, one at a time."""

    make: Callable[[torch.Generator], Task]
    test: Callable[[torch.Generator], Task] | None = None
    seed: int = 0
    together: int | None = None

    def draw(self, split: str, first: int, count: int) -> Task:
        make = self.test if self.test and split == "test" else self.make
        tasks = [make(generator_of(self.seed, split, i)) for i in range(first, first + count)]
        if wrong := [task for task in tasks if not isinstance(task, Task)]:
            kind = type(wrong[0]).__name__
            raise InputError(f"the function gives {kind}; return innerloop.Task(support=(x, y), query=(x, y))")
        return stacked(tasks, split, range(first, first + count))

    def __repr__(self) -> str:
        names = ", ".join(getattr(f, "__name__", type(f).__name__) for f in (self.make, self.test) if f)
        return f"from_function({names}, seed={self.seed})"


def from_function(
    make: Callable[[torch.Generator], Task],
    test: Callable[[torch.Generator], Task] | None = None,
    seed: int = 0,
    together: int | None = None,
) -> FunctionSource:
    """A source of tasks from a function that makes one.

    Args:
        make: ``generator → Task``; takes all its randomness from the generator, and gives
            the same shapes every time, unless ``together`` is 1. It makes those of all splits alike.
        test: makes the tasks of the ``test`` split, where they come from elsewhere.
        seed: any whole number.
        together: how many tasks can be stacked, any number where None; 1 where they differ in shape.

    >>> def line(generator):
    ...     slope, x = torch.randn(1, generator=generator), torch.rand(20, 1, generator=generator)
    ...     return Task(support=(x[:5], slope * x[:5]), query=(x[5:], slope * x[5:]))
    >>> from_function(line).draw("train", first=0, count=4).support[0].shape
    torch.Size([4, 5, 1])

    Raises:
        InputError: when drawing, where a task is no ``Task``, differs in shape from the
            others, or holds NaN or infinity.
    """
    return FunctionSource(make, test, seed, together)


@dataclass(frozen=True, eq=False, repr=False)
class ListedTasks:
    """Tasks that are there already, a list for each split."""

    train: Sequence[Task]
    val: Sequence[Task] = ()
    test: Sequence[Task] = ()
    seed: int = 0

    @cached_property
    def together(self) -> int | None:
        shapes = {str([list(t.shape) for t in tensors(task)]) for task in (*self.train, *self.val, *self.test)}
        return None if len(shapes) == 1 else 1

    def draw(self, split: str, first: int, count: int) -> Task:
        listed: Sequence[Task] = getattr(self, split)
        last = first + count - 1
        if not listed or (split != "train" and last >= len(listed)):
            there = f"{len(listed)} {split} tasks" if listed else f"no {split} tasks"
            would_do = f"ask for {len(listed)} at most (n_tasks, validation_tasks)" if listed else "give from_tasks some"
            raise InputError(f"there are {there}, and number {last} was asked for; {would_do}")
        numbers = [self._number(split, i) for i in range(first, last + 1)]
        return stacked([listed[k] for k in numbers], split, numbers)

    def _number(self, split: str, i: int) -> int:
        """Each pass over the tasks of training is in an order of its own."""
        if split != "train":
            return i
        n = len(self.train)
        return _order(self.seed, i // n, n)[i % n]

    def __repr__(self) -> str:
        return f"from_tasks({len(self.train)}, {len(self.val)} and {len(self.test)} tasks, seed={self.seed})"


@lru_cache(maxsize=4)
def _order(seed: int, passed: int, n: int) -> list[int]:
    return torch.randperm(n, generator=generator_of(seed, "train", passed)).tolist()


def from_tasks(train: Sequence[Any], val: Sequence[Any] = (), test: Sequence[Any] = (), seed: int = 0) -> ListedTasks:
    """A source of tasks that are there already: those of a user's own data.

    Training goes through its tasks again and again, each time in another order; validation and
    test tasks are asked in theirs, each once. Tasks may differ in shape: they are then taken one by one.

    Args:
        train, val, test: tasks of each split, ``Task(support=(x, y), query=(x, y))`` or pairs of these.
        seed: of the orders.

    >>> x = torch.linspace(-1, 1, 8)[:, None]
    >>> slopes = [Task((x[:n], k * x[:n]), (x, k * x)) for k, n in ((1, 3), (2, 3), (3, 5))]
    >>> source = from_tasks(slopes[:2], test=slopes[2:])
    >>> source.draw("train", first=0, count=1).query[1].shape, source.together
    (torch.Size([1, 8, 1]), 1)

    Raises:
        InputError: one is no task, or there are none to train on; when drawing, there are not as many, or one holds NaN or infinity.
    """
    given = {"train": train, "val": val, "test": test}
    for split, tasks in given.items():
        if wrong := [task for task in tasks if not (isinstance(task, (tuple, list)) and len(task) == 2)]:
            raise InputError(f"{split} has a {type(wrong[0]).__name__}; give innerloop.Task(support=(x, y), query=(x, y)) for each task")
    if not train:
        raise InputError("there are no tasks to train on; give a list of one or more")
    return ListedTasks(**{split: [Task(*task) for task in tasks] for split, tasks in given.items()}, seed=seed)
