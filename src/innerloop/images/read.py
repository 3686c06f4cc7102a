"""Readers of what people have: folders, archives, lists, packed arrays, and pickles (``pickles``).

Each gives its classes one after another, for ``write(name, from_folder(…), folder)`` or, in memory,
``images(name, from_folder(…))``. Classes come sorted by name and images by the names of their
files, so that a set does not depend on where it is built.
"""

import csv
import zlib
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from pathlib import Path, PurePosixPath
from typing import Any
from zipfile import BadZipFile, ZipFile

import numpy

from innerloop.errors import InputError
from innerloop.images.decode import Decode, Sources, classes, damaged, file, listed, unpacked
from innerloop.images.pickles import from_cifar100, from_pickle, inside
from innerloop.images.store import Class

SUFFIXES = (".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")


def is_hidden(path: Path, folder: Path) -> bool:
    """Whether the path, or a folder on the way to it, is one that programs make for themselves, such as ``.thumbs`` or ``__MACOSX``."""
    parts = path.relative_to(folder).parts
    return any(part.startswith(".") for part in parts) or any(part.startswith("__") for part in (parts if path.is_dir() else parts[:-1]))


def from_folder(
    folder: str | Path, size: int | None = None, grey: bool | None = None, invert: bool = False, release: bool = False
) -> Iterator[Class]:
    """A folder of class folders; or of groups of them, where ``Latin/character01`` is of the group ``Latin``.

    Args:
        size: height and width to resize to, in pixels; None leaves images as they are.
        grey: one channel or three; None keeps what the images have.
        invert: exchange black and white.
        release: as in ``from_zips``.

    Raises:
        InputError: a folder is empty, an image is damaged, or grey and colour are mixed and ``grey`` is None.
    """
    folder, found = Path(folder), Sources()
    if not folder.is_dir():
        raise InputError(f"there is no folder {folder}; check its name")
    for outer in _folders(folder):
        if not (inner := _folders(outer)):
            found[outer.name] = "", _pictures(outer)
        elif any(path.suffix.lower() in SUFFIXES for path in outer.iterdir()):
            raise InputError(f"{outer} holds images and folders; move its images into a folder of their class")
        else:
            found |= {f"{outer.name}/{path.name}": (outer.name, _pictures(path)) for path in inner}
    if not found:
        archives = [str(path) for path in sorted(folder.glob("*.zip"))]
        would_do = (
            f"its archives are given by name: {' '.join(archives)}"
            if archives
            else "give a folder that holds a folder of images for each class"
        )
        raise InputError(f"{folder} holds no class folders; {would_do}")
    decode = Decode(size, grey, invert, release)
    return classes(str(folder), found, lambda path: decode(str(path), path))


def _folders(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.is_dir() and not is_hidden(path, folder))


def _pictures(folder: Path) -> list[Path]:
    found = sorted(path for path in folder.iterdir() if path.suffix.lower() in SUFFIXES and not is_hidden(path, folder))
    if not found:
        raise InputError(f"the class folder {folder} has no images ({listed(SUFFIXES)}); fill it, or remove it")
    return found


def from_zips(paths: Iterable[str | Path], size: int = 28, release: bool = False) -> Iterator[Class]:
    """Omniglot's own archives, ``images_background.zip`` and ``images_evaluation.zip``; ink becomes 255.

    Args:
        release: resize to the nearest pixel, without greys. MAML's released script asks for LANCZOS, but
            Pillow takes the nearest pixel for images of one bit.

    Raises:
        InputError: an archive is damaged, has members that lead outside, or no characters.
    """
    found, paths = Sources(), [file(path) for path in paths]
    for path in paths:
        try:
            with ZipFile(path) as archive:
                for name in sorted(inside(path, archive.namelist())):
                    *_, alphabet, character, picture = "", "", *PurePosixPath(name).parts
                    if alphabet and picture.endswith(".png") and not name.startswith("__MACOSX/"):
                        drawn = found.setdefault(f"{alphabet}/{character}", (alphabet, []))[1]
                        drawn.append((f"{path}/{name}", archive.read(name)))
        except (BadZipFile, EOFError, RuntimeError, zlib.error) as problem:
            raise damaged(path, problem) from problem
    if not found:
        raise InputError(f"{listed(paths)} holds no Alphabet/character01/….png; give images_background.zip and images_evaluation.zip")
    decode = Decode(size, grey=True, invert=True, nearest=release)
    return classes("Omniglot", found, lambda drawn: decode(*drawn))


def from_csv(paths: Iterable[str | Path], folder: str | Path, size: int | None = None) -> Iterator[Class]:
    """Lists of ``filename,label`` and the folder of the images, as Ravi & Larochelle give mini-ImageNet; a list's name is the group.

    Raises:
        InputError: a list lacks a column, or the folder an image.
    """
    found = Sources()
    for path in [file(path) for path in paths]:
        try:
            with path.open(newline="", encoding="utf-8-sig") as lines:
                rows = list(csv.DictReader(lines))
        except UnicodeDecodeError as problem:
            raise InputError(f"{path} is no text in UTF-8 ({problem.reason}); save it as that") from problem
        if not rows or not {"filename", "label"} <= rows[0].keys():
            raise InputError(f"{path} has {f'the columns {listed(rows[0])}' if rows else 'no rows'}; give filename,label")
        if short := [line for line, row in enumerate(rows, 2) if not row["filename"] or not row["label"]]:
            raise InputError(f"line {short[0]} of {path} lacks a filename or a label; complete it, or take it out")
        pictures = [Path(folder) / row["filename"] for row in rows]
        if absent := [picture for picture in pictures if not picture.is_file()]:
            raise InputError(f"{len(absent)} of the {len(rows)} images of {path} are absent, the first {absent[0]}; give their folder")
        for row, picture in zip(rows, pictures, strict=True):
            found.setdefault(row["label"], (path.stem, []))[1].append(picture)
    if not found:
        raise InputError("there is no list; give train.csv, val.csv and test.csv")
    decode = Decode(size, grey=False)
    return classes(str(folder), found, lambda path: decode(str(path), path))


