"""With how many digits a device multiplies."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from innerloop.errors import InputError, nearest

PRECISIONS = ("float32", "tf32", "bfloat16")


def known_precision(name: str) -> None:
    """Refuse a name that is none of ``PRECISIONS``."""
    if name not in PRECISIONS:
        raise InputError(f"no precision {name!r}; {nearest(name, PRECISIONS)}")


@contextmanager
def in_precision(name: str, device: str = "cpu") -> Iterator[None]:
    """Multiply float32 tensors within the block in this precision; parameters and losses stay float32.

    ``float32`` keeps 24 bits everywhere (by itself, torch lets convolutions on NVIDIA GPUs keep 11);
    ``tf32`` keeps 11 bits of what is multiplied and sums in float32, on NVIDIA GPUs from Ampere on;
    ``bfloat16`` keeps 8, by ``torch.autocast``, and is slower than float32 where the device has no
    such instructions.

    Args:
        name: one of ``PRECISIONS``.
        device: that computes, such as ``cpu`` or ``cuda``.

    Raises:
        InputError: no such precision, or not on this device.

    >>> a = torch.tensor([[1 + 2**-12]])
    >>> with in_precision("bfloat16"):
    ...     a @ a
    tensor([[1.]], dtype=torch.bfloat16)
    """
    known_precision(name)
    kind = torch.device(device).type
    if name == "tf32" and kind != "cuda":
        raise InputError(f"precision tf32 is of NVIDIA GPUs, and the device is {device}; float32 and bfloat16 work there")
    before = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    torch.set_float32_matmul_precision("high" if name == "tf32" else "highest")
    torch.backends.cudnn.allow_tf32 = name == "tf32"
    try:
        # Without its cache of weights, which belong to one task and step here.
        with torch.autocast(kind, torch.bfloat16, enabled=name == "bfloat16", cache_enabled=False):
            yield
    finally:
        torch.set_float32_matmul_precision(before[0])
        torch.backends.cudnn.allow_tf32 = before[1]
