"""The error that is the caller's to put right, that of a training that diverged, and the nearest name to a misspelt one."""

from collections.abc import Iterable
from difflib import get_close_matches
from numbers import Integral


class InputError(ValueError):
    """Something given cannot be used; the message names it, what came, and what would do.

    The command line prints it in one line and exits with code 2. Anything else that
    escapes is a defect of innerloop and keeps its traceback.
    """


class Diverged(ArithmeticError):
    """A loss became NaN or infinite; the message names the iteration, the task and the step."""


def positive(**settings: float) -> None:
    """Refuse settings that are not above 0."""
    for name, value in settings.items():
        if not value > 0:
            raise InputError(f"{name} is {value}; it must be above 0")


def whole(**settings: int) -> None:
    """Refuse settings that are no whole numbers from 0 on."""
    for name, value in settings.items():
        if not isinstance(value, Integral) or value < 0:
            raise InputError(f"{name} is {value}; it must be a whole number from 0 on")


def at_least_one(**counts: int | None) -> None:
    """Refuse counts below 1; one that is None is not given."""
    for name, value in counts.items():
        if value is not None and value < 1:
            raise InputError(f"{name} is {value}; give 1 or more")


def in_a_line(problem: Exception) -> str:
    """An error of others in a line: its kind, and the first line of what it says."""
    return f"{type(problem).__name__}: {(str(problem).strip() or 'no message').splitlines()[0]}"


def nearest(name: str, known: Iterable[str]) -> str:
    """A hint for a name that is not known.

    >>> nearest("net.haed", ["net.body", "net.head"])
    'did you mean net.head?'
    >>> nearest("zebra", ["net.body", "net.head"])
    'known: net.body, net.head'
    """
    known = list(known)
    close = get_close_matches(name, known, n=1)
    if close:
        return f"did you mean {close[0]}?"
    return "known: " + ", ".join(known[:8]) + (", …" if len(known) > 8 else "")
