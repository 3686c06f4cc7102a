"""Sets of images: what people have on disk becomes one memory-mapped array with classes, splits and groups."""

from innerloop.images.decode import from_arrays
from innerloop.images.fetch import about, build, check, found, get, place, sets, split_for
from innerloop.images.glyphs import glyph_split, glyphs
from innerloop.images.pickles import from_cifar100, from_pickle
from innerloop.images.read import from_csv, from_folder, from_hub, from_npz, from_paths, from_zips
from innerloop.images.splits import Split, classes_of, known_splits, split_of
from innerloop.images.store import Class, Images, images, open_images, save, write

__all__ = [
    "Class",
    "Images",
    "Split",
    "about",
    "build",
    "check",
    "classes_of",
    "found",
    "from_arrays",
    "from_cifar100",
    "from_csv",
    "from_folder",
    "from_hub",
    "from_npz",
    "from_paths",
    "from_pickle",
    "from_zips",
    "get",
    "glyph_split",
    "glyphs",
    "images",
    "known_splits",
    "open_images",
    "place",
    "save",
    "sets",
    "split_for",
    "split_of",
    "write",
]
