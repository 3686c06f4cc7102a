"""The one error that is the caller's to put right, and the nearest name to a misspelt one."""

from collections.abc import Iterable
from difflib import get_close_matches


class InputError(ValueError):
    """Something given cannot be used; the message names it, what came, and what would do.

    The command line prints it in one line and exits with code 2. Anything else that
    escapes is a defect of innerloop and keeps its traceback.
    """


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
