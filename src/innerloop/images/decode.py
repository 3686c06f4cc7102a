"""Images of any kind become arrays, and arrays become classes."""

import io
import time
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy

from innerloop.errors import InputError
from innerloop.images.store import Class
from innerloop.progress import bar

GREY, DEEP = {"1", "L", "LA", "La"}, {"I", "F"}

Sources = dict[str, tuple[str, list[Any]]]
"""Group and images of each class, by its name."""


@dataclass
class Decode:
    """One image → uint8 ``[height, width, channels]``.

    Args:
        size: height and width to resize to; None leaves the image as it is.
        grey: one channel or three; None keeps what the first image has, and asks it of all others.
        invert: exchange black and white.
        nearest: resize to the nearest pixel, not by LANCZOS.
    """

    size: int | None
    grey: bool | None
    invert: bool = False
    nearest: bool = False
    first: str = ""

    def __call__(self, called: str, content: Any) -> numpy.ndarray:
        """Decode a file, its bytes, an array, or an image of Pillow's.

        Raises:
            InputError: it is damaged, has more than 8 bits, or is grey or in colour unlike those before it.
        """
        from PIL import Image, ImageChops

        try:
            if isinstance(content, numpy.ndarray):
                content = Image.fromarray(content)
            elif isinstance(content, (bytes, Path)):
                content = Image.open(io.BytesIO(content) if isinstance(content, bytes) else content)
            with content as opened:
                grey = self._is_grey(opened.mode, called)
                picture = upright(opened).convert("L" if grey else "RGB")
        except InputError:
            raise
        except (OSError, SyntaxError, ValueError, TypeError, AttributeError, Image.DecompressionBombError) as problem:
            raise InputError(f"{called} is no image that can be read ({problem}); replace it, or leave it out") from problem
        if self.invert:
            picture = ImageChops.invert(picture)
        if self.size and picture.size != (self.size, self.size):
            picture = picture.resize((self.size, self.size), Image.Resampling.NEAREST if self.nearest else Image.Resampling.LANCZOS)
        pixels = numpy.asarray(picture)
        return pixels[..., None] if grey else pixels

    def _is_grey(self, mode: str, called: str) -> bool:
        if mode in DEEP or mode.startswith("I;"):
            raise InputError(f"{called} has more than 8 bits a channel (Pillow's mode {mode}); convert it to 8 bits")
        if self.grey is not None:
            return self.grey
        kind = "grey" if mode in GREY else "in colour"
        self.first = self.first or kind
        if kind != self.first:
            raise InputError(
                f"{called} is {kind}, but the images before it are {self.first}; make all alike with grey=True or grey=False "
                "(--grey True or --grey False)"
            )
        return kind == "grey"


def upright(image: Any) -> Any:
    """An image of Pillow's as one sees it: turned as its camera says, and on white where it is transparent."""
    from PIL import Image, ImageOps

    image = ImageOps.exif_transpose(image)
    if "A" not in image.getbands() and "transparency" not in image.info:
        return image
    image = image.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)


def classes(what: str, found: Sources, read: Callable[[Any], numpy.ndarray]) -> Iterator[Class]:
    """Class after class by name, decoded when its turn comes; a bar where that takes over two seconds."""
    began, shown = time.monotonic(), None
    with ExitStack() as stack:
        for k, (name, (group, sources)) in enumerate(sorted(found.items()), 1):
            pictures = [read(source) for source in sources]
            if others := [picture.shape for picture in pictures if picture.shape != pictures[0].shape]:
                raise InputError(f"the images of {name} are {list(pictures[0].shape)} and {list(others[0])}; resize them with size")
            yield Class(name, numpy.stack(pictures), group)
            if shown is None and time.monotonic() - began > 2:
                shown = stack.enter_context(bar(f"{what}, classes", len(found), k))
            elif shown:
                shown.to(k)


def pixels(x: Any) -> numpy.ndarray:
    """Images that are an array already, as uint8 ``[images, height, width, channels]``.

    Raises:
        InputError: they are of another type or shape.
    """
    try:
        x = numpy.asarray(x)
    except ValueError as problem:
        raise InputError(f"the images make no array ({problem}); give images of one size") from problem
    x = x[..., None] if x.ndim == 3 else x
    if x.dtype != numpy.uint8 or x.ndim != 4 or x.shape[-1] not in (1, 3):
        raise InputError(f"the images are {x.dtype} {list(x.shape)}; give uint8 [images, height, width, 1 or 3 channels], from 0 to 255")
    return x


def from_arrays(
    x: Any, y: Any, names: Sequence[str] | Mapping[int, str] | None = None, groups: Mapping[str, str] | None = None
) -> Iterator[Class]:
    """Images and their labels as arrays.

    >>> [(c.name, c.pixels.shape) for c in from_arrays(numpy.zeros((3, 8, 8), numpy.uint8), [0, 1, 1], ["cat", "dog"])]
    [('cat', (1, 8, 8, 1)), ('dog', (2, 8, 8, 1))]

    Args:
        x: uint8 ``[n, height, width]`` or ``[n, height, width, channels]`` with 1 or 3 channels.
        y: ``n`` labels: integers or strings.
        names: of the labels; the labels themselves where None.
        groups: what a class belongs to, by its name.

    Raises:
        InputError: type or shape do not fit, or a label has no name.
    """
    x, y = pixels(x), numpy.asarray(y)
    if y.shape != (len(x),) or not len(x):
        raise InputError(f"there are {len(x)} images and labels of shape {list(y.shape)}; give one label for each image")
    labels = numpy.unique(y).tolist()
    try:
        named = [(label, str(label if names is None else names[label])) for label in labels]
    except (KeyError, IndexError, TypeError) as problem:
        raise InputError(f"labels run from {labels[0]} to {labels[-1]}, but there are {len(names or ())} names; name each") from problem
    return (Class(name, x[y == label], (groups or {}).get(name, "")) for label, name in named)


def file(path: str | Path) -> Path:
    """The path of a file, once it is known to be there.

    Raises:
        InputError: it is not.
    """
    if not Path(path).is_file():
        raise InputError(f"there is no file {path}; check its name")
    return Path(path)


def damaged(path: Path, problem: Exception) -> InputError:
    """The error for a file that cannot be read to its end."""
    return InputError(f"{path} is damaged ({problem or type(problem).__name__}); get it again")


def unpacked(path: Path, leave: Sequence[str] = ()) -> dict[str, numpy.ndarray]:
    """The arrays of an ``.npz``, but for those that are to be left.

    Raises:
        InputError: it is damaged, or no such file.
    """
    try:
        with path.open("rb") as opened, numpy.load(opened) as packed:
            return {name: packed[name] for name in packed.files if name not in leave}
    except (ValueError, OSError, EOFError, BadZipFile, zlib.error, AttributeError, TypeError) as problem:
        raise damaged(path, problem) from problem


def listed(names: Iterable[Any]) -> str:
    """Names for a message."""
    return ", ".join(map(str, names)) or "nothing"
