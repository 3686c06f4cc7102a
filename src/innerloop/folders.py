"""Image files as examples: each file of one folder is classified by a folder of class folders."""

import csv
import io
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy
import torch
from torch import Tensor

from innerloop import checkpoint
from innerloop.checkpoint import PRIOR
from innerloop.errors import InputError
from innerloop.evaluate import adapted, check_classes, predict_with
from innerloop.experiments.few_shot import COLOURS
from innerloop.experiments.kept import RUN
from innerloop.images.decode import upright
from innerloop.images.read import SUFFIXES, is_hidden
from innerloop.learner import Learner
from innerloop.progress import bar

USUAL_SIZE = {1: 28, 3: 84}  # pixels, by channels: Omniglot's and mini-ImageNet's
MODES = {1: "L", 3: "RGB"}
TOGETHER = 500  # query images in memory at once


@dataclass(frozen=True)
class Predictions:
    """Class probabilities of image files.

    Args:
        files: below the query folder, in order.
        classes: names of the support's class folders, in order.
        probabilities: ``[files, classes]``.
    """

    files: Sequence[Path]
    classes: Sequence[str]
    probabilities: Tensor

    @property
    def best(self) -> list[tuple[str, float]]:
        """The most probable class of each file, and its probability."""
        values, numbers = self.probabilities.max(1)
        return [(self.classes[int(k)], p) for k, p in zip(numbers.tolist(), values.tolist(), strict=True)]

    def csv(self) -> str:
        """A line of names, then one for each file: the file, its prediction, the probability of every class."""
        text = io.StringIO()
        lines = csv.writer(text, lineterminator="\n")
        lines.writerow(["file", "prediction", *map(legible, self.classes)])
        for file, (name, _), row in zip(self.files, self.best, self.probabilities.tolist(), strict=True):
            lines.writerow([legible(file), legible(name), *(f"{p:.6g}" for p in row)])
        return text.getvalue()


def legible(name: str | Path) -> str:
    """A file's name as text, where what is no UTF-8 in it is replaced."""
    return os.fsencode(Path(name).as_posix()).decode(errors="replace")


def input_shape(run: str | Path, size: int | None = None) -> tuple[int, int, int]:
    """Channels, height and width of the images that a run was trained on.

    They are ``channels`` and ``size`` among the settings of the run. Where those say nothing,
    channels are what the first convolution takes, and the size is 28 for one and 84 for three.

    Args:
        run: the run's folder.
        size: height and width, in the place of what is found.

    Raises:
        InputError: the run is of no image learner, or nothing tells the size.
    """
    run, settings = Path(run), _settings(run)
    channels = settings.get("channels")
    if channels is None:
        kernels = [t for name, t in checkpoint.read(run / PRIOR)[0].items() if name.startswith("net.") and t.ndim == 4]
        if not kernels:
            raise InputError(f"the run in {run} has no convolution, so it is not known to take images; give examples as CSV")
        channels = min(kernel.shape[1] for kernel in kernels)  # later ones take more: the filters of those before
    size = size or settings.get("size") or USUAL_SIZE.get(channels)
    if size is None:
        raise InputError(f"the run in {run} takes images of {channels} channels, and nothing tells their size; give it with --size")
    return channels, size, size


def input_colours(run: str | Path) -> tuple[Sequence[float], Sequence[float]]:
    """Mean and deviation of each channel that a run took off its images and divided them by; (0,) and (1,) where it did not."""
    return COLOURS[_settings(run).get("colours", "plain")]


def _settings(run: str | Path) -> dict[str, Any]:
    """What a run was set to; nothing where it is of no listed experiment."""
    about = Path(run) / RUN
    return checkpoint.read_json(about).get("settings", {}) if about.is_file() else {}


