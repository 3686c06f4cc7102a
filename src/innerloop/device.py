"""What a device does by itself: draw random numbers without being given a generator, and be done later than it is asked."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor


def device_of(params: Mapping[str, Tensor]) -> torch.device:
    """Where the parameters are; the CPU where there are none."""
    return next((p.device for p in params.values()), torch.device("cpu"))


def random_state(device: str | torch.device, state: Tensor | None = None) -> Tensor:
    """What the device's next random numbers depend on, such as dropout's; set to ``state`` first where one is given."""
    of = torch if torch.device(device).type == "cpu" else torch.get_device_module(device)
    if state is not None:
        of.set_rng_state(state)
    return of.get_rng_state()


@contextmanager
def undrawn(device: str | torch.device) -> Iterator[None]:
    """What is drawn within the block is drawn again after it, on the host and on the device.

    >>> with undrawn("cpu"):
    ...     once = torch.rand(3)
    >>> bool((torch.rand(3) == once).all())
    True
    """
    states = {where: random_state(where) for where in ("cpu", device)}
    try:
        yield
    finally:
        for where, state in states.items():
            random_state(where, state)


def records(device: str | torch.device) -> bool:
    """Whether the device can record what is asked of it, and be asked for all of that as one."""
    return torch.device(device).type == "cuda"


def finish(device: str | torch.device) -> None:
    """Wait until the device has done all that it was asked."""
    if torch.device(device).type != "cpu":
        torch.get_device_module(device).synchronize()
