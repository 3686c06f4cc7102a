"""The pickles in which image sets go round, read without running what is in them."""

import pickle
import re
import tarfile
import zlib
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import IO, Any

import numpy

from innerloop.errors import InputError
from innerloop.images.decode import Decode, Sources, classes, damaged, file, from_arrays, listed, pixels
from innerloop.images.splits import words
from innerloop.images.store import Class

BROKEN = (pickle.UnpicklingError, EOFError, ValueError, TypeError, KeyError, IndexError, AttributeError, MemoryError, zlib.error)


class Arrays(pickle.Unpickler):
    """Reads arrays and plain values; whatever else a pickle asks for could run code."""

    # What NumPy's arrays name in their pickles, where version 1 keeps it and where version 2 does.
    allowed: Mapping[str, Any] = {
        f"{core}.{name}": value
        for core in ("numpy.core", "numpy._core")
        for name, value in {
            "multiarray._reconstruct": numpy.empty(0).__reduce_ex__(2)[0],
            "multiarray.scalar": numpy.float64(0).__reduce_ex__(2)[0],
            "numeric._frombuffer": numpy.empty(0).__reduce_ex__(5)[0],
        }.items()
    } | {
        "numpy.ndarray": numpy.ndarray,
        "numpy.dtype": numpy.dtype,
        "_codecs.encode": lambda text, encoding="utf-8": text.encode(encoding),
        "collections.OrderedDict": OrderedDict,
    }

    def find_class(self, module_name: str, global_name: str, /) -> Any:
        asked = f"{module_name}.{global_name}"
        if asked not in self.allowed:
            raise InputError(f"asks for {asked}, which images have no need of and which could run code")
        return self.allowed[asked]


def unpickled(path: Path, opened: IO[bytes] | None = None) -> Any:
    """What a pickle holds.

    Raises:
        InputError: it is damaged, or asks for anything but arrays and plain values.
    """
    try:
        with opened or path.open("rb") as content:
            return Arrays(content, encoding="latin1").load()
    except InputError as refused:
        raise InputError(f"{path} {refused}; get the file elsewhere, or its images as PNG") from refused
    except BROKEN as problem:
        raise damaged(path, problem) from problem


def from_pickle(paths: Iterable[str | Path]) -> Iterator[Class]:
    """The pickles that go round.

    mini-ImageNet's ``{image_data or data, class_dict}``; mini-ImageNet's, CIFAR-FS's and FC100's ``{data, labels}``;
    tieredImageNet's ``train_images_png.pkl`` with ``train_labels.pkl``. Classes that are only numbered are called
    ``train/0`` and are of the group ``train``, after the name of their file: the split ``parts`` is made for that.

    Raises:
        InputError: a file is damaged, asks for anything but arrays, or has another layout.
    """
    files = [file(path) for path in paths]
    labels = {path.name.removesuffix("_labels.pkl"): path for path in files if path.name.endswith("_labels.pkl")}
    images = [path for path in files if path not in labels.values()]
    pairs = [(path, labels.pop(path.name.removesuffix("_images_png.pkl"), None)) for path in images]
    if labels or not images:
        raise InputError(f"{listed(labels.values())} comes without images; give train_images_png.pkl with train_labels.pkl")
    return chain.from_iterable(_held(path, of) for path, of in pairs)


def _held(path: Path, labels: Path | None) -> Iterator[Class]:
    content, found = unpickled(path), re.search(r"train|val|test", path.stem)
    part = found.group() if found else path.stem
    try:
        if labels and isinstance(content, Sequence):
            return _tiered(path, content, _keys(unpickled(labels)), part)
        held = _keys(content)
        x = held.get("image_data", held.get("data"))
        if x is not None and "class_dict" in held:
            return _listed(pixels(x), held["class_dict"])
        if x is not None and "labels" in held:
            named = {number: _text(name) for name, number in held.get("catname2label", {}).items()}
            numbered = {number: f"{part}/{number}" for number in numpy.unique(held["labels"]).tolist()}
            return from_arrays(x, held["labels"], named or numbered, None if named else dict.fromkeys(numbered.values(), part))
    except InputError as problem:
        raise InputError(f"{path}: {problem}") from problem
    except BROKEN as problem:
        raise damaged(path, problem) from problem
    known = "{image_data, class_dict}, {data, labels}, and train_images_png.pkl with train_labels.pkl"
    raise InputError(f"{path} holds {listed(held) if held else f'a {type(content).__name__}'}; known are {known}")


