"""What this machine has: everything a run needs, tried out."""

import os
import platform
import tempfile
import time
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

from innerloop.environment import cpu
from innerloop.models import kernels

EXTRAS = {"rl": ("gymnasium", "mujoco"), "track": ("tensorboard",), "hub": ("datasets",), "sklearn": ("scikit-learn",)}


def checks() -> Iterator[tuple[str, bool | None, str]]:
    """What is looked at, whether it is right (None where it is only missing), and what it found or what would do."""
    yield "python", True, f"{platform.python_version()} on {platform.system()} {platform.machine()}"
    yield "processor", True, f"{cpu()}, {os.cpu_count()} cores, torch uses {torch.get_num_threads()} threads"
    for package in ("innerloop", "torch", "numpy", "safetensors", "tyro", "rich", "matplotlib", "pillow"):
        found = installed(package)
        yield package, found is not None, found or f"missing; pip install {package}"
    if torch.cuda.is_available():
        names = ", ".join(torch.cuda.get_device_name(k) for k in range(torch.cuda.device_count()))
        yield "gpu", True, names
    else:
        yield "gpu", None, "none that torch can use; everything runs on the CPU"
    for extra, packages in EXTRAS.items():
        missing = [p for p in packages if not installed(p)]
        yield f"extra {extra}", None if missing else True, f"pip install 'innerloop[{extra}]'" if missing else "installed"
    yield compiles()
    found = kernels.library() is not None
    yield (
        "kernels",
        found or None,
        "built, for convolutions on the CPU" if found else "cannot be built, convolutions are slower; install g++",
    )
    writable = os.access(Path.cwd(), os.W_OK)
    yield "this folder", writable, "writable" if writable else "not writable; run elsewhere or give --out"
    cache = Path(os.environ.get("TORCHINDUCTOR_CACHE_DIR", tempfile.gettempdir()))
    yield "compile cache", os.access(cache, os.W_OK), f"{cache}"


def installed(package: str) -> str | None:
    """Version of a package, None where it is missing."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def compiles() -> tuple[str, bool | None, str]:
    """Whether ``torch.compile`` works, by compiling a line."""
    start = time.perf_counter()
    try:
        torch.compile(lambda x: (x.sin() + 1).sum(), fullgraph=True)(torch.ones(8))
    except Exception as problem:  # whatever the compiler behind it raises is the finding
        line = str(problem).strip().splitlines()[0]
        return "torch.compile", None, f"does not work, runs go on without it (five times slower): {line}; install a C++ compiler"
    return "torch.compile", True, f"works ({time.perf_counter() - start:.1f} s for a line)"
