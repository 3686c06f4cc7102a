"""``innerloop list``: the experiments, what the paper says of each, and whether it is done."""

from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from rich.table import Column, Table
from tyro.conf import Positional

from innerloop import experiments, report
from innerloop.commands.words import print_table
from innerloop.errors import InputError, nearest


@dataclass(frozen=True)
class List:
    """Experiments: what they are, what the paper says, what they cost, whether they are done."""

    pattern: Positional[str] = "*"
    """part of a name, or a pattern with *"""
    results: tuple[Path, ...] = (Path("results"), Path("runs"))
    """where to look for runs that are done"""


def list_(given: List) -> None:
    done = {row["experiment"] for row in report.read_rows(place for place in given.results if place.exists())}
    pattern = given.pattern if "*" in given.pattern else f"*{given.pattern}*"
    found = [e for name, e in experiments.catalogue().items() if fnmatch(name, pattern)]
    if not found:
        raise InputError(f"no experiment matches {given.pattern!r}; {nearest(given.pattern, experiments.catalogue())}")
    heads = {"experiment": max(len(e.name) for e in found), "what": 20, "paper": 20, "cost": 6, "needs": 5, "done": 4}
    table = Table(*(Column(head, no_wrap=True, min_width=least) for head, least in heads.items()), box=None, pad_edge=False)
    for e in found:
        claims = "; ".join(f"{case} {_slashed(claim.values())}" for case, claim in [*e.claims.items()][:3]) or "–"
        claims += f"; … {len(e.claims)} cases" if len(e.claims) > 3 else ""
        needs = ", ".join(e.needs[:2]) + (f" and {len(e.needs) - 2} more" if len(e.needs) > 2 else "")
        table.add_row(e.name, e.title, claims, e.cost, needs or "–", "yes" if e.name in done else "")
    print_table(table)


def _slashed(values: Any) -> str:
    return " / ".join(f"{value:.2f}" for value in values)
