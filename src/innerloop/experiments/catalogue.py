"""Finding experiments: every module of this folder with ``EXPERIMENTS`` adds to the list."""

from functools import cache
from importlib import import_module
from pkgutil import iter_modules

import innerloop.experiments as folder
from innerloop.errors import InputError, nearest
from innerloop.experiments.experiment import Experiment


@cache
def catalogue() -> dict[str, Experiment]:
    """All experiments by name, in the order of their files."""
    modules = [import_module(f"{folder.__name__}.{module.name}") for module in iter_modules(folder.__path__)]
    found = [experiment for module in modules for experiment in getattr(module, "EXPERIMENTS", ())]
    return {experiment.name: experiment for experiment in found}


def find(name: str) -> list[Experiment]:
    """The experiment of that name, or all cells of a bare prefix.

    >>> [experiment.name for experiment in find("maml/sinusoid@release")]
    ['maml/sinusoid@release']

    Raises:
        InputError: there is none; the message names the nearest.
    """
    known = catalogue()
    if name in known:
        return [known[name]]
    cells = [e for other, e in known.items() if other.startswith((f"{name}-", f"{name}/"))]
    if not cells:
        raise InputError(f"no experiment {name!r}; {nearest(name, known)}")
    return cells
