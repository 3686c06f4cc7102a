"""Which classes are for training, validation and testing: lists by name, as the papers give them."""

import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal

from innerloop.errors import InputError, nearest
from innerloop.images.glyphs import glyph_split
from innerloop.images.store import Images

PARTS = ("train", "val", "test")
FOLDER = Path(__file__).parent / "splits"
SHAPE = '{"train": […], "val": […], "test": […]}'


@dataclass(frozen=True)
class Split:
    """Names of classes, or of groups of classes, for each part.

    Args:
        groups: whether the names are those of groups, such as superclasses.

    Raises:
        InputError: a name stands in two parts, or twice in one.
    """

    name: str
    train: tuple[str, ...] = ()
    val: tuple[str, ...] = ()
    test: tuple[str, ...] = ()
    groups: bool = False

    def __post_init__(self) -> None:
        seen: dict[str, str] = {}
        for part in PARTS:
            for name in getattr(self, part):
                if name in seen:
                    raise InputError(f"split {self.name} has {name!r} in {seen[name]} and in {part}; name each class once")
                seen[name] = part
        if not seen:
            raise InputError(f"split {self.name} names no classes; list them under {', '.join(PARTS)}")

    def of(self, images: Images, part: str, missing: Literal["error", "drop"] = "error") -> list[int]:
        """Indices of a part's classes in a set, in the split's order, so that it does not depend on the set's.

        >>> import numpy
        >>> from innerloop.images import from_arrays, images
        >>> animals = images("animals", from_arrays(numpy.zeros((3, 8, 8), "uint8"), ["ant", "bee", "cat"]))
        >>> Split("mine", train=("cat", "ant"), test=("bee",)).of(animals, "train")
        [2, 0]

        Args:
            part: ``train``, ``val`` or ``test``.
            missing: what to do with names that the set lacks; ``drop`` is for a set that is only a part of the whole.

        Raises:
            InputError: the split has no such part, or the set lacks its classes.
        """
        if part not in PARTS or missing not in ("error", "drop"):
            raise InputError(f"part is {part!r} and missing {missing!r}; part is one of {', '.join(PARTS)}, and missing error or drop")
        names: tuple[str, ...] = getattr(self, part)
        if not names:
            has = ", ".join(f"{p} {len(getattr(self, p))}" for p in PARTS if getattr(self, p))
            raise InputError(f"split {self.name} has no {part} classes ({has}); take another part, or another split")
        found: dict[str, list[int]] = {}
        for k, name in enumerate(images.groups if self.groups else images.classes):
            found.setdefault(name, []).append(k)
        absent = [name for name in names if name not in found]
        if absent and (missing == "error" or len(absent) == len(names)):
            kind = "groups" if self.groups else "classes"
            raise InputError(
                f"{images.name} lacks {len(absent)} of the {len(names)} {part} {kind} of split {self.name}, the first {absent[0]!r}; "
                + ("take another split" if len(absent) == len(names) else "get the whole set, or let missing be drop")
            )
        return [k for name in names for k in sorted(found.get(name, ()), key=lambda k: images.classes[k])]


def split_of(name: str | Path) -> Split:
    """A split by its name, or from a JSON file of one's own with lists of names under ``train``, ``val`` and ``test``.

    >>> [len(part) for part in (split_of("ravi").train, split_of("ravi").val, split_of("ravi").test)]
    [64, 16, 20]

    Raises:
        InputError: there is none of that name, or the file is malformed.
    """
    if isinstance(name, str) and name in known_splits():
        return Split(name, **_parts(_read(FOLDER / f"{name}.json"), FOLDER / f"{name}.json"))
    if Path(name).suffix != ".json":
        raise InputError(f"no split {str(name)!r}; {nearest(str(name), known_splits())}, or a .json file of your own")
    return Split(Path(name).stem, **_parts(_read(Path(name)), Path(name)))


def classes_of(images: Images, split: str | Split, missing: Literal["error", "drop"] = "error") -> dict[str, list[int]]:
    """Numbers of a set's classes for each part that a split, or the one of that name, has; ``glyphs`` is made of the set.

    Args:
        missing: what to do with names that the set lacks, as for ``Split.of``.

    Raises:
        InputError: there is no such split, or the set lacks its classes.
    """
    if split == "glyphs":
        return glyph_split(images)
    named = split if isinstance(split, Split) else split_of(split)
    return {part: named.of(images, part, missing) for part in PARTS if getattr(named, part)}


@cache
def known_splits() -> dict[str, str]:
    """What each split that comes with innerloop is, by its name."""
    return {path.stem: _read(path)["about"] for path in sorted(FOLDER.glob("*.json"))}


def words(name: str) -> dict[str, tuple[str, str]]:
    """The name in words and the superclass of each class of a split that comes with innerloop."""
    return {key: (word, group) for key, (word, group) in _read(FOLDER / f"{name}.json").get("words", {}).items()}


def _read(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise InputError(f"there is no file {path}; check its name")
    try:
        found = json.loads(path.read_text("utf-8"))
    except ValueError as problem:
        raise InputError(f"{path} is no JSON ({problem}); write {SHAPE}") from problem
    if not isinstance(found, dict):
        raise InputError(f"{path} holds no object; write {SHAPE}")
    return found


def _parts(held: dict[str, Any], path: Path) -> dict[str, Any]:
    if strange := held.keys() - {*PARTS, "groups", "about", "words"}:
        raise InputError(f"{path} has {sorted(strange)[0]!r}; {nearest(sorted(strange)[0], (*PARTS, 'groups', 'about'))}")
    for part in PARTS:
        names = held.get(part, [])
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            raise InputError(f"{part} of {path} is no list of names; write them as strings in [ ]")
    if not isinstance(held.get("groups", False), bool):
        raise InputError(f"groups of {path} is {held['groups']!r}; write true where the names are those of groups, or leave it out")
    return {part: tuple(held.get(part, ())) for part in PARTS} | {"groups": held.get("groups", False)}
