"""Memory that is used again: where large tensors come and go, the system's page faults cost more than the arithmetic."""

import ctypes
import os
import sys
from functools import cache
from pathlib import Path

import torch


@cache
def keep_freed_memory() -> bool:
    """Have this process keep freed blocks for its next ones, and say whether it does; once, for good.

    The C library gives blocks of more than some megabytes back to the system when they are
    freed, and takes fresh ones, page by page, for the next tensor. Kept, the gradient of a
    convolutional network was 2 to 4 times as fast. The process then holds its peak memory until
    it ends. Only glibc is asked; a setting of its own by ``MALLOC_…`` or ``GLIBC_TUNABLES`` in
    the environment stays.
    """
    own = any(name.startswith("MALLOC_") for name in os.environ) or "glibc.malloc" in os.environ.get("GLIBC_TUNABLES", "")
    if not sys.platform.startswith("linux") or own:
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return False
    trim_threshold, mmap_max = -1, -4  # of malloc.h
    return bool(mallopt(mmap_max, 0) and mallopt(trim_threshold, -1))


def peak_memory(device: str = "cpu") -> int | None:
    """Most memory that this process has held on the device, in bytes; None where the system does not tell."""
    if torch.device(device).type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    if (peak := _read("/proc/self/status", "VmHWM")) is not None:
        return peak  # its own, where getrusage also counts what its parent held when it was started
    try:
        from resource import RUSAGE_SELF, getrusage
    except ImportError:
        return None
    return getrusage(RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def free_memory(device: str = "cpu") -> int | None:
    """Memory that can still be had on the device, in bytes; None where the system does not tell."""
    if torch.device(device).type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    return _read("/proc/meminfo", "MemAvailable")


def _read(file: str, name: str) -> int | None:
    """Bytes that a line of one of the system's files tells in kB."""
    try:
        return next(1024 * int(line.split()[1]) for line in Path(file).read_text().splitlines() if line.startswith(name))
    except (OSError, StopIteration):
        return None