def predict_images(
    learner: Learner,
    support: str | Path,
    query: str | Path,
    shape: tuple[int, int, int],
    *,
    invert: bool = False,
    mean: Sequence[float] = (0.0,),
    sd: Sequence[float] = (1.0,),
    steps: int | None = None,
    progress: bool = True,
) -> Predictions:
    """Classify the image files of a folder, after adapting to a folder of class folders.

    Images become grey or coloured as the network takes them, are resized as a whole whatever
    their aspect, laid on white where they are transparent, and scaled to 0 … 1. A network that
    normalises by the batch sees up to 500 query images together, and predicts by all of them.

    Args:
        learner: a classifier of images, such as ``load(run, shots=shots_in(support))``.
        support: has a folder for each class, named after it; images in it may lie deeper.
        query: has the images to classify, which may lie deeper.
        shape: channels, height and width that the network takes, such as ``input_shape(run)``.
        invert: dark becomes bright: for dark ink on light paper, where training had bright ink
            on black, as in Omniglot.
        mean, sd: of each channel, taken off and divided by as in training, such as ``input_colours(run)``.
        steps: of adaptation; by default as many as the learner takes.
        progress: show a bar.

    Raises:
        InputError: a folder is missing or has no images, an image is damaged, there are more
            classes than the head has outputs, or the images do not fit the network.
    """
    classes, examples = _support(support)
    files = _image_files(Path(query))

    def read(files: Sequence[Path], what: str) -> Tensor:
        x = _read(files, shape, invert, what, progress)
        return (x - torch.tensor(mean).view(-1, 1, 1)) / torch.tensor(sd).view(-1, 1, 1)

    x = read([file for some in examples for file in some], "reading the support")
    y = torch.arange(len(classes)).repeat_interleave(torch.tensor([len(some) for some in examples]))
    check_classes(learner, x, len(classes))
    params = adapted(learner, (x, y), steps)
    parts = []
    for first in range(0, len(files), TOGETHER):
        what = f"reading the query from image {first + 1}" if len(files) > TOGETHER else "reading the query"
        logits = predict_with(learner, params, read(files[first : first + TOGETHER], what))
        parts.append(logits[:, : len(classes)].softmax(1).cpu())
    return Predictions([file.relative_to(query) for file in files], [folder.name for folder in classes], torch.cat(parts))


def shots_in(support: str | Path) -> int:
    """Images of a class in a folder of class folders, their mean, rounded: what ``load(run, shots=…)`` wants to know.

    Raises:
        InputError: as for ``predict_images``.
    """
    classes, examples = _support(support)
    return max(round(sum(map(len, examples)) / len(classes)), 1)


def _support(support: str | Path) -> tuple[list[Path], list[list[Path]]]:
    """Class folders, and the images of each."""
    classes = _class_folders(Path(support))
    return classes, [_image_files(folder) for folder in classes]


def _class_folders(support: Path) -> list[Path]:
    if not support.is_dir():
        raise InputError(f"there is no folder {support}; check its name")
    inside = sorted(path for path in support.iterdir() if not is_hidden(path, support))
    classes = [path for path in inside if path.is_dir()]
    if not classes:
        raise InputError(f"{support} has no class folders; put the images of each class into a folder named after it")
    if loose := [path for path in inside if path.suffix.lower() in SUFFIXES and path.is_file()]:
        raise InputError(f"{loose[0]} lies in no class folder; move it into one")
    return classes


def _image_files(folder: Path) -> list[Path]:
    if not folder.is_dir():
        raise InputError(f"there is no folder {folder}; check its name")
    found = [path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES and path.is_file() and not is_hidden(path, folder)]
    if not found:
        raise InputError(f"{folder} has no images; put files in it that end in {', '.join(SUFFIXES)}")
    return sorted(found)


def _read(files: Sequence[Path], shape: tuple[int, int, int], invert: bool, what: str, progress: bool) -> Tensor:
    """Images ``[files, channels, height, width]`` in 0 … 1."""
    pixels = []
    with bar(what, len(files), show=progress) as shown:
        for done, file in enumerate(files, 1):
            pixels.append(_pixels(file, shape))
            shown.to(done)
    x = torch.from_numpy(numpy.stack(pixels)).movedim(-1, 1).float().div_(255)
    return 1 - x if invert else x


def _pixels(file: Path, shape: tuple[int, int, int]) -> numpy.ndarray:
    """An image as uint8 ``[height, width, channels]``."""
    from PIL import Image

    channels, height, width = shape
    if channels not in MODES:
        raise InputError(f"the network takes images of {channels} channels, which files do not have; 1 or 3 can be read")
    try:
        with Image.open(file) as opened:
            if opened.mode.startswith(("I", "F")):
                raise InputError(f"{file} has more than 8 bits a channel; convert it to 8")
            image = upright(opened).convert(MODES[channels]).resize((width, height), Image.Resampling.LANCZOS)
    except InputError:
        raise
    except Exception as problem:  # decoders raise what they like when bytes are wrong
        raise InputError(f"{file} cannot be read as an image ({problem}); replace it or take it out") from problem
    return numpy.array(image).reshape(height, width, channels)
