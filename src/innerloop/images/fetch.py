"""Known sets: fetched where they may be, built by hand where not, and found again."""

import json
import re
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from innerloop.errors import InputError, nearest
from innerloop.images.glyphs import glyphs
from innerloop.images.read import from_paths
from innerloop.images.splits import PARTS, Split, split_of
from innerloop.images.store import INDEX, PIXELS, Images, checksum, open_images, root, write
from innerloop.progress import bar

SPLIT = "split.json"
BLOCK = 4096  # what is lost where a download breaks off


@dataclass(frozen=True)
class File:
    """A file to download.

    Args:
        megabytes: about how large it is.
    """

    name: str
    url: str
    md5: str
    megabytes: int


@dataclass(frozen=True)
class Known:
    """A set that papers use.

    Args:
        classes: how many the whole set has.
        images: likewise.
        size: height and width that papers use, in pixels.
        split: the usual one.
        files: what to download; empty where there is no place that may give the images on.
        by_hand: how to get it without; a sentence.
        invert: whether folders of its images are black on white.
        release: as in ``from_zips``.
    """

    title: str
    classes: int
    images: int
    size: int
    split: str
    files: tuple[File, ...] = ()
    by_hand: str = ""
    invert: bool = False
    release: bool = False


_LAKE = "https://github.com/brendenlake/omniglot/raw/master/python"
_OMNIGLOT = (
    File("images_background.zip", f"{_LAKE}/images_background.zip", "68d2efa1b9178cc56df9314c21c6e718", 9),
    File("images_evaluation.zip", f"{_LAKE}/images_evaluation.zip", "6b91aef0f799c5bb55b94e3f2daec811", 6),
)
_CIFAR = (
    File(
        "cifar-100-python.tar.gz",
        "https://www.cs.toronto.edu/~kriz/cifar-100-python.tar.gz",
        "eb9058c3a382ffc7106e4002c42a8d85",
        169,
    ),
)
_MINI = (
    "its images are ImageNet's and may not be given on. With mini-imagenet-cache-train.pkl, -val.pkl and -test.pkl, or the three "
    "miniImageNet_category_split pickles, run innerloop data build mini-imagenet --from FILE FILE FILE. With ImageNet's images by "
    "Ravi & Larochelle's names, run innerloop data build mini-imagenet --from train.csv val.csv test.csv IMAGE_FOLDER"
)
_TIERED = (
    "its images are ImageNet's and may not be given on. Take the folder of 13 GB that github.com/renmengye/few-shot-ssl-public links to, "
    "and run innerloop data build tiered-imagenet --from {train,val,test}_images_png.pkl {train,val,test}_labels.pkl"
)
_PICKLES = "or build it of the three pickles that go round, with --split parts"

KNOWN = {
    "omniglot": Known("Omniglot, 28 × 28, ink white", 1623, 32460, 28, "vinyals", _OMNIGLOT, invert=True),
    "omniglot-release": Known(
        "Omniglot as MAML's released code resizes it", 1623, 32460, 28, "omniglot-release", _OMNIGLOT, invert=True, release=True
    ),
    "mini-imagenet": Known("mini-ImageNet", 100, 60000, 84, "ravi", by_hand=_MINI),
    "tiered-imagenet": Known("tieredImageNet", 608, 779165, 84, "tiered", by_hand=_TIERED),
    "cifar-fs": Known("CIFAR-FS, from CIFAR-100", 100, 60000, 32, "cifar-fs", _CIFAR, _PICKLES),
    "fc100": Known("FC100, from CIFAR-100", 100, 60000, 32, "fc100", _CIFAR, _PICKLES),
}


def sets() -> dict[str, Known]:
    """The known sets by name."""
    return dict(KNOWN)


def place(name: str) -> Path:
    """The folder of a set, whether it is there or not.

    Raises:
        InputError: the name cannot be that of a folder.
    """
    if not re.fullmatch(r"[A-Za-z0-9][\w.-]*", name) or name == "downloads":
        raise InputError(f"{name!r} is no name for a set; use letters, digits, - and _")
    return root() / name


