"""A few-shot set that needs no download: characters of many scripts, drawn in the fonts that come with matplotlib."""

import math
import time
import unicodedata
from collections import defaultdict
from collections.abc import Iterator, Sequence
from hashlib import blake2b
from pathlib import Path
from typing import Any, NamedTuple

import numpy

from innerloop.errors import InputError
from innerloop.images.store import INDEX, Class, Images, images, open_images, root, save
from innerloop.progress import bar

FACES = (
    *("DejaVuSans", "DejaVuSans-Bold", "DejaVuSans-Oblique", "DejaVuSans-BoldOblique"),
    *("DejaVuSerif", "DejaVuSerif-Bold", "DejaVuSerif-Italic", "DejaVuSerif-BoldItalic"),
    *("DejaVuSansMono", "DejaVuSansMono-Bold", "DejaVuSansMono-Oblique", "DejaVuSansMono-BoldOblique"),
    *("STIXGeneral", "STIXGeneralBol", "STIXGeneralItalic", "STIXGeneralBolIta"),
)
"""Font faces; matplotlib's others have code points of their own, or too few characters. A character's first is its base face."""

SCRIPTS: dict[str, Sequence[tuple[int, int]]] = {
    "Latin": [(0x41, 0x5A), (0x61, 0x7A), (0xC0, 0xD6), (0xD8, 0xF6), (0xF8, 0x2AF), (0x1D00, 0x1D7F), (0x2C60, 0x2C7F), (0xA720, 0xA7FF)],
    "Greek": [(0x370, 0x3FF)],
    "Cyrillic": [(0x400, 0x52F), (0xA640, 0xA69F)],
    "Armenian": [(0x530, 0x58F)],
    "Hebrew": [(0x590, 0x5FF)],
    "Arabic": [(0x600, 0x6FF)],
    "Lao": [(0xE80, 0xEFF)],
    "Georgian": [(0x10A0, 0x10FF), (0x2D00, 0x2D2F)],
    "Canadian syllabics": [(0x1400, 0x167F)],
    "Lisu": [(0xA4D0, 0xA4FF)],
    "Old Italic": [(0x10300, 0x1032F)],
    "Digits and signs": [(0x21, 0x40), (0x5B, 0x60), (0x7B, 0xBF), (0xD7, 0xD7), (0xF7, 0xF7), (0x2010, 0x205E), (0x20A0, 0x20CF)],
    "Letterlike": [(0x2100, 0x218F)],
    "Arrows": [(0x2190, 0x21FF), (0x27F0, 0x27FF), (0x2900, 0x297F), (0x2B00, 0x2BFF)],
    "Mathematics": [(0x2200, 0x22FF), (0x27C0, 0x27EF), (0x2980, 0x2AFF)],
    "Boxes": [(0x2500, 0x259F)],
    "Shapes": [(0x25A0, 0x25FF)],
    "Braille": [(0x2800, 0x28FF)],
    "Hexagrams": [(0x4DC0, 0x4DFF)],
    "Tetragrams": [(0x1D300, 0x1D35F)],
}
"""Ranges of code points, each to its last; a character belongs to the first script that has its bitmap."""

FEWEST_FACES = 3
EM = 0.75  # of the image's side
MIDDLE = 0.26  # of the em above the baseline: halfway between the lowest and the highest letters
ROOM = 0.86  # of the side, that an upright character may take
FINER = 2  # drawn so many times finer in each direction, then averaged
ALIKE = 0.25  # squared distance of bitmaps, in bright pixels of 28 × 28, below which they look the same
WORTH_KEEPING = 2.0  # seconds of work


class Glyph(NamedTuple):
    """A character's ink in one face.

    Args:
        ink: greyscale image of Pillow's, cut to the ink.
        centre: where the middle of its cell lies in it, in pixels.
        shrink: what makes it fit, at most 1.
    """

    ink: Any
    centre: tuple[float, float]
    shrink: float


