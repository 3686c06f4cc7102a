"""Steps made of steps, and what is kept for every step put in its place."""

from functools import reduce

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


def put_slice(k: int, prefix: str) -> Step:
    """Slice k of each parameter under ``prefix`` takes its place: ``norm.net.1.bias[k]`` becomes ``net.1.bias``.

    >>> import torch
    >>> put_slice(1, "norm")({"norm.net.bias": torch.tensor([[1.0], [2.0]])}, None)["net.bias"]
    tensor([2.])
    """
    return lambda params, batch: {**params, **{name: p[k] for name, p in under(params, prefix).items()}}
