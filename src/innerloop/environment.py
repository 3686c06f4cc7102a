"""What a result was made with: versions, commit, machine."""

import platform
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy
import torch

from innerloop.engine.memory import peak_memory


def environment(device: str = "cpu") -> dict[str, Any]:
    """Versions, commit of the source and kind of machine, for a result line."""
    from innerloop import __version__

    return {
        "versions": {
            "innerloop": __version__,
            "python": platform.python_version(),
            "torch": torch.__version__,
            "numpy": numpy.__version__,
            **{name: version(name) for name in ("gymnasium", "mujoco") if name in sys.modules},  # they move returns
        },
        "commit": commit(),
        "machine": {"cpu": cpu(), "threads": torch.get_num_threads(), "device": device_name(device)},
    }


def commit() -> str | None:
    """Commit of the checkout that innerloop is run from, ``+`` behind it where files differ; None elsewhere."""
    here = Path(__file__).parent
    try:
        git = ["git", "-C", str(here)]
        tracked = subprocess.run([*git, "ls-files", "--error-unmatch", __file__], capture_output=True)
        if tracked.returncode:
            return None
        head = subprocess.run([*git, "rev-parse", "--short=10", "HEAD"], capture_output=True, text=True, check=True).stdout.strip()
        changed = subprocess.run([*git, "status", "--porcelain", "--", str(here)], capture_output=True, text=True).stdout
    except (OSError, subprocess.CalledProcessError):
        return None
    return head + ("+" if changed else "")


def cpu() -> str:
    """The processor's name."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def device_name(device: str) -> str:
    """What the device is called by its maker, where it is a GPU."""
    return torch.cuda.get_device_name(device) if device.startswith("cuda") else device


def peak_memory_mb() -> int | None:
    """Most memory this process has held, in MB; None where the system does not tell."""
    peak = peak_memory()
    return None if peak is None else round(peak / 1e6)