def glyphs(size: int = 28, per_class: int = 20, seed: int = 0) -> Images:
    """Characters of many scripts as classes, bright ink on black; an image is a font face and a small change of shape.

    A class is a character, such as ``Greek/U+03B1 small letter alpha`` of the group ``Greek``.
    Its images go through the font faces that have it, each image turned by up to 10°, sheared
    by up to 0.15, scaled by up to 10 % and shifted by up to 2 of 28 pixels. Characters that look
    the same in their base face are one class; those of a letter and its accents (by Unicode's
    decomposition) and those in fewer than three faces are left out. The set is a function of
    the arguments, the fonts and the version of Pillow that draws them. What took longer than
    two seconds is kept in the folder ``INNERLOOP_DATA``, by default ``~/.cache/innerloop/data``.

    Args:
        size: side of an image in pixels, 8 or more.
        per_class: images of each class.
        seed: of the changes of shape.

    Raises:
        InputError: an argument is too small, matplotlib came without its fonts, or the folder
            cannot be written.

    >>> glyphs(size=8, per_class=1).classes[0]
    'Latin/U+0041 capital letter a'
    """
    if size < 8 or per_class < 1 or seed < 0:
        raise InputError(f"size is {size}, per_class {per_class} and seed {seed}; give at least 8, 1 and 0")
    began, kept = time.perf_counter(), _kept(size, per_class, seed)
    if (kept / INDEX).is_file():
        return open_images(kept)
    faces = _faces(size * EM * FINER)
    found = _different(list(_characters(faces)), faces, size)
    classes = []
    with bar("drawing characters", len(found)) as shown:
        for done, (script, code) in enumerate(found, 1):
            classes.append(Class(_name(script, code), _instances(faces, code, size, per_class, seed), script))
            shown.to(done)
    built = images("glyphs", classes)
    if time.perf_counter() - began > WORTH_KEEPING:
        try:
            save(built, kept)
        except OSError as problem:
            raise InputError(f"cannot write {kept} ({problem.strerror}); set INNERLOOP_DATA to a folder that can be written") from problem
    return built


def glyph_split(set_: Images, parts: Sequence[float] = (0.60, 0.15, 0.25)) -> dict[str, list[int]]:
    """Numbers of the classes for training, validation and test, no group of them in two.

    The largest group goes where most is missing, then the next, until all are dealt out.

    Args:
        parts: of all classes, that ``train``, ``val`` and ``test`` should have.

    Raises:
        InputError: there are fewer than three groups.

    >>> pixels = numpy.zeros((1, 8, 8, 1), numpy.uint8)
    >>> glyph_split(images("toy", [Class(f"{group}{k}", pixels, group) for group in "abcd" for k in range(5)]))
    {'train': [0, 1, 2, 3, 4, 5, 6, 7, 8, 9], 'val': [15, 16, 17, 18, 19], 'test': [10, 11, 12, 13, 14]}
    """
    members: dict[str, list[int]] = defaultdict(list)
    for number, group in enumerate(set_.groups):
        members[group].append(number)
    if len(members) < 3:
        raise InputError(f"{set_.name} has {len(members)} groups; splitting by group needs 3 or more")
    split: dict[str, list[int]] = {"train": [], "val": [], "test": []}
    wanted = dict(zip(split, (part * len(set_.classes) for part in parts), strict=True))
    for group in sorted(members, key=lambda g: (-len(members[g]), g)):
        neediest = max(split, key=lambda name: wanted[name] - len(split[name]))
        split[neediest] += members[group]
    return {name: sorted(numbers) for name, numbers in split.items()}


def _kept(size: int, per_class: int, seed: int) -> Path:
    """Where this very set is kept: by its arguments, this recipe, and what draws it."""
    import matplotlib
    import PIL

    made_by = Path(__file__).read_bytes() + f"{matplotlib.__version__} {PIL.__version__}".encode()
    return root() / f".glyphs-{size}-{per_class}-{seed}-{blake2b(made_by, digest_size=6).hexdigest()}"


def _faces(pixels: float) -> list[tuple[Any, set[int]]]:
    """Each face as Pillow's font of so many pixels an em, and the code points it has."""
    import matplotlib
    from matplotlib.ft2font import FT2Font
    from PIL import ImageFont

    folder = Path(matplotlib.get_data_path()) / "fonts" / "ttf"
    files = [folder / f"{face}.ttf" for face in FACES]
    if missing := [file for file in files if not file.is_file()]:
        raise InputError(f"matplotlib came without its font {missing[0]}; pip install --force-reinstall matplotlib")
    # The basic layout needs no library beyond Pillow's own, so the same is drawn everywhere.
    return [(ImageFont.truetype(str(f), pixels, layout_engine=ImageFont.Layout.BASIC), set(FT2Font(str(f)).get_charmap())) for f in files]


