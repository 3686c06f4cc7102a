"""Steps made of steps, and what is kept for every step put in its place."""

from collections.abc import Iterable
from functools import reduce

from innerloop.errors import InputError
from innerloop.learner import Batch, Step
from innerloop.params import Params, under


def in_turn(*steps: Step) -> Step:
    """Several steps as one, on the same batch.

    >>> once = lambda params, batch: {"net.w": params["net.w"] + batch}
    >>> in_turn(once, once)({"net.w": 1}, 10)
    {'net.w': 21}
    """

    def step(params: Params, batch: Batch) -> Params:
        return reduce(lambda point, following: following(point, batch), steps, params)

    return step


def each_on(steps: Iterable[Step], part: str, missing: str) -> tuple[Step, ...]:
    """The steps, each on the named part of its batch; equal steps stay one step, which is compiled once.

    >>> from collections import namedtuple
    >>> [step] = each_on([lambda params, batch: {"net.w": batch}], "shown", missing="nothing is shown")
    >>> step({}, namedtuple("Batch", "shown told")(1, 2))
    {'net.w': 1}

    Raises:
        InputError: when a batch has no such part, in the words of ``missing``.
    """

    def on(step: Step) -> Step:
        def taken(params: Params, batch: Batch) -> Params:
            if not hasattr(batch, part):
                raise InputError(missing)
            return step(params, getattr(batch, part))

        return taken

    listed = tuple(steps)
    made = {step: on(step) for step in listed}
    return tuple(made[step] for step in listed)


def put_slice(k: int, prefix: str) -> Step:
    """Slice k of each parameter under ``prefix`` takes its place: ``norm.net.1.bias[k]`` becomes ``net.1.bias``.

    >>> import torch
    >>> put_slice(1, "norm")({"norm.net.bias": torch.tensor([[1.0], [2.0]])}, None)["net.bias"]
    tensor([2.])
    """
    return lambda params, batch: {**params, **{name: p[k] for name, p in under(params, prefix).items()}}