def built() -> list[str]:
    """Names of the sets that are there."""
    return sorted(path.parent.name for path in root().glob(f"*/{INDEX}") if not path.parent.name.startswith("."))


def found(name: str) -> Images:
    """A set that was fetched or built, mapped into memory.

    Raises:
        InputError: it is not there; says what to do.
    """
    if (place(name) / INDEX).is_file():
        return open_images(place(name))
    if name == "glyphs":
        return glyphs()
    if name not in KNOWN:
        raise InputError(f"no set {name!r}; {nearest(name, {*KNOWN, *built()})}, or innerloop data build {name} --from PATH")
    known = KNOWN[name]
    how = ", ".join(filter(None, (f"innerloop data get {name} fetches it" if known.files else "", known.by_hand)))
    raise InputError(f"{name} is not in {root()}: {how}")


def split_for(name: str) -> Split:
    """The split that a set was built with, or the usual one.

    Raises:
        InputError: the set is not there, or has no split.
    """
    found(name)
    chosen = about(name).get("split") or (KNOWN[name].split if name in KNOWN else "")
    if not chosen:
        raise InputError(f"{name} was built without a split; build it again with --split, or name a split")
    return split_of(place(name) / chosen if str(chosen).endswith(".json") else chosen)


def about(name: str) -> dict[str, Any]:
    """What a set that is there was built of; nothing for ``glyphs``, which is made."""
    index = place(name) / INDEX
    return json.loads(index.read_text()).get("about", {}) if index.is_file() else {}


def get(name: str, progress: bool = True) -> Path:
    """Fetch a known set and build it, unless it is there; a download that broke off goes on.

    Raises:
        InputError: it cannot be fetched; says what to do by hand.
    """
    if (place(name) / INDEX).is_file():
        return place(name)
    if name not in KNOWN:
        raise InputError(f"no known set {name!r}; {nearest(name, KNOWN)}")
    known = KNOWN[name]
    if not known.files:
        raise InputError(f"{name} cannot be fetched: {known.by_hand}")
    return build(name, [download(file, root() / "downloads", progress) for file in known.files])


def build(
    name: str,
    paths: Sequence[str | Path],
    size: int | None = None,
    split: str | Path | None = None,
    missing: Literal["error", "drop"] = "error",
    overwrite: bool = False,
    grey: bool | None = None,
) -> Path:
    """Build a set of what is on disk, whole or not at all; a set of one's own may have any name.

    Args:
        paths: what ``from_paths`` reads.
        size: height and width, in pixels; a known set's own where None.
        split: a name or a JSON file; a known set's own where None.
        missing: ``drop`` builds a part of a set, whose split names more classes.
        overwrite: replace the set that is there.
        grey: of folders of images: one channel or three, where they are mixed.

    Raises:
        InputError: the paths cannot be read, the split does not fit, or the set is there already.
    """
    folder, known = place(name), KNOWN.get(name)
    if (folder / INDEX).exists() and not overwrite:
        raise InputError(f"{name} is in {folder} already; build it anew with --overwrite, or under another name")
    wanted = split or (known.split if known else None)
    chosen, own = split_of(wanted) if wanted else None, Path(wanted or "").suffix == ".json"
    size = size or (known.size if known else None)
    origin = {"from": [Path(path).name for path in paths], "split": SPLIT if own else wanted, "missing": missing}
    half = folder.with_name(f".{name}.part")
    if strange := {path.name for path in (folder.iterdir() if folder.is_dir() else ())} - {PIXELS, INDEX, SPLIT}:
        raise InputError(f"{folder} holds {min(strange)!r}, which is of no set; set INNERLOOP_DATA to a folder of its own")
    shutil.rmtree(half, ignore_errors=True)
    try:
        read = from_paths(paths, size, bool(known and known.invert), bool(known and known.release), grey)
        write(name, read, half, origin)
        if own:
            shutil.copy(str(wanted), half / SPLIT)
        for part in PARTS:
            if chosen and getattr(chosen, part):
                chosen.of(open_images(half), part, missing)
        shutil.rmtree(folder, ignore_errors=True)
        half.replace(folder)
    finally:
        shutil.rmtree(half, ignore_errors=True)
    return folder


