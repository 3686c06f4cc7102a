"""Classes of images in one array on disk, which is mapped into memory and never read whole."""

import hashlib
import json
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy

from innerloop.checkpoint import write_whole
from innerloop.errors import InputError

PIXELS, INDEX = "pixels.npy", "images.json"


class Class(NamedTuple):
    """One class of images while a set is being built.

    Args:
        name: unlike that of any other class.
        pixels: uint8 ``[images, height, width, channels]``.
        group: what the class belongs to, such as an alphabet or a superclass; empty where nothing.
    """

    name: str
    pixels: numpy.ndarray
    group: str = ""


def root() -> Path:
    """The folder of all sets: ``$INNERLOOP_DATA``, or ``~/.cache/innerloop/data``."""
    return Path(os.environ.get("INNERLOOP_DATA") or "~/.cache/innerloop/data").expanduser()


@dataclass(frozen=True, eq=False)
class Images:
    """All images of a set, class after class.

    Args:
        name: of the set.
        pixels: uint8 ``[images, height, width, channels]``.
        classes: their names, in order.
        counts: images of each class.
        groups: what each class belongs to, such as an alphabet; empty where nothing.
    """

    name: str
    pixels: numpy.ndarray
    classes: Sequence[str]
    counts: Sequence[int]
    groups: Sequence[str]

    def __post_init__(self) -> None:
        if self.pixels.ndim != 4 or self.pixels.dtype != numpy.uint8:
            kind = f"{self.pixels.dtype} {list(self.pixels.shape)}"
            raise InputError(f"the pixels of {self.name} are {kind}; make them uint8 [images, height, width, channels]")
        if not len(self.classes) == len(self.counts) == len(self.groups) or sum(self.counts) != len(self.pixels):
            raise InputError(
                f"{self.name} has {len(self.pixels)} images, but {len(self.classes)} classes, {len(self.groups)} groups "
                f"and counts that add up to {sum(self.counts)}; give a name, a count and a group for each class"
            )
        if twice := [name for name in dict.fromkeys(self.classes) if self.classes.count(name) > 1]:
            raise InputError(f"{self.name} has two classes {twice[0]!r}; give each its own name")
        if empty := [name for name, n in zip(self.classes, self.counts, strict=True) if n < 1]:
            raise InputError(f"class {empty[0]!r} of {self.name} has no images; leave it out")

    @property
    def starts(self) -> list[int]:
        """Where each class begins, and where the last one ends."""
        return [0, *accumulate(self.counts)]

    @property
    def shape(self) -> tuple[int, int, int]:
        """Channels, height and width of an image, as a network sees it."""
        height, width, channels = self.pixels.shape[1:]
        return channels, height, width

    def of(self, name: str) -> numpy.ndarray:
        """The images of one class."""
        k = list(self.classes).index(name)
        return self.pixels[self.starts[k] : self.starts[k + 1]]

    def __repr__(self) -> str:
        channels, height, width = self.shape
        return f"Images({self.name}: {len(self.pixels):,} images of {len(self.classes):,} classes, {channels} × {height} × {width})"


def images(name: str, classes: Iterable[Class]) -> Images:
    """A set in memory.

    >>> images("noise", [Class("a", numpy.zeros((20, 28, 28, 1), numpy.uint8)), Class("b", numpy.ones((10, 28, 28, 1), numpy.uint8))])
    Images(noise: 30 images of 2 classes, 1 × 28 × 28)

    Raises:
        InputError: there are no classes, or their images differ in size.
    """
    found = list(classes)
    if not found:
        raise InputError(f"{name} has no classes; see that the place is right")
    _alike(name, found)
    pixels = numpy.concatenate([c.pixels for c in found])
    return Images(name, pixels, [c.name for c in found], [len(c.pixels) for c in found], [c.group for c in found])


def _alike(name: str, found: Sequence[Class]) -> None:
    for before, after in pairwise(found):
        if before.pixels.shape[1:] != after.pixels.shape[1:]:
            sizes = " and ".join(f"{list(c.pixels.shape[1:])} in class {c.name!r}" for c in (before, after))
            raise InputError(f"the images of {name} differ in height, width or channels: {sizes}; resize them to one size")


def save(set_: Images, folder: str | Path, about: dict[str, object] | None = None) -> Path:
    """Write a set into a folder; whole or not at all.

    Args:
        about: what else to keep, such as where the images come from.
    """
    parts = zip(set_.classes, pairwise(set_.starts), set_.groups, strict=True)
    return write(set_.name, (Class(name, set_.pixels[a:b], group) for name, (a, b), group in parts), folder, about)


def write(name: str, classes: Iterable[Class], folder: str | Path, about: dict[str, object] | None = None) -> Path:
    """Write classes into a folder as they come, so that only two at a time are in memory; whole or not at all.

    Args:
        about: what else to keep, such as where the images come from.

    Raises:
        InputError: there are no classes, two have one name, or their images differ in size.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    half, before = folder / f"{PIXELS}.part", None
    names, counts, groups = [], [], []
    try:
        with half.open("wb") as file:
            for class_ in classes:
                Images(name, class_.pixels, [class_.name], [len(class_.pixels)], [class_.group])
                if before is None:
                    _header(file, class_.pixels.shape[1:])
                else:
                    _alike(name, (before, class_))
                file.write(numpy.ascontiguousarray(class_.pixels).data)
                names, counts, groups = [*names, class_.name], [*counts, len(class_.pixels)], [*groups, class_.group]
                before = class_
            if before is None:
                raise InputError(f"{name} has no classes; see that the place is right")
            _header(file, before.pixels.shape[1:], sum(counts))
        Images(name, numpy.load(half, mmap_mode="r"), names, counts, groups)
        half.replace(folder / PIXELS)
    finally:
        half.unlink(missing_ok=True)
    index = {"name": name, "classes": names, "counts": counts, "groups": groups, "md5": checksum(folder / PIXELS), "about": about or {}}
    write_whole(folder / INDEX, json.dumps(index) + "\n")
    return folder


def _header(file: BinaryIO, shape: tuple[int, ...], n: int = 0) -> None:
    """At the start of the file; NumPy leaves room for the number of images to grow."""
    file.seek(0)
    numpy.lib.format.write_array_header_1_0(file, {"descr": "|u1", "fortran_order": False, "shape": (n, *shape)})


def checksum(path: Path) -> str:
    """MD5 of a file, in hexadecimal digits: against damage, not against malice."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()


def open_images(folder: str | Path) -> Images:
    """The set that ``save`` left in a folder, mapped into memory.

    Raises:
        InputError: there is none, or it is damaged.
    """
    folder = Path(folder)
    if not (folder / INDEX).is_file():
        raise InputError(f"{folder} holds no images: there is no {INDEX}; innerloop data list says what to do")
    try:
        index = json.loads((folder / INDEX).read_text())
        pixels = numpy.load(folder / PIXELS, mmap_mode="r")
        return Images(index["name"], pixels, index["classes"], index["counts"], index["groups"])
    except (OSError, ValueError, KeyError, TypeError) as problem:
        raise InputError(f"the images in {folder} are damaged ({problem}); build them again") from problem
