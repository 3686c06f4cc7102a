"""``kernels.cpp`` as torch operations, built by the C++ compiler that ``torch.compile`` needs too.

Images are ``[groups, images, height, width, channels]``; a group is what a normalisation takes its
mean over. Sums and factors are ``[groups, channels]``.
"""

import ctypes
import hashlib
import os
import platform
import subprocess
import tempfile
import warnings
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.library import custom_op

SOURCE = Path(__file__).with_name("kernels.cpp")
# Without -fno-trapping-math no choice between two numbers is vectorised.
FLAGS = ("-O3", "-march=native", "-fno-trapping-math", "-fopenmp", "-shared", "-fPIC")
SERVED = (torch.float32, torch.float64)


@cache
def library() -> Any:
    """The compiled functions; None, and a warning once, where there is no compiler for them."""
    content = SOURCE.read_bytes() + " ".join((*FLAGS, platform.machine(), platform.processor(), _cpu())).encode()
    home = os.environ.get("INNERLOOP_CACHE") or os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    target = Path(home) / "innerloop" / f"kernels-{hashlib.sha256(content).hexdigest()[:16]}.so"
    try:
        if not target.exists():
            target.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=target.parent) as folder:
                built = Path(folder) / target.name
                subprocess.run([os.environ.get("CXX", "g++"), *FLAGS, "-o", built, SOURCE], check=True, capture_output=True, text=True)
                built.replace(target)  # whole or not at all, also where two processes build at once
        return ctypes.CDLL(str(target))
    except (OSError, subprocess.CalledProcessError) as problem:
        line = (getattr(problem, "stderr", "") or str(problem)).strip().splitlines()[0]
        warnings.warn(f"convolutional networks run without innerloop's own kernels, slower: {line}; install g++", stacklevel=2)
        return None


def _cpu() -> str:
    """What -march=native depends on, so that a home shared by different machines does no harm."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line for line in lines if line.startswith("flags"))
    except (OSError, StopIteration):
        return platform.platform()


def serves(*given: Tensor) -> bool:
    """Whether such tensors can be worked on here."""
    if torch.is_autocast_enabled("cpu"):
        return False  # torch's layers know how to work in a lower precision
    return all(t.device.type == "cpu" and t.dtype in SERVED for t in given) and library() is not None


def _call(name: str, given: list[Tensor], sizes: tuple[int, ...], out: list[Tensor]) -> None:
    kind = str(given[0].dtype).removeprefix("torch.")
    kept = [t.contiguous() for t in given]  # held until the call is over
    pointers = [ctypes.c_void_p(t.data_ptr()) for t in kept]
    results = [ctypes.c_void_p(t.data_ptr()) for t in out]
    getattr(library(), f"{name}_{kind}")(*pointers, *map(ctypes.c_int64, sizes), *results)


def _pooled(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    g, n, h, w, c = x.shape
    return x.new_empty(g, c), x.new_empty(g, c), x.new_empty(g, n, h // 2, w // 2, c)


@custom_op("innerloop::pool", mutates_args=())
def pool(x: Tensor, sign: Tensor, shift: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Σ (x − shift), Σ (x − shift)², and each 2 × 2 window's maximum, where ``sign`` is −1 its minimum."""
    out = _pooled(x)
    _call("pool", [x, sign, shift], tuple(x.shape), list(out))
    return out


@custom_op("innerloop::spread", mutates_args=())
def spread(offset: Tensor, factor: Tensor, x: Tensor, g: Tensor, sign: Tensor) -> Tensor:
    """offset + factor · x, with ``g`` added to the element of each window that ``pool`` chose."""
    y = torch.empty_like(x, memory_format=torch.contiguous_format)
    _call("spread", [offset, factor, x, g, sign], tuple(x.shape), [y])
    return y


@custom_op("innerloop::gather", mutates_args=())
def gather(v: Tensor, x: Tensor, sign: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Σ v, Σ v · x, and ``v`` at the element of each window that ``pool`` chose in ``x``."""
    out = _pooled(x)
    _call("gather", [v, x, sign], tuple(x.shape), list(out))
    return out


@custom_op("innerloop::patches", mutates_args=())
def patches(x: Tensor, kernel: int, stride: int, padding: int) -> Tensor:
    """The windows of a convolution, ``[images, h, w, kernel · kernel · channels]`` of ``[images, height, width, channels]``."""
    y = _windows(x, kernel, stride, padding)
    _call("patches", [x], (*x.shape, kernel, stride, padding), [y])
    return y


@custom_op("innerloop::fold", mutates_args=())
def fold(y: Tensor, height: int, width: int, kernel: int, stride: int, padding: int) -> Tensor:
    """The transpose of ``patches``: elements of all windows added where they came from."""
    x = _image(y, height, width, kernel)
    _call("fold", [y], (*x.shape, kernel, stride, padding), [x])
    return x


def _windows(x: Tensor, kernel: int, stride: int, padding: int) -> Tensor:
    n, h, w, c = x.shape
    return x.new_empty(n, (h + 2 * padding - kernel) // stride + 1, (w + 2 * padding - kernel) // stride + 1, kernel * kernel * c)


def _image(y: Tensor, height: int, width: int, kernel: int) -> Tensor:
    return y.new_empty(y.shape[0], height, width, y.shape[-1] // kernel**2)


pool.register_fake(lambda x, sign, shift: _pooled(x))
gather.register_fake(lambda v, x, sign: _pooled(x))
spread.register_fake(lambda offset, factor, x, g, sign: torch.empty_like(x, memory_format=torch.contiguous_format))
patches.register_fake(lambda x, kernel, stride, padding: _windows(x, kernel, stride, padding))
fold.register_fake(lambda y, height, width, kernel, stride, padding: _image(y, height, width, kernel))