def check(name: str) -> list[tuple[str, int, int]]:
    """Verify a set's checksums, and count classes and images: of all, then of each part of its split.

    Raises:
        InputError: a file is damaged, or the set is not there.
    """
    images = found(name)
    if not (place(name) / INDEX).is_file():
        raise InputError(f"{name} are drawn when they are used and not kept, so there is nothing to check; use them as they are")
    for file in KNOWN[name].files if name in KNOWN else ():
        path = root() / "downloads" / file.name
        if path.exists() and checksum(path) != file.md5:
            raise InputError(f"{path} is damaged: its md5 is not {file.md5}; delete it, and run innerloop data get {name}")
    if checksum(place(name) / PIXELS) != json.loads((place(name) / INDEX).read_text()).get("md5"):
        raise InputError(f"the images of {name} in {place(name)} are damaged; delete the folder, and get or build it again")
    rows = [("all", len(images.classes), len(images.pixels))]
    origin = about(name)
    if origin.get("split"):
        split = split_for(name)
        for part in PARTS:
            if getattr(split, part):
                classes = split.of(images, part, origin.get("missing", "error"))
                rows.append((part, len(classes), sum(images.counts[k] for k in classes)))
    return rows


def download(file: File, folder: Path, progress: bool = True) -> Path:
    """A file, fetched unless it is there with the right checksum; what came of it before stays in ``NAME.part`` and is gone on with.

    Raises:
        InputError: the server cannot be reached, the download broke off, or what came is another file.
    """
    import pooch

    pooch.get_logger().setLevel("WARNING")
    fetch: Any = _Resuming(file, folder / f"{file.name}.part", progress)
    return Path(pooch.retrieve(file.url, f"md5:{file.md5}", file.name, folder, downloader=fetch))


@dataclass
class _Resuming:
    """A downloader for pooch, which has none that goes on where another stopped."""

    file: File
    part: Path
    progress: bool

    def __call__(self, url: str, target: Any, _: Any) -> None:
        from requests import RequestException, get

        have = self.part.stat().st_size if self.part.exists() else 0
        headers = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={have}-"} if have else {})
        try:
            with get(url, headers=headers, stream=True, timeout=30) as answer:
                if answer.status_code != 416:  # else nothing follows what is there, and the checksum judges that
                    if not answer.ok:
                        raise InputError(f"{url} answers {answer.status_code} {answer.reason}; {self._otherwise()}")
                    self._receive(answer, have if answer.status_code == 206 else 0)
        except RequestException as problem:
            said = f"{url} cannot be reached ({type(problem).__name__}); see that this machine is online, or {self._otherwise()}"
            raise InputError(said) from problem
        if (md5 := checksum(self.part)) != self.file.md5:
            size = self.part.stat().st_size
            self.part.unlink()
            raise InputError(
                f"{self.file.name} came whole, {size:,} bytes, but is another file: its md5 is {md5}, not {self.file.md5}; "
                f"run it again to fetch it anew, or {self._otherwise()}"
            )
        self.part.replace(target)

    def _receive(self, answer: Any, have: int) -> None:
        """Append what comes to what is there."""
        from requests import RequestException

        rest, broke = int(answer.headers.get("Content-Length", 0)), False
        whole = have + rest
        with (
            self.part.open("ab" if have else "wb") as out,
            bar(f"{self.file.name}, kB", whole // 1000, have // 1000, self.progress) as shown,
        ):
            try:
                for block in answer.iter_content(BLOCK):
                    out.write(block)
                    shown.to(out.tell() // 1000)
            except RequestException:
                broke = True
            size = out.tell()
        if broke or (rest and size < whole):
            of = f" of {whole:,}" if rest else ""
            raise InputError(f"{self.file.name} broke off after {size:,}{of} bytes; run it again, and it goes on from there")

    def _otherwise(self) -> str:
        return f"fetch {self.file.name} elsewhere, and give it to innerloop data build with --from"
