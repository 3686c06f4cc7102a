"""Fetching and building sets: downloads that break off, lie or go on, against a server on this machine."""

import hashlib
import io
import re
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import numpy
import pytest
from PIL import Image

from innerloop import InputError
from innerloop.cli import main
from innerloop.experiments import catalogue
from innerloop.experiments.few_shot import opened
from innerloop.images import fetch, found, open_images, place, split_for, split_of


@dataclass
class Served:
    """Files of a server by name, and how it behaves."""

    files: dict[str, bytes] = field(default_factory=dict)
    stop_after: int | None = None
    """bytes of an answer, then the connection ends"""
    ranges: bool = True
    asked: list[str | None] = field(default_factory=list)
    url: str = ""


@pytest.fixture
def served() -> Iterator[Served]:
    state = Served()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            state.asked.append(self.headers.get("Range"))
            content = state.files.get(self.path.strip("/"))
            if content is None:
                self.send_error(404)
                return
            start = int((self.headers.get("Range") or "bytes=0-")[6:-1]) if state.ranges else 0
            if start >= len(content):
                self.send_error(416)
                return
            self.send_response(206 if start else 200)
            self.send_header("Content-Length", str(len(content) - start))
            self.end_headers()
            self.wfile.write(content[start:][: state.stop_after])

        def log_message(self, format: str, *args: object) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    state.url = f"http://127.0.0.1:{server.server_port}"
    yield state
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of all sets, empty."""
    monkeypatch.setenv("INNERLOOP_DATA", str(tmp_path / "data"))
    return tmp_path / "data"


@pytest.fixture
def characters(served: Served, data: Path, monkeypatch: pytest.MonkeyPatch) -> bytes:
    """Omniglot's first archive in small, whose ``get`` asks our server."""
    out, names = io.BytesIO(), split_of("vinyals")
    with zipfile.ZipFile(out, "w") as archive:
        for name in (names.train[0], names.val[0], names.test[0]):
            png = io.BytesIO()
            Image.fromarray(numpy.random.default_rng(0).integers(0, 2, (105, 105), numpy.uint8) * 255).save(png, "PNG")
            archive.writestr(f"images_background/{name}/0001_01.png", png.getvalue())
    content = out.getvalue()
    served.files["a.zip"] = content
    file = fetch.File("a.zip", f"{served.url}/a.zip", hashlib.md5(content).hexdigest(), 1)
    monkeypatch.setitem(fetch.KNOWN, "omniglot", replace(fetch.KNOWN["omniglot"], files=(file,), split="parts"))
    return content


def download(data: Path) -> Path:
    return fetch.download(fetch.KNOWN["omniglot"].files[0], data / "downloads")


def left(data: Path) -> dict[str, int]:
    return {path.name: path.stat().st_size for path in sorted((data / "downloads").iterdir())}


def test_a_right_file_is_kept_and_not_fetched_twice(served: Served, characters: bytes, data: Path) -> None:
    assert download(data).read_bytes() == characters
    assert download(data) == data / "downloads/a.zip"
    assert served.asked == [None]
    assert list(left(data)) == ["a.zip"]


def test_a_download_that_breaks_off_says_so_and_goes_on(served: Served, characters: bytes, data: Path) -> None:
    served.stop_after = 4096
    for size in (4096, 8192):
        with pytest.raises(InputError, match=rf"a\.zip broke off after {size:,} of {len(characters):,} bytes; run it again, and"):
            download(data)
        assert left(data) == {"a.zip.part": size}
    served.stop_after = None
    assert download(data).read_bytes() == characters
    assert served.asked == [None, "bytes=4096-", "bytes=8192-"]
    assert list(left(data)) == ["a.zip"]


def test_a_server_without_ranges_is_asked_from_the_start(served: Served, characters: bytes, data: Path) -> None:
    served.stop_after, served.ranges = 4096, False
    with pytest.raises(InputError, match="broke off after 4,096 of"):
        download(data)
    served.stop_after = None
    assert download(data).read_bytes() == characters


def test_a_part_that_is_whole_already_is_taken(served: Served, characters: bytes, data: Path) -> None:
    (data / "downloads").mkdir(parents=True)
    (data / "downloads/a.zip.part").write_bytes(characters)
    assert download(data).read_bytes() == characters
    assert served.asked == [f"bytes={len(characters)}-"]


def test_another_file_than_the_right_one_is_refused_and_thrown_away(served: Served, characters: bytes, data: Path) -> None:
    served.files["a.zip"] = b"<html>please log in</html>"
    md5 = hashlib.md5(served.files["a.zip"]).hexdigest()
    with pytest.raises(InputError, match=rf"a\.zip came whole, 26 bytes, but is another file: its md5 is {md5}, not .*; run it again"):
        download(data)
    assert left(data) == {}


