"""Characters as a few-shot set: the same every time, no two classes alike, neither trivial nor hopeless."""

import json
import re
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

import numpy
import pytest

from innerloop import InputError
from innerloop.cli import main
from innerloop.images import Class, Images, glyph_split, glyphs, images
from innerloop.images.store import INDEX

module = import_module("innerloop.images.glyphs")  # the package has the function under this name


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder for what is kept, empty at first."""
    folder = tmp_path_factory.mktemp("data")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("INNERLOOP_DATA", str(folder))
        yield folder


@pytest.fixture(scope="module")
def set_(data: Path) -> Images:
    """The set as it is by default."""
    return glyphs()


def test_there_are_many_classes_of_twenty_images(set_: Images) -> None:
    assert len(set_.classes) > 2000
    assert set(set_.counts) == {20}
    assert set_.shape == (1, 28, 28)
    assert len(set(set_.groups)) == 20


def test_a_class_is_named_after_its_script_and_character(set_: Images) -> None:
    assert set_.groups[list(set_.classes).index("Greek/U+03B1 small letter alpha")] == "Greek"
    assert all(
        re.fullmatch(re.escape(group) + r"/U\+[0-9A-F]{4,5} .+", name) for name, group in zip(set_.classes, set_.groups, strict=True)
    )


def test_ink_is_bright_on_black(set_: Images) -> None:
    brightest = set_.pixels.reshape(len(set_.pixels), -1).max(1)
    assert brightest.min() > 100
    assert numpy.median(brightest) == 255
    assert 0.02 < (set_.pixels > 127).mean() < 0.25
    assert (set_.pixels[:, [0, -1]] == 0).mean() > 0.97, "the margin is black"


def test_characters_that_look_the_same_are_one_class(set_: Images) -> None:
    codes = [int(re.findall(r"U\+([0-9A-F]+)", name)[0], 16) for name in set_.classes]
    assert ord("A") in codes
    assert not {ord("Α"), ord("А")} & set(codes), "Greek and Cyrillic have the Latin letter's shape"
    faces = module._faces(28 * module.EM * module.FINER)
    assert len({module._upright(faces, code, 28).tobytes() for code in codes}) == len(codes)
    assert "Latin/U+006F small letter o" in set_.classes
    assert ord("օ") not in codes, "the Armenian letter differs from the Latin by less than one sees"


def test_images_of_a_class_differ(set_: Images) -> None:
    of_each = numpy.asarray(set_.pixels).reshape(len(set_.classes), 20, -1)
    assert min(len({image.tobytes() for image in own}) for own in of_each) > 15


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    """Four scripts alone, which are drawn at once."""
    monkeypatch.setattr(module, "SCRIPTS", {name: module.SCRIPTS[name] for name in ("Greek", "Hebrew", "Lao", "Lisu")})


@pytest.mark.usefixtures("few")
def test_the_set_is_a_function_of_its_arguments(data: Path) -> None:
    a, b, more, other = glyphs(12, 2), glyphs(12, 2), glyphs(12, 3), glyphs(12, 2, seed=1)
    assert a.classes == b.classes == more.classes == other.classes
    numpy.testing.assert_array_equal(a.pixels, b.pixels)
    assert (a.pixels != other.pixels).any()
    numpy.testing.assert_array_equal(a.of(a.classes[7]), more.of(a.classes[7])[:2])


@pytest.mark.usefixtures("few")
def test_the_experiment_that_needs_no_download_runs(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", "maml/glyphs-5w1s", "--quick", "--no-progress", "--filters", "4", "--test-tasks", "20", "--out", str(data)]) == 0
    [scored] = json.loads((data / "maml/glyphs-5w1s/seed0/result.json").read_text())["cases"].values()
    assert scored["mean"][0] == pytest.approx(20, abs=12)
    assert scored["mean"][-1] > scored["mean"][0] + 10
    assert "maml/glyphs-5w1s" in capsys.readouterr().out


def test_what_took_long_is_kept(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "WORTH_KEEPING", 0.0)
    built = glyphs(10, 1, seed=5)
    [folder] = data.glob(".glyphs-10-1-5-*")
    assert (folder / INDEX).exists()
    monkeypatch.setattr(module, "_faces", None)
    kept = glyphs(10, 1, seed=5)
    numpy.testing.assert_array_equal(kept.pixels, built.pixels)
    assert (kept.classes, kept.groups) == (built.classes, built.groups)


@pytest.mark.usefixtures("few")
def test_bad_input_is_named(data: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="size is 4, per_class 20 and seed 0; give at least 8, 1 and 0"):
        glyphs(size=4)
    monkeypatch.setattr(module, "WORTH_KEEPING", 0.0)
    (tmp_path / "file").touch()
    monkeypatch.setenv("INNERLOOP_DATA", str(tmp_path / "file"))
    with pytest.raises(InputError, match=r"cannot write .*file/.glyphs-8-1-0.*set INNERLOOP_DATA to a folder that can be written"):
        glyphs(8, 1)
    monkeypatch.setattr(module, "FACES", ("Comic",))
    with pytest.raises(InputError, match=r"matplotlib came without its font .*Comic.ttf"):
        glyphs(8, 1, seed=9)


def test_a_split_keeps_scripts_together_and_has_its_shares(set_: Images) -> None:
    split = glyph_split(set_)
    assert sorted(k for numbers in split.values() for k in numbers) == list(range(len(set_.classes)))
    groups = {name: {set_.groups[k] for k in numbers} for name, numbers in split.items()}
    assert sum(len(found) for found in groups.values()) == 20, "no group is in two"
    shares = [len(numbers) / len(set_.classes) for numbers in split.values()]
    assert shares == pytest.approx([0.60, 0.15, 0.25], abs=0.02)
    two = images("two", [Class(name, numpy.zeros((1, 8, 8, 1), numpy.uint8), name) for name in "ab"])
    with pytest.raises(InputError, match="two has 2 groups; splitting by group needs 3 or more"):
        glyph_split(two)


def test_nearest_pixels_are_neither_hopeless_nor_enough(set_: Images) -> None:
    random = numpy.random.default_rng(0)
    x = (numpy.asarray(set_.pixels).reshape(len(set_.classes), 20, -1) / 255).astype(numpy.float32)
    right = []
    for _ in range(600):
        five = random.choice(len(x), 5, replace=False)
        own = numpy.stack([x[k, random.permutation(20)[:6]] for k in five])
        distance = ((own[:, 1:, None] - own[None, None, :, 0]) ** 2).sum(-1)
        right.append((distance.argmin(-1) == numpy.arange(5)[:, None]).mean())
    assert 0.40 < numpy.mean(right) < 0.90
