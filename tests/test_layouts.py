"""Sets that people have to get by hand: from files of their true layout, with every class, to a scored run, by the command line alone."""

import io
import json
import pickle
import tarfile
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy
import pytest
from PIL import Image

from innerloop import experiments
from innerloop.cli import main
from innerloop.images import split_of, splits

EACH = 6
"""Images of a class: one for the support, five for the query."""
NETWORK = [
    "--filters",
    "4",
    "--queries",
    "5",
    "--test-queries",
    "5",
    "--iterations",
    "1",
    "--test-tasks",
    "6",
    "--quick",
    "--no-progress",
    "--engine",
    "loop",
]


def pictures(classes: int, size: int, each: int = EACH) -> numpy.ndarray:
    """Images that are easy to tell apart: a class has a colour of its own, ``[classes · each, size, size, 3]``."""
    colours = numpy.random.default_rng(0).integers(40, 216, size=(classes, 1, 1, 1, 3))
    noise = numpy.random.default_rng(1).integers(-30, 31, size=(1, each, size, size, 1))
    return (colours + noise).astype(numpy.uint8).reshape(-1, size, size, 3)


def numbered(classes: int, first: int = 0) -> list[int]:
    return [first + k for k in range(classes) for _ in range(EACH)]


def pickled(path: Path, content: object) -> str:
    path.write_bytes(pickle.dumps(content, 2))
    return str(path)


def mini_imagenet(folder: Path) -> Sequence[str]:
    """``mini-imagenet-cache-{train,val,test}.pkl``, classes by WordNet id."""
    files = []
    for part in ("train", "val", "test"):
        names = getattr(split_of("ravi"), part)
        rows = {name: list(range(k * EACH, (k + 1) * EACH)) for k, name in enumerate(names)}
        held = {"image_data": pictures(len(names), 84), "class_dict": rows}
        files.append(pickled(folder / f"mini-imagenet-cache-{part}.pkl", held))
    return files


def tiered_imagenet(folder: Path) -> Sequence[str]:
    """``{part}_images_png.pkl`` with ``{part}_labels.pkl``: columns of bytes, classes in words, superclasses beside them."""
    files, known = [], splits.words("tiered")
    for part in ("train", "val", "test"):
        names = getattr(split_of("tiered"), part)
        general = sorted({known[name][1] for name in names})
        held = {
            "label_specific": numpy.array(numbered(len(names))),
            "label_specific_str": [known[name][0] for name in names],
            "label_general": numpy.array([general.index(known[name][1]) for name in names for _ in range(EACH)]),
            "label_general_str": general,
        }
        encoded = []
        for pixels in pictures(len(names), 84):
            Image.fromarray(pixels).save(png := io.BytesIO(), "PNG", compress_level=1)
            encoded.append(numpy.frombuffer(png.getvalue(), numpy.uint8)[:, None])
        files += [pickled(folder / f"{part}_images_png.pkl", encoded), pickled(folder / f"{part}_labels.pkl", held)]
    return files


def cifar_100(folder: Path) -> Sequence[str]:
    """``cifar-100-python.tar.gz``: rows of bytes, channel after channel, in a training and a test part."""
    fine = [name for part in ("train", "val", "test") for name in getattr(split_of("cifar-fs"), part)]
    coarse = [name for part in ("train", "val", "test") for name in getattr(split_of("fc100"), part)]
    x = pictures(100, 32).transpose(0, 3, 1, 2).reshape(-1, 3072)
    y = numbered(100)
    meta = {"fine_label_names": fine, "coarse_label_names": coarse}
    rows = {"train": slice(0, None, 2), "test": slice(1, None, 2)}
    parts = {
        part: {"data": x[of], "fine_labels": y[of], "coarse_labels": [label // 5 for label in y[of]], "filenames": []}
        for part, of in rows.items()
    }
    with tarfile.open(archive := folder / "cifar-100-python.tar.gz", "w:gz", compresslevel=1) as tar:
        for name, held in {"meta": meta, **parts}.items():
            member = tarfile.TarInfo(f"cifar-100-python/{name}")
            member.size = len(content := pickle.dumps(held, 2))
            tar.addfile(member, io.BytesIO(content))
    return [str(archive)]


def three_pickles(stem: str, counts: tuple[int, int, int]) -> Callable[[Path], Sequence[str]]:
    """``{data, labels}`` of each part, with numbers for classes: as MetaOptNet gives CIFAR-FS and FC100 on."""

    def made(folder: Path) -> Sequence[str]:
        files, first = [], 0
        for part, n in zip(("train", "val", "test"), counts, strict=True):
            held = {"data": pictures(n, 32), "labels": numbered(n, first)}
            files.append(pickled(folder / f"{stem}_{part}.pickle", held))
            first += n
        return [*files, "--split", "parts"]

    return made


LAYOUTS: dict[str, tuple[str, Callable[[Path], Sequence[str]], tuple[int, int, int], str]] = {
    "mini-imagenet": ("mini-imagenet", mini_imagenet, (64, 16, 20), "maml/mini-imagenet-5w1s"),
    "tiered-imagenet": ("tiered-imagenet", tiered_imagenet, (351, 97, 160), "l2f/tiered-imagenet-5w1s"),
    "cifar-fs": ("cifar-fs", cifar_100, (64, 16, 20), "l2f/cifar-fs-5w1s"),
    "fc100": ("fc100", cifar_100, (60, 20, 20), "l2f/fc100-5w1s@maml"),
    "cifar-fs, pickles": ("cifar-fs", three_pickles("CIFAR_FS", (64, 16, 20)), (64, 16, 20), "l2f/cifar-fs-5w1s@maml"),
    "fc100, pickles": ("fc100", three_pickles("FC100", (60, 20, 20)), (60, 20, 20), "l2f/fc100-5w1s"),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_set_by_hand_is_built_checked_and_run(
    layout: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    name, made, classes, experiment = LAYOUTS[layout]
    monkeypatch.setenv("INNERLOOP_DATA", str(tmp_path / "data"))
    (tmp_path / "got").mkdir()
    assert main(["data", "build", name, "--from", *made(tmp_path / "got")]) == 0
    shown = capsys.readouterr().out
    for part, n in zip(("train", "val", "test"), classes, strict=True):
        assert any(line.split() == [part, str(n), f"{n * EACH:,}"] for line in shown.splitlines()), shown
    assert main(["data", "check", name]) == 0
    assert "checksums are right" in capsys.readouterr().out
    run = ["run", experiment, "--out", str(tmp_path / "runs"), *NETWORK]
    if "pickles" in layout:
        assert main(run) == 2
        assert "was built with --split parts, which experiments take too" in capsys.readouterr().err
        run += ["--split", "parts"]
    assert main(run) == 0
    result = json.loads((tmp_path / "runs" / experiment / "seed0/result.json").read_text())
    [scored] = result["cases"].values()
    assert scored["mean"][-1] > 35, "colours tell the classes apart without training"
    assert result["settings"]["data"] == name
    [listed] = experiments.find(experiment)
    assert listed.claimed(result["settings"]) == listed.claims != {}, "the paper's number stands beside it"
