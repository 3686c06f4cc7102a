"""``innerloop data``: which sets of images there are; fetch, build and check them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from rich.table import Column, Table
from tyro.conf import Positional, arg

from innerloop.commands.words import out, parse, usage
from innerloop.errors import InputError, nearest
from innerloop.images import fetch, splits


@dataclass(frozen=True)
class List:
    """Sets of images: what papers use, what is here, what to do for the rest; and splits."""


def list_(given: List) -> None:
    sets, here = fetch.sets(), fetch.built()
    table = Table(
        Column("set", no_wrap=True), "what", "classes", "images", "split", Column("get it", no_wrap=True), box=None, pad_edge=False
    )
    for name, known in sets.items():
        how = f"fetch, {sum(file.megabytes for file in known.files)} MB" if known.files else "by hand"
        shown = "here" if name in here else how
        table.add_row(name, known.title, f"{known.classes:,}", f"{known.images:,}", known.split, shown)
    for name in here:
        if name not in sets:
            images = fetch.found(name)
            table.add_row(name, "", f"{len(images.classes):,}", f"{len(images.pixels):,}", fetch.about(name).get("split") or "–", "here")
    out.print(table)
    out.print(f"\nsets are kept in {fetch.root()}; innerloop data get NAME fetches one, or says what to do by hand\n")
    table = Table(Column("split", no_wrap=True), "what", box=None, pad_edge=False)
    for name, what in splits.known_splits().items():
        table.add_row(name, what)
    out.print(table)


@dataclass(frozen=True)
class Get:
    """Fetch a known set and build it; a download that broke off goes on."""

    name: Positional[str]
    """innerloop data list shows the names"""


def get(given: Get) -> None:
    fetch.get(given.name)
    _show(given.name)


@dataclass(frozen=True)
class Check:
    """Verify the checksums of a set, and count its classes and images."""

    name: Positional[str]
    """innerloop data list shows the names"""


def check(given: Check) -> None:
    _show(given.name)


@dataclass(frozen=True)
class Build:
    """Build a set of what is on disk: folders, archives, pickles, packed arrays, or lists with a folder."""

    name: Positional[str]
    """a known set's, or one of your own"""
    paths: Annotated[tuple[Path, ...], arg(name="from")]
    """what to read"""
    size: int | None = None
    """height and width in pixels; a known set's own, else as the images are"""
    split: str | None = None
    """name of a split, or a .json file of your own; a known set's own"""
    missing: Literal["error", "drop"] = "error"
    """drop builds a part of a set, whose split names more classes"""
    overwrite: bool = False
    """replace the set that is there"""
    grey: bool | None = None
    """of folders of images: make all grey (True) or all coloured (False)"""


def build(given: Build) -> None:
    fetch.build(given.name, given.paths, given.size, given.split, given.missing, given.overwrite, given.grey)
    _show(given.name)


def _show(name: str) -> None:
    rows = fetch.check(name)
    table = Table("part", Column("classes", justify="right"), Column("images", justify="right"), box=None, pad_edge=False)
    for part, classes, images in rows:
        table.add_row(part, f"{classes:,}", f"{images:,}")
    out.print(fetch.found(name))
    out.print(table)
    if name in fetch.sets() and rows[0][2] != fetch.sets()[name].images:
        out.print(f"a part of the whole, which has {fetch.sets()[name].images:,} images")
    out.print(f"checksums are right; split {fetch.about(name).get('split') or '–'}; in {fetch.place(name)}")


DATA: dict[str, tuple[type, Callable[[Any], None]]] = {
    "list": (List, list_),
    "get": (Get, get),
    "check": (Check, check),
    "build": (Build, build),
}


def data(arguments: Sequence[str]) -> None:
    """Sets of images: list, get, check, build."""
    if not arguments or arguments[0] in ("-h", "--help"):
        print(usage(DATA, "innerloop data"))
        return
    name, *rest = arguments
    if name not in DATA:
        raise InputError(f"no command 'data {name}'; {nearest(name, DATA)}")
    shape, command = DATA[name]
    command(parse(shape, rest, f"innerloop data {name}"))