def _characters(faces: Sequence[tuple[Any, set[int]]]) -> Iterator[tuple[str, int]]:
    """Scripts and code points that could be classes."""
    for script, ranges in SCRIPTS.items():
        for first, last in ranges:
            for code in range(first, last + 1):
                sign = chr(code)
                stands_alone = unicodedata.category(sign)[0] in "LNPS" and not unicodedata.decomposition(sign)
                if stands_alone and len(_having(faces, code)) >= FEWEST_FACES:
                    yield script, code


def _different(characters: Sequence[tuple[str, int]], faces: Sequence[tuple[Any, set[int]]], size: int) -> list[tuple[str, int]]:
    """The characters that leave ink, and look like none before them."""
    # Whole numbers, which double precision adds exactly in any order: the same are left out on every machine.
    bitmaps = numpy.stack([_upright(faces, code, size).ravel() for _, code in characters]).astype(numpy.float64)
    ink = (bitmaps**2).sum(1)
    alike = ink[:, None] + ink - 2 * bitmaps @ bitmaps.T < ALIKE * 255**2 * (size / 28) ** 2
    return [character for k, character in enumerate(characters) if ink[k] and not alike[k, :k].any()]


def _upright(faces: Sequence[tuple[Any, set[int]]], code: int, size: int) -> numpy.ndarray:
    """A character in its base face, as it is."""
    font, _ = faces[_having(faces, code)[0]]
    return _drawn(_glyph(font, code, size), size)


def _having(faces: Sequence[tuple[Any, set[int]]], code: int) -> list[int]:
    return [k for k, (_, codes) in enumerate(faces) if code in codes]


def _name(script: str, code: int) -> str:
    name = unicodedata.name(chr(code)).lower()
    return f"{script}/U+{code:04X} {name.removeprefix(f'{script.lower()} ')}"


def _glyph(font: Any, code: int, size: int) -> Glyph:
    from PIL import Image, ImageDraw

    sign = chr(code)
    left, top, right, bottom = font.getbbox(sign, anchor="ls")
    ink = Image.new("L", (max(right - left, 0) + 2, max(bottom - top, 0) + 2))
    ImageDraw.Draw(ink).text((1 - left, 1 - top), sign, fill=255, font=font, anchor="ls")
    x, y = font.getlength(sign) / 2, -MIDDLE * font.size
    reach = max(x - left, right - x, y - top, bottom - y, 1.0)
    return Glyph(ink, (x + 1 - left, y + 1 - top), min(1.0, ROOM * size * FINER / 2 / reach))


def _drawn(
    glyph: Glyph, size: int, turn: float = 0.0, shear: float = 0.0, scale: float = 1.0, shift: Sequence[float] = (0.0, 0.0)
) -> numpy.ndarray:
    """The glyph as uint8 ``[size, size, 1]``; turn in radians, shift in parts of the side."""
    from PIL import Image

    # Pillow asks where in the ink a pixel of the image comes from: (u, v) = T⁻¹ (x, y), with T = scale · turning · shearing.
    s = 1 / (scale * glyph.shrink)
    cos, sin = math.cos(turn) * s, math.sin(turn) * s
    a, b, d, e = cos + shear * sin, sin - shear * cos, -sin, cos
    side = size * FINER
    x, y = (side / 2 + part * side for part in shift)
    u, v = glyph.centre
    place = (a, b, u - a * x - b * y, d, e, v - d * x - e * y)
    image = glyph.ink.transform((side, side), Image.Transform.AFFINE, place, Image.Resampling.BILINEAR).reduce(FINER)
    return numpy.asarray(image)[:, :, None]


def _instances(faces: Sequence[tuple[Any, set[int]]], code: int, size: int, count: int, seed: int) -> numpy.ndarray:
    random = numpy.random.Generator(numpy.random.PCG64((seed, code)))
    order = random.permutation(_having(faces, code))
    drawn = {k: _glyph(faces[k][0], code, size) for k in order[:count]}
    u = random.uniform(-1, 1, (count, 5)).tolist()
    return numpy.stack(
        [
            _drawn(drawn[order[n % len(order)]], size, math.radians(10) * t, 0.15 * h, 1 + 0.1 * s, (x / 14, y / 14))
            for n, (t, h, s, x, y) in enumerate(u)
        ]
    )
