"""Image files: by folders of examples to probabilities, on the screen and as CSV."""

import csv
import os
from pathlib import Path

import numpy
import pytest
import torch
from PIL import Image
from torch import nn

import innerloop as il
from innerloop import InputError, Learner, Task, folders
from innerloop.cli import main
from innerloop.experiments.experiment import ACCURACY
from innerloop.folders import input_colours, input_shape, predict_images, shots_in
from innerloop.images import from_folder

SHAPE = (1, 12, 12)
CLASSES = ["across", "blank", "down"]


def learner_of(ways: int = 4, channels: int = 1) -> Learner:
    net = nn.Sequential(nn.Conv2d(channels, 4, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 12 * 12, ways))
    generator = torch.Generator().manual_seed(0)
    for p in net.parameters():
        nn.init.normal_(p, std=0.1, generator=generator)
    return il.maml(net, il.cross_entropy(net), steps=10, rate=0.2)


def noise(generator: torch.Generator) -> Task:
    x, y = torch.rand(8, *SHAPE, generator=generator), torch.arange(8) % 4
    return Task((x[:4], y[:4]), (x[4:], y[4:]))


def drawn(name: str, k: int) -> Image.Image:
    """Ink of a class as bright pixels on black: stripes across, none, or stripes down."""
    pixels = numpy.zeros((12, 12), numpy.uint8)
    if name != "blank":
        pixels[1::3] = 150 + 10 * k
    return Image.fromarray(pixels.T if name == "down" else pixels)


@pytest.fixture
def support(tmp_path: Path) -> Path:
    """A folder of three class folders with three images each; one of them lies deeper."""
    for name in CLASSES:
        for k in range(3):
            place = tmp_path / "support" / name / ("deeper" if k == 2 else "")
            place.mkdir(parents=True, exist_ok=True)
            drawn(name, k).save(place / f"{k}.png")
    (tmp_path / "support/notes.txt").write_text("no image")
    return tmp_path / "support"


@pytest.fixture
def query(tmp_path: Path) -> Path:
    """A folder of images, flat and nested, in many formats."""
    folder = tmp_path / "query"
    (folder / "more").mkdir(parents=True)
    drawn("down", 5).save(folder / "a.png")
    drawn("across", 4).convert("RGB").resize((24, 24), Image.Resampling.NEAREST).save(folder / "b.bmp")
    drawn("across", 6).save(folder / "more/c.PNG")
    drawn("blank", 0).convert("P").save(folder / "more/d.gif")
    return folder


def test_files_are_classified_by_folders_of_examples(support: Path, query: Path) -> None:
    found = predict_images(learner_of(), support, query, SHAPE)
    assert [file.as_posix() for file in found.files] == ["a.png", "b.bmp", "more/c.PNG", "more/d.gif"]
    assert found.classes == CLASSES
    assert [name for name, _ in found.best] == ["down", "across", "across", "blank"]
    assert found.probabilities.sum(1).tolist() == pytest.approx([1] * 4)
    x = torch.stack([torch.from_numpy(numpy.array(drawn(name, k))) for name in CLASSES for k in range(3)])[:, None] / 255
    at = torch.from_numpy(numpy.array(drawn("down", 5)))[None, None] / 255
    logits = il.predict(learner_of(), (x, torch.arange(3).repeat_interleave(3)), at)[:, :3]
    torch.testing.assert_close(found.probabilities[:1], logits.softmax(1))


def test_steps_are_those_asked_for(support: Path, query: Path) -> None:
    before, after = (predict_images(learner_of(), support, query, SHAPE, steps=k).probabilities for k in (0, 10))
    assert (before - after).abs().max() > 0.1
    torch.testing.assert_close(after, predict_images(learner_of(), support, query, SHAPE).probabilities)