def _listed(x: numpy.ndarray, rows: Mapping[Any, Any]) -> Iterator[Class]:
    """Images by lists of their numbers, one for each class."""
    named = {_text(name): numpy.asarray(numbers, dtype=int) for name, numbers in rows.items()}
    if beyond := [name for name, numbers in named.items() if not len(numbers) or numbers.max() >= len(x) or numbers.min() < 0]:
        raise InputError(f"class {beyond[0]} lists images that are not among the {len(x)}; get the file again")
    return (Class(name, x[numbers]) for name, numbers in sorted(named.items()))


def _tiered(path: Path, pictures: Sequence[Any], held: Mapping[str, Any], part: str) -> Iterator[Class]:
    """Encoded images and their numbered labels; the words for these become WordNet ids where they are tieredImageNet's."""
    y = numpy.asarray(held.get("label_specific", held.get("labels", ())))
    if y.shape != (len(pictures),):
        raise InputError(f"there are {len(pictures)} images and labels of shape {list(y.shape)}; give the two files of one part")
    # From the published list and not from label_general, which the code that wrote these files gets wrong
    # where a superclass comes a second time.
    known = {key: (wnid, group) for wnid, (word, group) in words("tiered").items() for key in (wnid, word)}
    said, found = held.get("label_specific_str"), Sources()
    for k, label in enumerate(y.tolist()):
        called = f"{part}/{label}" if said is None else _text(said[label])
        name, group = known.get(called, (called, part))
        found.setdefault(name, (group, []))[1].append(k)
    decode = Decode(None, grey=False)
    return classes(path.name, found, lambda k: decode(f"image {k} of {path}", numpy.asarray(pictures[k]).tobytes()))


def _keys(content: Any) -> dict[str, Any]:
    return {_text(key): value for key, value in content.items()} if isinstance(content, dict) else {}


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)


def from_cifar100(archive: str | Path) -> Iterator[Class]:
    """CIFAR-100's own ``cifar-100-python.tar.gz``, training and test images together: 600 for each class, superclasses as groups.

    Raises:
        InputError: it is damaged, lacks a file, or has members that lead outside.
    """
    archive, held = file(archive), {}
    try:
        with tarfile.open(archive) as tar:
            inside(archive, tar.getnames())
            for part in ("meta", "train", "test"):
                if not (member := tar.extractfile(f"cifar-100-python/{part}")):
                    raise KeyError(f"{part} is no file")
                held[part] = unpickled(archive / part, member)
        parts = [held["train"], held["test"]]
        x = numpy.concatenate([part["data"] for part in parts]).reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
        fine, coarse = ([label for part in parts for label in part[key]] for key in ("fine_labels", "coarse_labels"))
        names, superclasses = held["meta"]["fine_label_names"], held["meta"]["coarse_label_names"]
        return from_arrays(x, fine, names, {names[k]: superclasses[g] for k, g in zip(fine, coarse, strict=True)})
    except InputError:
        raise
    except KeyError as problem:
        raise InputError(f"{archive} is not CIFAR-100 for Python ({problem.args[0]}); give cifar-100-python.tar.gz") from problem
    except (tarfile.TarError, OSError, *BROKEN) as problem:
        raise damaged(archive, problem) from problem


def inside(archive: Path, names: Iterable[str]) -> list[str]:
    """The members of an archive, once none of them leads outside.

    Raises:
        InputError: one does.
    """
    names = list(names)
    for name in names:
        if name.startswith(("/", "\\")) or ".." in re.split(r"[/\\]", name) or re.match(r"[A-Za-z]:", name):
            raise InputError(f"{archive} has the member {name}, which leads outside; get the archive from its origin")
    return names
