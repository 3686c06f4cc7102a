"""What commands share: options out of the words of a command line, and what goes to a screen or into a file."""

import io
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from itertools import pairwise
from pathlib import Path
from typing import Any

import tyro
from rich.console import Console
from rich.table import Table

from innerloop import checkpoint
from innerloop.errors import InputError

Command = tuple[type | None, Callable[..., None]]
"""Its options, or none where it reads the words itself, and what it does with them."""

out = Console(highlight=False, markup=False)

LISTED = 240
"""Characters of a line that goes to a file or to another program: all that there is to say."""


def parse(shape: Any, arguments: Sequence[str], prog: str, description: str | None = None) -> Any:
    """Options from the words of a command line.

    Raises:
        InputError: in one line, what tyro says in a box.
    """
    said = io.StringIO()
    try:
        with redirect_stderr(said), redirect_stdout(said), _wide(not {"-h", "--help"} & set(arguments)):
            return tyro.cli(shape, args=list(arguments), prog=prog, description=description)
    except SystemExit as stop:
        if not stop.code:
            print(said.getvalue())
            raise
    lines = [line.strip() for line in said.getvalue().splitlines()]
    body = [line for line in lines[2:] if line and not set(line) <= set("-─│╭╮╰╯ ")]
    message = body[0] if body else "the options cannot be read"
    if message.startswith("Missing from"):
        message += " " + ", ".join(_missing(body[1:]))
    hints = [re.split(r"\s{2,}", body[k + 1])[0] for k, line in enumerate(body[:-1]) if line.startswith("Perhaps you meant")]
    does = f"did you mean {hints[0]}?" if hints else f"see {prog} --help"
    raise InputError(f"{message.rstrip('.')}; {does}")


def _missing(lines: Sequence[str]) -> Iterator[str]:
    """What tyro lists as missing, each above its help, which says what those without a name of their own are."""
    for line, under in pairwise([*lines, ""]):
        if line.startswith("Unrecognized"):
            return
        if line.startswith("--"):
            yield line
        elif line.isupper():
            yield f"{line} ({under.removesuffix(' (required)')})"


@contextmanager
def _wide(wanted: bool) -> Iterator[None]:
    """A terminal so wide that tyro cuts no message, which becomes one line here; help keeps the real one."""
    before = os.environ.get("COLUMNS")
    if wanted:
        os.environ["COLUMNS"] = "400"
    try:
        yield
    finally:
        if before is None:
            os.environ.pop("COLUMNS", None)
        else:
            os.environ["COLUMNS"] = before


def usage(commands: Mapping[str, Command], prog: str = "innerloop") -> str:
    lines = [f"usage: {prog} COMMAND …", ""]
    for name, (shape, command) in commands.items():
        lines.append(f"  {name:<9} {((shape or command).__doc__ or '').splitlines()[0]}")
    return "\n".join([*lines, "", f"{prog} COMMAND --help says more."])


def print_table(table: Table) -> None:
    """On a screen as wide as it is; into a file or another program whole."""
    (out if out.is_terminal else Console(width=LISTED, highlight=False, markup=False)).print(table)


def check_file(file: Path | None, option: str) -> None:
    if file and file.is_dir():
        raise InputError(f"{file} is a folder; give {option} the name of a file")


def write(file: Path, text: str) -> None:
    """Write a file whole; its folder is made where it is missing."""
    checkpoint.writable(file.resolve().parent)
    checkpoint.write_whole(file, text)
