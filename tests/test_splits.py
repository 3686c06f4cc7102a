"""Splits: the papers' numbers of classes, indices in the split's order, and every error."""

import json
import random
from pathlib import Path

import numpy
import pytest

from innerloop import InputError
from innerloop.images import Class, Images, Split, images, known_splits, split_of
from innerloop.images.splits import words

SIZES = {
    "cifar-fs": (64, 16, 20),
    "fc100": (12, 4, 4),
    "omniglot-1200": (1200, 0, 423),
    "omniglot-alphabets": (25, 5, 20),
    "omniglot-release": (1100, 100, 423),
    "parts": (1, 1, 1),
    "ravi": (64, 16, 20),
    "tiered": (351, 97, 160),
    "vinyals": (1028, 172, 423),
    "vinyals-mini": (60, 20, 20),
}


def made(*names: str) -> Images:
    return images("toys", [Class(name, numpy.zeros((1, 2, 2, 1), numpy.uint8), name.split("/")[0]) for name in names])


def test_every_split_has_the_papers_numbers_of_classes() -> None:
    assert {name: (len(s.train), len(s.val), len(s.test)) for name in known_splits() for s in [split_of(name)]} == SIZES
    assert [name for name in SIZES if split_of(name).groups] == ["fc100", "omniglot-alphabets", "parts"]


def test_splits_of_one_set_name_the_same_classes() -> None:
    vinyals, paper, release = (split_of(name) for name in ("vinyals", "omniglot-1200", "omniglot-release"))
    everything = {*vinyals.train, *vinyals.val, *vinyals.test}
    assert len(everything) == 1623
    assert {*paper.train, *paper.test} == {*release.train, *release.val, *release.test} == everything
    assert (paper.train[:1100], paper.train[1100:], paper.test) == (release.train, release.val, release.test)


def test_our_shuffle_is_the_one_that_is_stated() -> None:
    vinyals, paper = split_of("vinyals"), split_of("omniglot-1200")
    draw = random.Random(1)
    keyed = [(draw.random(), name) for name in sorted((*vinyals.train, *vinyals.val, *vinyals.test))]
    assert [name for _, name in sorted(keyed)] == [*paper.train, *paper.test]


def test_splits_agree_with_their_origins(shared: Path) -> None:
    def origin(name: str) -> dict[str, list]:
        return json.loads((shared / f"splits/{name}.json").read_text())

    for part in ("train", "val", "test"):
        assert list(getattr(split_of("ravi"), part)) == [wnid for wnid, _ in origin("miniimagenet_ravi")[part]]
        assert list(getattr(split_of("vinyals"), part)) == origin("omniglot_vinyals")[part]
        assert list(getattr(split_of("cifar-fs"), part)) == [fine for _, fine in origin("cifar_fs")[part]]
        assert list(getattr(split_of("fc100"), part)) == origin("fc100")[part]
        assert list(getattr(split_of("tiered"), part)) == [wnid for wnid, *_ in origin("tieredimagenet")[part]]
        fine = {fine: coarse for rows in origin("cifar_fs").values() for coarse, fine in rows}
        assert sum(coarse in getattr(split_of("fc100"), part) for coarse in fine.values()) == 5 * len(getattr(split_of("fc100"), part))


def test_superclasses_of_tiered_imagenet_lie_in_one_part_each() -> None:
    groups = [{words("tiered")[wnid][1] for wnid in getattr(split_of("tiered"), part)} for part in ("train", "val", "test")]
    assert [len(g) for g in groups] == [20, 6, 8]
    assert len(set.union(*groups)) == 34


def test_indices_come_in_the_splits_order_whatever_the_sets() -> None:
    split = Split("mine", train=("c", "a"), test=("b",))
    for toys in (made("a", "b", "c"), made("c", "b", "a"), made("x", "b", "a", "c")):
        assert [toys.classes[k] for k in split.of(toys, "train")] == ["c", "a"]


def test_groups_stand_for_their_classes() -> None:
    split, toys = Split("mine", train=("f", "b"), test=("a",), groups=True), made("f/2", "a/1", "b/1", "f/1")
    assert [toys.classes[k] for k in split.of(toys, "train")] == ["f/1", "f/2", "b/1"]


def test_a_part_that_is_not_there_is_an_error() -> None:
    with pytest.raises(InputError, match=r"split omniglot-1200 has no val classes \(train 1200, test 423\); take another part"):
        split_of("omniglot-1200").of(made("a"), "val")
    with pytest.raises(InputError, match="part is 'valid' and missing 'error'; part is one of train, val, test"):
        split_of("ravi").of(made("a"), "valid")


def test_classes_that_the_set_lacks_are_counted_or_dropped() -> None:
    split, toys = Split("mine", train=("a", "x", "b", "y"), test=("z",)), made("a", "b")
    with pytest.raises(InputError, match=r"toys lacks 2 of the 4 train classes of split mine, the first 'x'; get the whole set, or"):
        split.of(toys, "train")
    assert split.of(toys, "train", missing="drop") == [0, 1]
    with pytest.raises(InputError, match=r"toys lacks 1 of the 1 test classes of split mine, the first 'z'; take another split"):
        split.of(toys, "test", missing="drop")


def test_overlapping_parts_are_refused() -> None:
    with pytest.raises(InputError, match="split mine has 'a' in train and in test; name each class once"):
        Split("mine", train=("a", "b"), test=("c", "a"))
    with pytest.raises(InputError, match="split mine has 'b' in val and in val"):
        Split("mine", val=("b", "b"))


BAD_FILES = [
    ('{"train": ["a"', r"mine\.json is no JSON \(.*\); write \{\"train\": \[…\]"),
    ('["a"]', r"mine\.json holds no object; write"),
    ('{"train": ["a"], "tset": ["b"]}', r"mine\.json has 'tset'; did you mean test\?"),
    ('{"train": "abc"}', r"train of .*mine\.json is no list of names"),
    ('{"train": [1, 2]}', r"train of .*mine\.json is no list of names"),
    ('{"train": ["a"], "groups": "yes"}', r"groups of .*mine\.json is 'yes'; write true"),
    ("{}", r"split mine names no classes; list them under train, val, test"),
    ('{"train": ["a"], "test": ["a"]}', r"split mine has 'a' in train and in test"),
]


@pytest.mark.parametrize(("text", "message"), BAD_FILES, ids=[text for text, _ in BAD_FILES])
def test_a_malformed_file_is_named(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "mine.json").write_text(text)
    with pytest.raises(InputError, match=message):
        split_of(tmp_path / "mine.json")


def test_a_split_of_ones_own_and_its_absence(tmp_path: Path) -> None:
    (tmp_path / "mine.json").write_text('{"about": "mine", "train": ["a", "b"], "test": ["c"]}')
    assert split_of(str(tmp_path / "mine.json")) == Split("mine", ("a", "b"), (), ("c",))
    with pytest.raises(InputError, match=r"there is no file .*yours\.json"):
        split_of(tmp_path / "yours.json")
    with pytest.raises(InputError, match=r"no split 'vinylas'; did you mean vinyals\?"):
        split_of("vinylas")