def test_a_part_of_another_file_is_thrown_away(served: Served, characters: bytes, data: Path) -> None:
    (data / "downloads").mkdir(parents=True)
    (data / "downloads/a.zip.part").write_bytes(b"x" * 1000)
    with pytest.raises(InputError, match="is another file"):
        download(data)
    assert left(data) == {}
    assert download(data).read_bytes() == characters


def test_a_server_that_refuses_or_is_gone(served: Served, characters: bytes, data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    del served.files["a.zip"]
    with pytest.raises(InputError, match=r"/a\.zip answers 404 Not Found; fetch a\.zip elsewhere, and give it to innerloop data build"):
        download(data)
    [file] = fetch.KNOWN["omniglot"].files
    gone = replace(file, url="http://127.0.0.1:9/a.zip")
    with pytest.raises(InputError, match=r"127\.0\.0\.1:9/a\.zip cannot be reached \(ConnectionError\); see that this machine is online"):
        fetch.download(gone, data / "downloads")
    assert left(data) == {}


def said(arguments: str, capsys: pytest.CaptureFixture[str]) -> tuple[int, str, str]:
    code = main(["data", *arguments.split()])
    captured = capsys.readouterr()
    return code, " ".join(captured.out.split()), captured.err


def test_get_fetches_builds_and_checks(
    served: Served, characters: bytes, data: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    split = data.parent / "mine.json"
    names = split_of("vinyals")
    split.write_text(f'{{"train": ["{names.train[0]}"], "test": ["{names.val[0]}", "{names.test[0]}"]}}')
    monkeypatch.setitem(fetch.KNOWN, "omniglot", replace(fetch.KNOWN["omniglot"], split=str(split)))
    code, out, _ = said("get omniglot", capsys)
    assert code == 0
    assert "Images(omniglot: 3 images of 3 classes, 1 × 28 × 28)" in out
    assert "all 3 3 train 1 1 test 2 2 a part of the whole, which has 32,460 images checksums are right" in out
    assert place("omniglot") == data / "omniglot"
    assert said("get omniglot", capsys)[0] == 0
    assert served.asked == [None]
    assert re.search(r"1,623 32,460 \S+ here .*omniglot-release", said("list", capsys)[1])

    pixels = (data / "omniglot/pixels.npy").read_bytes()
    (data / "omniglot/pixels.npy").write_bytes(pixels[:-1] + bytes([pixels[-1] ^ 1]))
    code, _, err = said("check omniglot", capsys)
    assert (code, err) == (
        2,
        f"innerloop: the images of omniglot in {data}/omniglot are damaged; delete the folder, and get or build it again\n",
    )
    (data / "downloads/a.zip").write_bytes(b"x")
    assert f"{data}/downloads/a.zip is damaged: its md5 is not" in said("check omniglot", capsys)[2]


@pytest.fixture
def animals(tmp_path: Path) -> Path:
    for k, name in enumerate(("ant", "bee", "cat")):
        (tmp_path / "animals" / name).mkdir(parents=True)
        Image.fromarray(numpy.full((6, 6, 3), 50 * k, numpy.uint8)).save(tmp_path / "animals" / name / "1.png")
    return tmp_path / "animals"


def test_a_set_of_ones_own_is_built_with_its_split(animals: Path, data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    mine = animals.parent / "mine.json"
    mine.write_text('{"train": ["cat", "bee"], "test": ["ant"]}')
    code, out, _ = said(f"build animals --from {animals} --size 4 --split {mine}", capsys)
    assert code == 0
    assert "Images(animals: 3 images of 3 classes, 3 × 4 × 4) part classes images all 3 3 train 2 2 test 1 1" in out
    mine.unlink()
    assert split_for("animals").of(found("animals"), "train") == [2, 1]
    assert "animals 3 3 split.json here" in said("list", capsys)[1]

    code, _, err = said(f"build animals --from {animals}", capsys)
    assert (code, err) == (2, f"innerloop: animals is in {data}/animals already; build it anew with --overwrite, or under another name\n")
    assert said(f"build animals --from {animals} --overwrite", capsys)[0] == 0
    assert found("animals").shape == (3, 6, 6)
    assert sorted(path.name for path in (data / "animals").iterdir()) == ["images.json", "pixels.npy"]
    with pytest.raises(InputError, match="animals was built without a split; build it again with --split"):
        split_for("animals")


def test_a_part_of_a_known_set_is_built_where_that_is_said(animals: Path, data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for wnid, name in zip(
        (split_of("ravi").train[0], split_of("ravi").val[0], split_of("ravi").test[0]), ("ant", "bee", "cat"), strict=True
    ):
        (animals / name).rename(animals / wnid)
    code, _, err = said(f"build mini-imagenet --from {animals}", capsys)
    assert code == 2
    assert "mini-imagenet lacks 63 of the 64 train classes of split ravi, the first 'n01558993'" in err
    assert list(data.iterdir()) == []
    for image in list(animals.glob("n*/*.png")):  # a shot and a query of each
        (image.parent / f"second {image.name}").write_bytes(image.read_bytes())
    code, out, _ = said(f"build mini-imagenet --from {animals} --missing drop", capsys)
    assert code == 0
    assert found("mini-imagenet").shape == (3, 84, 84)
    assert "train 1 2 val 1 2 test 1 2 a part of the whole" in out
    settings: Any = replace(catalogue()["maml/mini-imagenet-5w1s"].settings, ways=1)
    assert {part: len(own) for part, own in opened(settings, 1).classes.items()} == {"train": 1, "val": 1, "test": 1}


def test_files_that_are_of_no_set_are_never_replaced(animals: Path, data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (data / "animals").mkdir(parents=True)
    (data / "animals/thesis.txt").write_text("mine")
    code, _, err = said(f"build animals --from {animals} --overwrite", capsys)
    assert code == 2
    assert f"{data}/animals holds 'thesis.txt', which is of no set" in err
    assert (data / "animals/thesis.txt").read_text() == "mine"


BAD = [
    ("gte", "no command 'data gte'; did you mean get?"),
    ("get omniglut", "no known set 'omniglut'; did you mean omniglot?"),
    (
        "get mini-imagenet",
        "mini-imagenet cannot be fetched: its images are ImageNet's and may not be given on. With mini-imagenet-",
    ),
    ("get tiered-imagenet", "tiered-imagenet cannot be fetched: its images are ImageNet's"),
    ("check omniglot", "omniglot is not in DATA: innerloop data get omniglot fetches it"),
    (
        "check fc100",
        "fc100 is not in DATA: innerloop data get fc100 fetches it, or build it of the three pickles that",
    ),
    ("check mini-imagenet", "mini-imagenet is not in DATA: its images are ImageNet's"),
    ("check birds", "no set 'birds'; known: "),
    ("build ../x --from .", "'../x' is no name for a set; use letters, digits, - and _"),
    ("build downloads --from .", "'downloads' is no name for a set"),
    ("build omniglot --from gone.zip", "there is no file gone.zip; check its name"),
    ("build birds --from . --split vinylas", "no split 'vinylas'; did you mean vinyals?"),
    ("build birds --from .", ". holds no class folders; give a folder"),
    ("build birds", "Missing"),
]


@pytest.mark.parametrize(("arguments", "message"), BAD, ids=[arguments for arguments, _ in BAD])
def test_bad_input_is_one_line_with_code_2_and_leaves_nothing(
    arguments: str, message: str, data: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (data.parent / "here").mkdir()
    monkeypatch.chdir(data.parent / "here")
    code, _, err = said(arguments, capsys)
    assert (code, err.count("\n")) == (2, 1)
    assert message.replace("DATA", str(data)) in err
    assert not data.exists() or list(data.iterdir()) == []


def test_help_and_the_lists(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = said("", capsys)
    assert code == 0
    assert all(name in out for name in ("list", "get", "check", "build"))
    code, out, _ = said("list", capsys)
    assert code == 0
    assert all(name in out for name in fetch.sets())
    assert all(name in out for name in ("ravi", "vinyals", "omniglot-1200"))


def test_omniglot_itself_is_built_of_its_archives(shared: Path, data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    paths = [str(shared / f"omniglot/images_{part}.rebuilt.zip") for part in ("background", "evaluation")]
    code, out, _ = said(f"build omniglot-release --from {' '.join(paths)}", capsys)
    assert code == 0
    assert "all 1,623 32,460 train 1,100 22,000 val 100 2,000 test 423 8,460 checksums are right" in out
    assert set(numpy.unique(open_images(place("omniglot-release")).pixels[:50]).tolist()) == {0, 255}
    assert split_for("omniglot-release") == split_of("omniglot-release")


def test_grey_and_coloured_images_are_made_alike_where_that_is_asked(data: Path, tmp_path: Path) -> None:
    for k, mode in enumerate(("L", "RGB")):
        (tmp_path / f"mixed/{k}").mkdir(parents=True)
        Image.new(mode, (4, 4)).save(tmp_path / f"mixed/{k}/a.png")
    with pytest.raises(InputError, match="make all alike with grey=True or grey=False"):
        fetch.build("mixed", [tmp_path / "mixed"])
    fetch.build("mixed", [tmp_path / "mixed"], grey=True)
    assert fetch.found("mixed").shape == (1, 4, 4)