def from_npz(path: str | Path, size: int | None = None) -> Iterator[Class]:
    """Sets packed as ``.npz``: Omniglot as ``images`` or ``bits`` with its alphabets, or a ``blob`` of JPEGs with offsets and labels.

    Raises:
        InputError: it is damaged or has another layout.
    """
    path = file(path)
    held, found = unpacked(path, leave=("filename",)), Sources()
    if {"blob", "offset", "label", "wnid"} <= held.keys():
        names, blob, offset = held["wnid"].tolist(), held["blob"], held["offset"].tolist()
        groups = held["superclass_name"].tolist() if "superclass_name" in held else [""] * len(names)
        for k, label in enumerate(held["label"].tolist()):
            found.setdefault(names[label], (groups[label], []))[1].append(k)
        colour = Decode(size, grey=False)
        return classes(path.name, found, lambda k: colour(f"image {k} of {path}", blob[offset[k] : offset[k + 1]].tobytes()))
    if {"alphabet", "alphabet_names", "character_names"} <= held.keys() and {"images", "bits"} & held.keys():
        drawn = held["images"] if "images" in held else _unpacked(held["bits"])
        for k, alphabet in enumerate(held["alphabet_names"][held["alphabet"]].tolist()):
            found[f"{alphabet}/{held['character_names'][k]}"] = alphabet, list(drawn[k])
        ink = Decode(size, grey=True)
        return classes(path.name, found, lambda drawing: ink(f"a drawing of {path}", drawing))
    raise InputError(f"{path} holds {listed(held)}; known are images or bits with alphabets, and blob with offset, label and wnid")


def _unpacked(bits: numpy.ndarray) -> numpy.ndarray:
    """Omniglot's drawings of 105 × 105 pixels from their bits; ink becomes 255."""
    return 255 * numpy.unpackbits(bits, axis=-1)[..., : 105 * 105].reshape(*bits.shape[:2], 105, 105)


def from_hub(
    dataset: Any, size: int | None = None, grey: bool | None = None, image: str = "image", label: str = "label"
) -> Iterator[Class]:
    """A split of a Hugging Face data set, as ``datasets.load_dataset(name, split="train")`` gives it; needs the extra ``hub``.

    Args:
        image: the column of images.
        label: the column of labels.

    Raises:
        InputError: there is no such column.
    """
    columns = list(getattr(dataset, "column_names", None) or ())
    if absent := [column for column in (image, label) if column not in columns]:
        raise InputError(f"the data set has no column {absent[0]!r} but {listed(columns)}; name yours with image= and label=")
    names, found = getattr(dataset.features[label], "names", None), Sources()
    for k, value in enumerate(dataset[label]):
        found.setdefault(str(names[value] if names else value), ("", []))[1].append(k)
    decode = Decode(size, grey)
    return classes("images", found, lambda k: decode(f"image {k}", dataset[k][image]))


def from_paths(
    paths: Sequence[str | Path], size: int | None = None, invert: bool = False, release: bool = False, grey: bool | None = None
) -> Iterator[Class]:
    """What the reader gives that fits the paths: folders, archives, pickles, packed arrays, or lists with a folder.

    Args:
        size: height and width to resize to, in pixels; None leaves images as they are, and Omniglot's at 28.
        invert: exchange black and white in folders of images; Omniglot's archives always become white ink.
        release: as in ``from_zips``.
        grey: of folders of images, as in ``from_folder``.

    Raises:
        InputError: no reader fits, or the one that does cannot read it.
    """
    folders = [Path(path) for path in paths if Path(path).is_dir()]
    files = [file(path) for path in paths if not Path(path).is_dir()]
    kinds = {"tar.gz" if path.name.endswith((".tar.gz", ".tgz")) else path.suffix.lower()[1:] for path in files}
    if folders and not files:
        return chain.from_iterable([from_folder(folder, size, grey, invert, release) for folder in folders])
    if len(folders) == 1 and kinds == {"csv"}:
        return from_csv(files, folders[0], size)
    if not folders and kinds == {"zip"}:
        return from_zips(files, size or 28, release)
    if not folders and kinds and kinds <= {"pkl", "pickle"}:
        return _resized(from_pickle(files), size)
    if not folders and len(files) == 1 and kinds <= {"npz", "tar.gz"}:
        return from_npz(files[0], size) if kinds == {"npz"} else _resized(from_cifar100(files[0]), size)
    raise InputError(
        f"no reader fits {listed(paths)}; give folders of class folders, Omniglot's .zip files, .pkl or .pickle files, one .npz, "
        "cifar-100-python.tar.gz, or .csv files with the folder of their images"
    )


def _resized(held: Iterator[Class], size: int | None) -> Iterator[Class]:
    """Classes of images that are decoded already, at the size."""
    decode = Decode(size, grey=None)
    for of in held:
        if size is None or of.pixels.shape[1:3] == (size, size):
            yield of
        else:
            drawn = of.pixels[..., 0] if of.pixels.shape[-1] == 1 else of.pixels
            yield of._replace(pixels=numpy.stack([decode(f"an image of {of.name}", x) for x in drawn]))
