"""Sets of images: what people have on disk becomes one memory-mapped array with classes, splits and groups."""

from innerloop.images.decode import from_arrays
from innerloop.images.fetch import build, check, found, get, place, sets, split_for
from innerloop.images.pickles import from_cifar100, from_pickle
from innerloop.images.read import from_csv, from_folder, from_hub, from_npz, from_paths, from_zips
from innerloop.images.splits import Split, known_splits, split_of
from innerloop.images.store import Class, Images, images, open_images, save, write

__all__ = [
    "Class",
    "Images",
    "Split",
    "build",
    "check",
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
