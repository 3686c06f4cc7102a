"""Readers: every layout that people have, in small; and the real sets where they are."""

import io
import json
import pickle
import tarfile
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy
import pytest
from PIL import Image

from innerloop import InputError
from innerloop.images import (
    Class,
    from_arrays,
    from_cifar100,
    from_csv,
    from_folder,
    from_hub,
    from_npz,
    from_paths,
    from_pickle,
    from_zips,
    images,
    open_images,
    save,
    split_of,
    write,
)


def drawn(k: int, size: int = 8, colour: bool = True) -> numpy.ndarray:
    return numpy.random.default_rng(k).integers(0, 256, (size, size, 3) if colour else (size, size), numpy.uint8)


def encoded(pixels: numpy.ndarray, kind: str = "PNG") -> bytes:
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, kind)
    return out.getvalue()


def file(path: Path, content: bytes | numpy.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(encoded(content) if isinstance(content, numpy.ndarray) else content)
    return path


def named(classes: Any) -> dict[str, tuple[str, numpy.ndarray]]:
    return {c.name: (c.group, c.pixels) for c in classes}


def test_a_folder_of_class_folders_comes_sorted_with_its_pixels(tmp_path: Path) -> None:
    for name in ("b/2.png", "b/1.png", "a/x.png"):
        file(tmp_path / name, drawn(len(name) + ord(name[2])))
    (tmp_path / "a/notes.txt").write_text("no image")
    first, second = from_folder(tmp_path)
    assert (first.name, second.name, first.group) == ("a", "b", "")
    numpy.testing.assert_array_equal(second.pixels, [drawn(7 + ord("1")), drawn(7 + ord("2"))])


def test_folders_of_groups_name_classes_with_their_group(tmp_path: Path) -> None:
    file(tmp_path / "Latin/character01/0001_01.png", drawn(0, colour=False))
    file(tmp_path / "Greek/character02/0002_01.png", drawn(1, colour=False))
    found = named(from_folder(tmp_path, size=4, invert=True))
    assert {name: group for name, (group, _) in found.items()} == {"Greek/character02": "Greek", "Latin/character01": "Latin"}
    assert found["Latin/character01"][1].shape == (1, 4, 4, 1)
    expected = Image.fromarray(255 - drawn(0, colour=False)).resize((4, 4), Image.Resampling.LANCZOS)
    numpy.testing.assert_array_equal(found["Latin/character01"][1][0, ..., 0], expected)


def spoilt(make: Callable[[Path], object]) -> Callable[[Path], Path]:
    def spoil(folder: Path) -> Path:
        file(folder / "set/a/1.png", drawn(1))
        make(folder / "set")
        return folder / "set"

    return spoil


BAD_FOLDERS = [
    (lambda folder: folder / "absent", r"there is no folder .*absent; check its name"),
    (lambda folder: folder, r"holds no class folders; give a folder that holds a folder of images for each class"),
    (
        lambda folder: (file(folder / "b.zip", b""), file(folder / "a.zip", b""), folder)[-1],
        r"holds no class folders; its archives are given by name: .*/a.zip .*/b.zip$",
    ),
    (spoilt(lambda s: (s / "b").mkdir()), r"the class folder .*/set/b has no images"),
    (spoilt(lambda s: (s / "b/c").mkdir(parents=True)), r"the class folder .*/set/b/c has no images"),
    (spoilt(lambda s: file(s / "a/c/1.png", drawn(2))), r"/set/a holds images and folders"),
    (spoilt(lambda s: file(s / "a/2.png", encoded(drawn(2))[:150])), r"/set/a/2.png is no image that can be read \(.+\); replace it"),
    (spoilt(lambda s: file(s / "a/2.png", b"GIF no more")), r"/set/a/2.png is no image that can be read"),
    (spoilt(lambda s: file(s / "b/2.png", drawn(2, colour=False))), r"/set/b/2.png is grey, but the images before it are in colour"),
    (spoilt(lambda s: file(s / "a/2.png", drawn(2, size=9))), r"the images of a are \[8, 8, 3\] and \[9, 9, 3\]; resize them with size"),
    (spoilt(lambda s: file(s / "a/2.png", drawn(2, colour=False).astype(numpy.uint16))), r"/set/a/2.png has more than 8 bits a channel"),
]


@pytest.mark.parametrize(("make", "message"), BAD_FOLDERS, ids=[message for _, message in BAD_FOLDERS])
def test_a_bad_folder_is_named_and_nothing_is_written(make: Callable[[Path], Path], message: str, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    with pytest.raises(InputError, match=message):
        write("set", from_folder(make(tmp_path / "in")), tmp_path / "out")
    assert not (tmp_path / "out").exists() or not list((tmp_path / "out").iterdir())


def test_grey_and_colour_mix_where_it_is_said_what_they_become(tmp_path: Path) -> None:
    file(tmp_path / "a/1.png", drawn(1))
    file(tmp_path / "a/2.png", drawn(2, colour=False))
    assert named(from_folder(tmp_path, grey=True))["a"][1].shape == (2, 8, 8, 1)
    assert named(from_folder(tmp_path, grey=False))["a"][1].shape == (2, 8, 8, 3)


def omniglot(path: Path, members: dict[str, numpy.ndarray]) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name, ink in members.items():
            out = io.BytesIO()
            Image.fromarray(numpy.where(ink, 0, 255).astype(numpy.uint8)).convert("1").save(out, "PNG")
            archive.writestr(name, out.getvalue())
    return path


def test_omniglots_archives_become_white_ink_grey_or_by_the_nearest_pixel(tmp_path: Path) -> None:
    ink = numpy.zeros((105, 105), bool)
    ink[40:60] = True
    background = omniglot(tmp_path / "images_background.zip", {f"images_background/Latin/character01/0001_0{k}.png": ink for k in (1, 2)})
    evaluation = omniglot(tmp_path / "images_evaluation.zip", {"images_evaluation/Angelic/character20/0900_01.png": ~ink})
    first, second = from_zips([background, evaluation])
    assert [(c.name, c.group, c.pixels.shape) for c in (first, second)] == [
        ("Angelic/character20", "Angelic", (1, 28, 28, 1)),
        ("Latin/character01", "Latin", (2, 28, 28, 1)),
    ]
    assert second.pixels[0, 13, 5] > 250
    assert second.pixels[0, 2, 5] == 0
    assert len(numpy.unique(second.pixels)) > 2
    released = named(from_zips([background], release=True))["Latin/character01"][1]
    assert numpy.unique(released).tolist() == [0, 255]
    nearest = Image.fromarray(ink.astype(numpy.uint8) * 255).resize((28, 28), Image.Resampling.NEAREST)
    numpy.testing.assert_array_equal(released[0, ..., 0], nearest)


@pytest.mark.parametrize("member", ["../evil/Latin/character01/1.png", "/Latin/character01/1.png", "a\\..\\..\\Latin\\1.png"])
def test_an_archive_that_leads_outside_is_refused(member: str, tmp_path: Path) -> None:
    path = omniglot(tmp_path / "a.zip", {member: numpy.ones((105, 105), bool)})
    with pytest.raises(InputError, match=r"a\.zip has the member .*, which leads outside"):
        from_zips([path])


def test_damaged_and_foreign_archives_are_refused(tmp_path: Path) -> None:
    whole = omniglot(tmp_path / "a.zip", {"images_background/Latin/character01/1.png": numpy.ones((105, 105), bool)})
    cut = file(tmp_path / "cut.zip", whole.read_bytes()[:-30])
    with pytest.raises(InputError, match=r"cut\.zip is damaged"):
        from_zips([cut])
    with pytest.raises(InputError, match=r"foreign\.zip holds no Alphabet/character01"):
        from_zips([omniglot(tmp_path / "foreign.zip", {"picture.png": numpy.ones((5, 5), bool)})])


def test_ravis_lists_find_their_images(tmp_path: Path) -> None:
    for k in range(3):
        file(tmp_path / f"images/n{k}.jpg", encoded(drawn(k, 20), "JPEG"))
    (tmp_path / "train.csv").write_text("filename,label\nn1.jpg,n015\nn0.jpg,n015\n")
    (tmp_path / "test.csv").write_text("filename,label\nn2.jpg,n019\n")
    found = named(from_csv([tmp_path / "train.csv", tmp_path / "test.csv"], tmp_path / "images", size=8))
    assert {name: (group, pixels.shape) for name, (group, pixels) in found.items()} == {
        "n015": ("train", (2, 8, 8, 3)),
        "n019": ("test", (1, 8, 8, 3)),
    }
    (tmp_path / "train.csv").write_text("filename,label\nn1.jpg,n015\nn7.jpg,n015\nn8.jpg,n015\n")
    with pytest.raises(InputError, match=r"2 of the 3 images of .*train\.csv are absent, the first .*n7\.jpg; give their folder"):
        from_csv([tmp_path / "train.csv"], tmp_path / "images")
    (tmp_path / "train.csv").write_text("file,label\nn1.jpg,n015\n")
    with pytest.raises(InputError, match=r"train\.csv has the columns file, label; give filename,label"):
        from_csv([tmp_path / "train.csv"], tmp_path / "images")


def pickled(path: Path, content: object, protocol: int = 2) -> Path:
    return file(path, pickle.dumps(content, protocol))


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize("key", ["image_data", "data"])
def test_mini_imagenets_pickle_with_lists_of_images(key: str, protocol: int, tmp_path: Path) -> None:
    x = numpy.stack([drawn(k) for k in range(4)])
    path = pickled(tmp_path / "mini-imagenet-cache-train.pkl", {key: x, "class_dict": OrderedDict(n02=[0, 3], n01=[2, 1])}, protocol)
    first, second = from_pickle([path])
    assert (first.name, second.name) == ("n01", "n02")
    numpy.testing.assert_array_equal(first.pixels, x[[2, 1]])
    numpy.testing.assert_array_equal(second.pixels, x[[0, 3]])


def test_pickles_with_numbered_labels_are_classes_of_their_part(tmp_path: Path) -> None:
    x = numpy.stack([drawn(k) for k in range(3)])
    train = pickled(tmp_path / "CIFAR_FS_train.pickle", {b"data": x, b"labels": [7, 7, 11]})
    test = pickled(tmp_path / "CIFAR_FS_test.pickle", {"data": x[:1], "labels": [numpy.int64(7)]})
    found = images("cifar-fs", from_pickle([train, test]))
    assert (list(found.classes), list(found.counts), list(found.groups)) == (
        ["train/7", "train/11", "test/7"],
        [2, 1, 1],
        ["train"] * 2 + ["test"],
    )
    assert split_of("parts").of(found, "test") == [2]
    path = pickled(
        tmp_path / "miniImageNet_category_split_val.pickle", {"data": x, "labels": [64, 65, 64], "catname2label": {"n9": 64, "n8": 65}}
    )
    assert {name: len(pixels) for name, (_, pixels) in named(from_pickle([path])).items()} == {"n9": 2, "n8": 1}


def test_tiered_imagenets_pickles_get_wordnet_ids_and_superclasses(tmp_path: Path) -> None:
    pictures = [numpy.frombuffer(encoded(drawn(k)), numpy.uint8)[:, None] for k in range(3)]
    held = {
        "label_specific": numpy.array([0, 1, 0]),
        "label_specific_str": ["brambling, Fringilla montifringilla", "own class"],
        "label_general": numpy.array([9, 9, 9]),
        "label_general_str": ["passerine, passeriform bird"],
    }
    files = [pickled(tmp_path / "train_images_png.pkl", pictures), pickled(tmp_path / "train_labels.pkl", held)]
    found = named(from_pickle(files))
    assert {name: group for name, (group, _) in found.items()} == {"n01530575": "passerine, passeriform bird", "own class": "train"}
    numpy.testing.assert_array_equal(found["n01530575"][1], [drawn(0), drawn(2)])
    pickled(files[1], {"labels": [5, 6, 5]})
    assert list(named(from_pickle(files))) == ["train/5", "train/6"]
    pickled(files[1], {"labels": [5, 6]})
    with pytest.raises(InputError, match=r"there are 3 images and labels of shape \[2\]; give the two files of one part"):
        list(from_pickle(files))
    with pytest.raises(InputError, match=r"train_labels\.pkl comes without images"):
        from_pickle(files[1:])


class Old:
    """Pickles as Python 2 and early NumPy wrote them."""

    def __init__(self, make: Any, *arguments: Any, state: Any = None):
        self.reduced = make, arguments, state

    def __reduce__(self) -> Any:
        return self.reduced


def test_pickles_of_early_numpy_are_read(tmp_path: Path) -> None:
    dtype = Old(numpy.dtype, "u1", 0, 1, state=(3, "|", None, None, None, -1, -1, 0))
    x = numpy.stack([drawn(0), drawn(1)])
    array = Old(x.__reduce__()[0], numpy.ndarray, (0,), "b", state=(1, x.shape, dtype, 0, x.tobytes()))  # pyright: ignore[reportIndexIssue]
    [found] = from_pickle([pickled(tmp_path / "FC100_val.pickle", {"data": array, "labels": [4, 4]})])
    assert found.name == "val/4"
    numpy.testing.assert_array_equal(found.pixels, x)


class Evil:
    def __reduce__(self) -> Any:
        return exec, ("raise SystemExit('it ran')",)


def test_a_pickle_that_asks_for_more_than_arrays_is_refused_unrun(tmp_path: Path) -> None:
    for content, asked in (
        (Evil(), "exec"),
        ({"data": Path(), "labels": [0]}, "pathlib"),
        (OrderedDict(a=[print]), "print"),
    ):
        with pytest.raises(InputError, match=rf"a\.pkl asks for .*{asked}.*which could run code; get the file elsewhere"):
            list(from_pickle([pickled(tmp_path / "a.pkl", content)]))


def pair(x: numpy.ndarray, **more: object) -> bytes:
    return pickle.dumps({"data": x, **more})


BYTES = numpy.zeros((2, 4, 4, 3), numpy.uint8)
BAD_PICKLES = [
    (pair(BYTES)[:60], r"a\.pkl is damaged"),
    (pickle.dumps({"pictures": 1}), r"a\.pkl holds pictures; known are \{image_data, class_dict\}, \{data, labels\}"),
    (pickle.dumps([1, 2]), r"a\.pkl holds a list; known are"),
    (pair(BYTES / 1, labels=[0, 1]), r"a\.pkl: the images are float64 \[2, 4, 4, 3\]; give uint8"),
    (pair(BYTES.transpose(0, 3, 1, 2), labels=[0, 1]), r"the images are uint8 \[2, 3, 4, 4\]; give uint8 \[images, height"),
    (pair(BYTES, labels=[0]), r"there are 2 images and labels of shape \[1\]"),
    (pair(BYTES, class_dict={"a": [0, 2]}), r"class a lists images that are not among the 2"),
]


@pytest.mark.parametrize(("content", "message"), BAD_PICKLES, ids=[message for _, message in BAD_PICKLES])
def test_bad_pickles_are_named(content: bytes, message: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=message):
        list(from_pickle([file(tmp_path / "a.pkl", content)]))


def cifar(path: Path, prefix: str = "cifar-100-python/", parts: tuple[str, ...] = ("meta", "train", "test")) -> Path:
    x = numpy.arange(4 * 3072, dtype=numpy.int64).astype(numpy.uint8).reshape(4, 3072)
    held = {
        "meta": {"fine_label_names": ["apple", "bee"], "coarse_label_names": ["fruit", "insects"]},
        "train": {"data": x[:3], "fine_labels": [0, 1, 0], "coarse_labels": [0, 1, 0]},
        "test": {"data": x[3:], "fine_labels": [1], "coarse_labels": [1]},
    }
    with tarfile.open(path, "w:gz") as tar:
        for part in parts:
            content = pickle.dumps(held[part], 2)
            member = tarfile.TarInfo(prefix + part)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return path


def test_cifar_100_pools_training_and_test_images(tmp_path: Path) -> None:
    found = named(from_cifar100(cifar(tmp_path / "cifar-100-python.tar.gz")))
    assert {name: (group, pixels.shape) for name, (group, pixels) in found.items()} == {
        "apple": ("fruit", (2, 32, 32, 3)),
        "bee": ("insects", (2, 32, 32, 3)),
    }
    x = numpy.arange(4 * 3072).astype(numpy.uint8).reshape(4, 3, 32, 32)
    numpy.testing.assert_array_equal(found["bee"][1][1, 3, 4], x[3, :, 3, 4])


def test_bad_cifar_archives_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"has the member \.\./cifar-100-python/meta, which leads outside"):
        from_cifar100(cifar(tmp_path / "outside.tar.gz", "../cifar-100-python/"))
    with pytest.raises(InputError, match=r"is not CIFAR-100 for Python .*test"):
        from_cifar100(cifar(tmp_path / "less.tar.gz", parts=("meta", "train")))
    cut = file(tmp_path / "cut.tar.gz", cifar(tmp_path / "a.tar.gz").read_bytes()[:400])
    with pytest.raises(InputError, match=r"cut\.tar\.gz is damaged"):
        from_cifar100(cut)


def test_arrays_with_names_and_their_errors() -> None:
    x = numpy.stack([drawn(k, colour=False) for k in range(3)])
    assert [(c.name, len(c.pixels)) for c in from_arrays(x, ["b", "a", "b"])] == [("a", 1), ("b", 2)]
    assert [c.name for c in from_arrays(x, [0, 5, 5], {0: "zero", 5: "five"})] == ["zero", "five"]
    for y, names, message in (
        ([0, 1], None, r"there are 3 images and labels of shape \[2\]"),
        ([0, 1, 2], ["a", "b"], r"labels run from 0 to 2, but there are 2 names; name each"),
    ):
        with pytest.raises(InputError, match=message):
            from_arrays(x, y, names)
    with pytest.raises(InputError, match=r"the images make no array"):
        from_arrays([drawn(0), drawn(1, 9)], [0, 1])


def test_packed_arrays_of_other_layouts_are_refused(tmp_path: Path) -> None:
    numpy.savez(tmp_path / "a.npz", x=numpy.zeros(3))
    with pytest.raises(InputError, match=r"a\.npz holds x; known are images or bits with alphabets, and blob"):
        from_npz(tmp_path / "a.npz")
    with pytest.raises(InputError, match=r"b\.npz is damaged"):
        from_npz(file(tmp_path / "b.npz", (tmp_path / "a.npz").read_bytes()[:60]))


class Hub:
    """What a data set of the hub looks like from outside."""

    column_names = ("image", "label", "text")
    features = {"image": object(), "label": SimpleNamespace(names=["cat", "dog"]), "text": object()}  # noqa: RUF012

    def __getitem__(self, key: int | str) -> Any:
        if key == "label":
            return [1, 0, 1]
        return {"image": Image.fromarray(drawn(int(key))), "label": 0}


def test_a_data_set_of_the_hub() -> None:
    found = named(from_hub(Hub()))
    assert list(found) == ["cat", "dog"]
    numpy.testing.assert_array_equal(found["dog"][1], [drawn(0), drawn(2)])
    with pytest.raises(InputError, match=r"the data set has no column 'img' but image, label, text; name yours with image= and label="):
        from_hub(Hub(), image="img")


def test_the_reader_that_fits_is_found(tmp_path: Path) -> None:
    file(tmp_path / "one/a/1.png", drawn(1))
    file(tmp_path / "two/b/1.png", drawn(2))
    (tmp_path / "train.csv").write_text("filename,label\na/1.png,x\n")
    data = pickled(tmp_path / "train.pickle", {"data": drawn(0)[None], "labels": [3]})
    assert list(named(from_paths([tmp_path / "one", tmp_path / "two"]))) == ["a", "b"]
    assert list(named(from_paths([tmp_path / "train.csv", tmp_path / "one"]))) == ["x"]
    assert list(named(from_paths([data]))) == ["train/3"]
    assert list(named(from_paths([cifar(tmp_path / "c.tar.gz")]))) == ["apple", "bee"]
    for paths in ([], [data, tmp_path / "one"], [tmp_path / "train.csv"]):
        with pytest.raises(InputError, match="no reader fits"):
            from_paths(paths)
    with pytest.raises(InputError, match=r"there is no file .*gone\.zip"):
        from_paths([tmp_path / "gone.zip"])


def test_what_is_decoded_already_is_resized_too(tmp_path: Path) -> None:
    x = numpy.stack([drawn(k) for k in range(2)])
    data = pickled(tmp_path / "train.pickle", {"data": x, "labels": [3, 3]})
    for path, shape in ((data, x.shape[1:]), (cifar(tmp_path / "c.tar.gz"), (32, 32, 3))):
        assert {held.pixels.shape[1:] for held in from_paths([path])} == {shape}
        assert {held.pixels.shape[1:] for held in from_paths([path], size=5)} == {(5, 5, 3)}
    [held] = from_paths([pickled(tmp_path / "grey.pickle", {"data": x[..., :1], "labels": [3, 3]})], size=5)
    wanted = Image.fromarray(x[0, ..., 0]).resize((5, 5), Image.Resampling.LANCZOS)
    numpy.testing.assert_array_equal(held.pixels[0, ..., 0], numpy.asarray(wanted))


def test_sets_written_class_by_class_are_those_saved_whole(tmp_path: Path) -> None:
    classes = [Class(f"c{k}", numpy.stack([drawn(10 * k + j) for j in range(k + 1)]), "g") for k in range(3)]
    write("set", iter(classes), tmp_path / "a")
    save(images("set", classes), tmp_path / "b")
    assert (tmp_path / "a/pixels.npy").read_bytes() == (tmp_path / "b/pixels.npy").read_bytes()
    assert json.loads((tmp_path / "a/images.json").read_text()) == json.loads((tmp_path / "b/images.json").read_text())
    numpy.testing.assert_array_equal(open_images(tmp_path / "a").of("c2"), classes[2].pixels)
    with pytest.raises(InputError, match="two classes 'c0'"):
        write("set", iter([classes[0], classes[0]]), tmp_path / "c")
    assert list((tmp_path / "c").iterdir()) == []


def test_omniglot_itself(shared: Path) -> None:
    packed = images("omniglot", from_npz(shared / "omniglot/omniglot28.npz"))
    assert repr(packed) == "Images(omniglot: 32,460 images of 1,623 classes, 1 × 28 × 28)"
    assert (len(set(packed.groups)), set(packed.counts)) == (50, {20})
    read = images("omniglot", from_zips([shared / "omniglot/images_evaluation.rebuilt.zip"]))
    assert len(read.classes) == 659
    for name in read.classes:
        numpy.testing.assert_array_equal(read.of(name), packed.of(name))
    assert [len(split_of("vinyals").of(packed, part)) for part in ("train", "val", "test")] == [1028, 172, 423]
    large = images("omniglot", islice(from_npz(shared / "omniglot/omniglot105_packed.npz"), 50))
    assert large.shape == (1, 105, 105)
    assert set(numpy.unique(large.pixels).tolist()) == {0, 255}


@pytest.mark.parametrize(
    ("name", "split", "counts"),
    [("miniimagenet/miniimagenet84_subset", "ravi", [64, 16, 20]), ("tiny_tiered/tiny_tiered64", "tiered", [61, 17, 45])],
)
def test_sets_of_jpegs_themselves(name: str, split: str, counts: list[int], shared: Path) -> None:
    read = images(name, from_npz(shared / f"{name}.npz", size=20))
    assert read.shape == (3, 20, 20)
    assert [len(split_of(split).of(read, part, missing="drop")) for part in ("train", "val", "test")] == counts
    with numpy.load(shared / f"{name}.npz") as packed:
        own = dict(zip(packed["wnid"].tolist(), packed["class_split"].tolist(), strict=True))
        assert [own[read.classes[k]] for k in split_of(split).of(read, "test", missing="drop")] == [2] * counts[2]
        assert len(set(read.groups)) == (len(set(packed["superclass_name"].tolist())) if "superclass_name" in packed else 1)


def test_lines_of_a_list_that_are_cut_or_in_another_encoding_are_named(tmp_path: Path) -> None:
    (tmp_path / "train.csv").write_text("filename,label\na.png,one\nb.png\n")
    with pytest.raises(InputError, match=r"line 3 of .*train.csv lacks a filename or a label"):
        list(from_csv([tmp_path / "train.csv"], tmp_path))
    (tmp_path / "train.csv").write_bytes("filename,label\né.png,one\n".encode("latin-1"))
    with pytest.raises(InputError, match=r"is no text in UTF-8 .*; save it as that"):
        list(from_csv([tmp_path / "train.csv"], tmp_path))
