"""``innerloop doctor``: what runs need, tried out."""

from dataclasses import dataclass

from rich.table import Table
from rich.text import Text

from innerloop import doctor
from innerloop.commands.words import out
from innerloop.errors import InputError


@dataclass(frozen=True)
class Doctor:
    """Try out what runs need on this machine."""


def doctor_(given: Doctor) -> None:
    table = Table(box=None, show_header=False, pad_edge=False)
    broken = []
    for name, right, line in doctor.checks():
        table.add_row(Text(*{True: ("ok", "green"), False: ("no", "red"), None: ("–", "yellow")}[right]), Text(name), Text(line))
        broken += [] if right in (True, None) else [name]
    out.print(table)
    if broken:
        raise InputError(f"{', '.join(broken)}: mend {'it' if len(broken) == 1 else 'them'} as said above")