def test_many_queries_are_read_in_parts(support: Path, query: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = predict_images(learner_of(), support, query, SHAPE)
    monkeypatch.setattr(folders, "TOGETHER", 3)
    torch.testing.assert_close(predict_images(learner_of(), support, query, SHAPE).probabilities, whole.probabilities)


def test_dark_ink_is_inverted_when_asked_for(support: Path, query: Path, tmp_path: Path) -> None:
    bright = predict_images(learner_of(), support, query, SHAPE)
    for file in [*support.rglob("*.png"), *query.rglob("*.*")]:
        with Image.open(file) as image:
            dark = image.convert("L").point([255 - k for k in range(256)])
        dark.save(file)
    torch.testing.assert_close(predict_images(learner_of(), support, query, SHAPE, invert=True).probabilities, bright.probabilities)


def test_images_are_scaled_as_in_training(support: Path, query: Path, tmp_path: Path) -> None:
    """A network that scales by itself, and one that gets scaled images, say the same."""

    class Scaled(nn.Module):
        def __init__(self, net: nn.Module):
            super().__init__()
            self.net = net

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.net((x - 0.3) / 0.2)

    net = nn.Sequential(nn.Flatten(), nn.Linear(144, 4))
    inside, outside = (il.maml(n, il.cross_entropy(n), steps=3, rate=0.1) for n in (Scaled(net), net))
    expected = predict_images(inside, support, query, SHAPE, progress=False).probabilities
    found = predict_images(outside, support, query, SHAPE, mean=(0.3,), sd=(0.2,), progress=False).probabilities
    torch.testing.assert_close(found, expected)
    (tmp_path / "run.json").write_text('{"settings": {"colours": "cifar"}}')
    assert input_colours(tmp_path) == ((0.5071, 0.4847, 0.4408), (0.2675, 0.2565, 0.2761))
    assert input_colours(tmp_path / "nothing") == ((0.0,), (1.0,))


def test_what_is_transparent_is_white(tmp_path: Path) -> None:
    ink = Image.new("RGBA", (12, 12), (0, 0, 0, 0))
    ink.paste((0, 0, 0, 255), (0, 0, 6, 12))
    ink.save(tmp_path / "ink.png")
    pixels = folders._pixels(tmp_path / "ink.png", SHAPE)[:, :, 0]
    assert (pixels[:, :3] < 20).all()
    assert (pixels[:, 9:] > 235).all()
    assert folders._pixels(tmp_path / "ink.png", (3, 6, 4)).shape == (6, 4, 3)


def test_the_input_is_read_off_the_run(tmp_path: Path) -> None:
    il.train(learner_of(), il.from_function(noise), 2, meta_batch=2, out=tmp_path, progress=False)
    assert input_shape(tmp_path) == (1, 28, 28)
    assert input_shape(tmp_path, size=12) == SHAPE
    (tmp_path / "run.json").write_text('{"settings": {"channels": 3}}')
    assert input_shape(tmp_path) == (3, 84, 84)
    (tmp_path / "run.json").write_text('{"settings": {"channels": 3, "size": 32}}')
    assert input_shape(tmp_path) == (3, 32, 32)
    (tmp_path / "run.json").write_text('{"settings": {"channels": 2}}')
    with pytest.raises(InputError, match=r"takes images of 2 channels, and nothing tells their size; give it with --size"):
        input_shape(tmp_path)


def test_a_run_without_convolutions_takes_no_images(tmp_path: Path) -> None:
    net = il.mlp(1, 4, 1)
    il.train(il.maml(net, il.mse(net)), il.Sinusoids(), 2, out=tmp_path, progress=False)
    with pytest.raises(InputError, match="has no convolution, so it is not known to take images; give examples as CSV"):
        input_shape(tmp_path)


def test_bad_folders_and_images_are_named(support: Path, query: Path, tmp_path: Path) -> None:
    def refused(message: str, support: Path = support, query: Path = query, ways: int = 4, shape: tuple[int, int, int] = SHAPE) -> None:
        with pytest.raises(InputError, match=message):
            predict_images(learner_of(ways), support, query, shape)

    empty = tmp_path / "empty"
    empty.mkdir()
    refused("there is no folder .*nowhere; check its name", support=tmp_path / "nowhere")
    refused("there is no folder .*nowhere; check its name", query=tmp_path / "nowhere")
    refused("empty has no class folders; put the images of each class into a folder", support=empty)
    refused(r"empty has no images; put files in it that end in \.bmp", query=empty)
    refused("the support has 3 classes but the learner's head has 2 outputs; give fewer classes", ways=2)
    refused(r"the network does not take x of shape \[9, 1, 28, 28\]", shape=(1, 28, 28))
    refused("the network takes images of 2 channels, which files do not have", shape=(2, 12, 12))
    (support / "empty").mkdir()
    refused(r"support.empty has no images")
    (support / "empty").rmdir()
    drawn("down", 0).save(support / "loose.png")
    refused(r"loose\.png lies in no class folder; move it into one")
    (support / "loose.png").unlink()
    Image.fromarray(numpy.zeros((12, 12), numpy.uint16)).save(query / "deep.png")
    refused(r"deep\.png has more than 8 bits a channel; convert it to 8")
    content = (query / "a.png").read_bytes()
    for broken in (content[: len(content) // 2], b"", b"no image at all"):
        (query / "deep.png").write_bytes(broken)
        refused(r"deep\.png cannot be read as an image \(.*\); replace it or take it out")


def test_the_command_shows_a_table_and_writes_every_probability(
    support: Path, query: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    il.train(learner_of(), il.from_function(noise), 2, meta_batch=2, out=run, progress=False)
    loaded = il.load(run, learner_of())
    monkeypatch.setattr("innerloop.commands.adapt._adaptable", lambda *given: (loaded, ACCURACY))
    words = ["adapt", str(run), "--support", str(support), "--query", str(query), "--size", "12"]
    assert main([*words, "--out", str(tmp_path / "found.csv")]) == 0
    shown = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert shown[0] == ["file", "prediction", "probability"]
    expected = predict_images(loaded, support, query, SHAPE)
    with (tmp_path / "found.csv").open() as file:
        rows = list(csv.reader(file))
    assert rows[0] == ["file", "prediction", *CLASSES]
    for row, line, name, best, probabilities in zip(
        rows[1:], shown[1:], expected.files, expected.best, expected.probabilities.tolist(), strict=True
    ):
        assert row[:2] == line[:2] == [name.as_posix(), best[0]]
        assert line[2] == f"{best[1]:.3f}"
        assert [float(p) for p in row[2:]] == pytest.approx(probabilities, rel=1e-5)

    assert main([*words[:-2], "--size", "0"]) == 2
    assert "size is 0; give the height and width in pixels" in capsys.readouterr().err
    (query / "a.png").write_bytes(b"")
    assert main([*words, "--out", str(tmp_path / "none.csv")]) == 2
    assert "a.png cannot be read as an image" in capsys.readouterr().err
    assert not (tmp_path / "none.csv").exists()


def test_options_of_images_are_refused_for_csv(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["adapt", "nowhere", "--support", "a.csv", "--query", "b.csv", "--invert"]) == 2
    assert "--size and --invert are of images, but a.csv is no folder of them; leave them out" in capsys.readouterr().err


def test_hidden_folders_are_passed_over_and_pictures_are_as_one_sees_them(support: Path, query: Path, tmp_path: Path) -> None:
    expected = predict_images(learner_of(), support, query, SHAPE)
    for hidden in (support / "across/.ipynb_checkpoints", query / ".thumbs", support / "down/__MACOSX"):
        hidden.mkdir()
        drawn("blank", 0).save(hidden / "0.png")
    found = predict_images(learner_of(), support, query, SHAPE)
    assert found.files == expected.files
    assert torch.equal(found.probabilities, expected.probabilities)
    assert shots_in(support) == 3
    place = tmp_path / "set/one"
    place.mkdir(parents=True)
    stroke = Image.new("RGBA", (12, 12), (0, 0, 0, 0))
    stroke.putpixel((3, 3), (0, 0, 0, 255))
    stroke.save(place / "a.png")
    turned, lying = Image.fromarray(numpy.arange(144, dtype=numpy.uint8).reshape(12, 12)), Image.Exif()
    lying[0x0112] = 6
    turned.save(place / "b.png", exif=lying)
    [built] = from_folder(tmp_path / "set", grey=True)
    for pixels, name in zip(built.pixels, "ab", strict=True):
        numpy.testing.assert_array_equal(pixels, folders._pixels(place / f"{name}.png", SHAPE))
    assert built.pixels[0].max() == 255
    assert not numpy.array_equal(built.pixels[1][..., 0], numpy.asarray(turned))


def test_names_that_are_no_text_are_shown_with_marks_in_their_place() -> None:
    found = folders.Predictions([Path(os.fsdecode(b"caf\xe9.png"))], ["a b", os.fsdecode(b"\xff")], torch.tensor([[0.25, 0.75]]))
    assert found.csv() == "file,prediction,a b,\ufffd\ncaf\ufffd.png,\ufffd,0.25,0.75\n"
