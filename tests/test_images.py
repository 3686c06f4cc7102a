"""Image sets and N-way K-shot tasks: what a task is made of, and what is refused."""

from pathlib import Path

import numpy
import pytest
import torch

import innerloop as il
from innerloop import InputError
from innerloop.images import Class, Images, images, open_images, save
from innerloop.models import convnet
from innerloop.tasks import Deferred, ImageBatches, ImageTasks, VariedTasks
from innerloop.tasks.images import BLOCK

SPLIT = {"train": range(12), "val": range(12, 18), "test": range(18, 24)}


def coded(classes: int = 24, counts: tuple[int, ...] = (8,), size: int = 6, channels: int = 1) -> Images:
    """Each image says who it is: its first pixel is the class, its second the number in it; the rest is 0."""
    made = []
    for k in range(classes):
        pixels = numpy.zeros((counts[k % len(counts)], size, size, channels), numpy.uint8)
        pixels[:, 0, 0], pixels[:, 0, 1] = k, numpy.arange(len(pixels))[:, None]
        made.append(Class(f"class{k}", pixels, f"group{k // 6}"))
    return images("coded", made)


def who(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Class and number of images ``[…, channels, height, width]``."""
    codes = (255 * x[..., 0, 0, :2]).round().long()
    return codes[..., 0], codes[..., 1]


def test_a_set_is_kept_and_found_again(tmp_path: Path) -> None:
    made = coded(counts=(3, 8))
    save(made, tmp_path / "set", {"from": "a test"})
    again = open_images(tmp_path / "set")
    assert isinstance(again.pixels, numpy.memmap)
    assert (again.pixels == made.pixels).all()
    assert (again.classes, again.counts, again.groups) == (made.classes, made.counts, made.groups)
    assert again.shape == (1, 6, 6)
    assert (again.of("class3") == made.pixels[made.starts[3] : made.starts[4]]).all()
    assert repr(again) == "Images(coded: 132 images of 24 classes, 1 × 6 × 6)"
    (tmp_path / "set/pixels.npy").write_bytes(b"half")
    with pytest.raises(InputError, match=r"the images in .* are damaged"):
        open_images(tmp_path / "set")
    with pytest.raises(InputError, match=r"holds no images: there is no images.json"):
        open_images(tmp_path)


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the system does not tell what a process maps")
def test_the_map_is_not_read_whole(tmp_path: Path) -> None:
    """100 MB on disk: the process takes no memory of its own for them."""
    save(images("large", [Class(str(k), numpy.zeros((500, 100, 100, 1), numpy.uint8)) for k in range(20)]), tmp_path)

    def own() -> int:
        [line] = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("RssAnon")]
        return 1024 * int(line.split()[1])

    before = own()
    ImageTasks(open_images(tmp_path), {"train": range(20)}, ways=5, shots=1, queries=1).draw("train", 0, 4)
    assert own() - before < 20e6


@pytest.mark.parametrize("turns", ["none", "tasks"])
@pytest.mark.parametrize("counts", [(8,), (7, 12)])
def test_a_task(turns: str, counts: tuple[int, ...]) -> None:
    source = ImageTasks(coded(counts=counts), SPLIT, ways=4, shots=2, queries=5, turns=turns)  # pyright: ignore[reportArgumentType]
    task = source.draw("val", 0, 300)
    assert [list(t.shape) for t in (*task.support, *task.query)] == [[300, 8, 1, 6, 6], [300, 8], [300, 20, 1, 6, 6], [300, 20]]
    x, y = torch.cat([task.support[0], task.query[0]], 1), torch.cat([task.support[1], task.query[1]], 1)
    if turns == "tasks":  # turned by quarters: take the four corners apart, one of which has the code
        corners = torch.stack([torch.rot90(x, -k, (-2, -1)) for k in range(4)])
        written = (corners[..., 0, 0, 0] > 0) | (corners[..., 0, 0, 1] > 0)
        turn = written.float().argmax(0)
        assert set(turn.unique().tolist()) == {0, 1, 2, 3}
        for k in range(4):
            each = turn.where(y == k, -1).amax(1, keepdim=True)
            assert ((turn == each) | (y != k)).all(), "a class of a task is turned as one"
        x = corners.gather(0, turn[None, ..., None, None, None].expand(1, *x.shape))[0]
    kind, number = who(x)
    assert ((kind >= 12) & (kind < 18)).all(), "only classes of the split"
    for k in range(4):
        own = kind[y == k].view(300, 7)
        assert (own == own[:, :1]).all(), "a label is one class"
        assert (number[y == k].view(300, 7).sort(1).values.diff(dim=1) > 0).all(), "no image is taken twice"
    firsts = kind.gather(1, torch.stack([(y == k).int().argmax(1) for k in range(4)], 1))
    assert (firsts.sort(1).values.diff(dim=1) > 0).all(), "classes of a task differ"
    assert torch.bincount(firsts[:, 0] - 12, minlength=6).min() > 25, "each class comes first equally often"
    assert torch.bincount(number[:, 0]).min() > (20 if len(counts) == 1 else 3), "and so does each image"


def test_turned_classes_are_classes_of_their_own() -> None:
    source = ImageTasks(coded(classes=2), {"train": range(2)}, ways=8, shots=1, queries=1, turns="classes")
    x = source.draw("train", 0, 50).support[0]
    assert all(len({t.numpy().tobytes() for t in (task[:, 0] > 0.5 / 255).int()}) >= 4 for task in x)
    with pytest.raises(InputError, match=r"9 ways need as many classes, and 'train' of coded has 8; ask for fewer ways"):
        ImageTasks(coded(classes=2), {"train": range(2)}, ways=9, shots=1, queries=1, turns="classes")


def test_task_i_is_the_same_however_it_is_drawn() -> None:
    source = ImageTasks(coded(), SPLIT, ways=3, shots=1, queries=2)
    whole = source.draw("train", 0, BLOCK + 20)
    parts = il.batches.join([source.draw("train", first, count) for first, count in ((0, 1), (1, BLOCK), (BLOCK + 1, 19))])
    torch.testing.assert_close(parts, whole, rtol=0, atol=0)
    more = ImageTasks(coded(), SPLIT, ways=3, shots=1, queries=5).draw("train", 0, 10)
    torch.testing.assert_close(more.support, il.batches.some(whole.support, 0, 10), rtol=0, atol=0)
    other = ImageTasks(coded(), SPLIT, ways=3, shots=1, queries=2, seed=1).draw("train", 0, 10)
    assert (other.support[0] != whole.support[0][:10]).any()
    assert (source.draw("val", 0, 10).support[0] != whole.support[0][:10]).any()


def test_pixels_are_scaled_and_channels_come_first() -> None:
    pixels = numpy.arange(4 * 2 * 3 * 3, dtype=numpy.uint8).reshape(4, 2, 3, 3)
    source = ImageTasks(images("ramp", [Class("a", pixels)]), {"train": [0]}, 1, 2, 2, mean=(0.0, 0.5, 0.0), sd=(1.0, 1.0, 2.0))
    task = source.draw("train", 0, 1)
    found = torch.cat([task.support[0], task.query[0]], 1)[0]
    expected = torch.from_numpy(pixels).movedim(-1, 1).float() / 255
    expected = (expected - torch.tensor([0.0, 0.5, 0.0]).view(3, 1, 1)) / torch.tensor([1.0, 1.0, 2.0]).view(3, 1, 1)
    order = found[:, 0, 0, 0].argsort()
    torch.testing.assert_close(found[order], expected)


def test_batches_of_all_classes() -> None:
    tasks = ImageTasks(coded(counts=(3, 8)), SPLIT, ways=3, shots=1, queries=2)
    batches = ImageBatches(tasks, size=400)
    x, y = batches.draw("train", 0, 2).query
    kind, number = who(x)
    assert (kind == y).all()
    assert set(y.unique().tolist()) == set(range(12))
    assert number[kind % 2 == 0].max() == 2
    assert number[kind % 2 == 1].max() == 7
    torch.testing.assert_close(batches.draw("train", 1, 1).query[0][0], x[1], rtol=0, atol=0)


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ({"classes": {"train": [0, 2, 99]}}, r"'train' is of the classes 0, 2, 99; give each once, by numbers from 0 to"),
        ({"classes": {"train": [0, 0, 0, 1]}}, r"'train' is of the classes 0, 0, 0, 1; give each once"),
        ({"ways": 7}, r"7 ways need as many classes, and 'val' of coded has 6; ask for fewer ways"),
        ({"queries": 8}, r"class 'class0' in 'train' of coded has 8 images, and 1 shots and 8 queries need 9; ask for fewer"),
        ({"shots": 0}, "a task has 3 ways, 0 shots and 2 queries; it needs at least one of each"),
        ({"turns": "task"}, "turns is 'task'; did you mean tasks"),
        ({"mean": (0.1, 0.2)}, "mean has 2 numbers for images of 1 channels"),
    ],
)
def test_tasks_that_cannot_be_drawn(how: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        ImageTasks(coded(), **({"classes": SPLIT, "ways": 3, "shots": 1, "queries": 2} | how))


def test_a_split_that_is_not_there() -> None:
    with pytest.raises(InputError, match="coded has no split 'tset'; did you mean test"):
        ImageTasks(coded(), SPLIT, 3, 1, 2).draw("tset", 0, 1)


@pytest.mark.parametrize(
    ("classes", "message"),
    [
        ([], "noise has no classes"),
        ([Class("a", numpy.zeros((2, 4, 4, 1), numpy.uint8)), Class("b", numpy.zeros((2, 4, 4, 3), numpy.uint8))],
         r"differ in height, width or channels: \[4, 4, 1\] in class 'a' and \[4, 4, 3\] in class 'b'"),
        ([Class("a", numpy.zeros((2, 4, 4, 1), numpy.uint8))] * 2, "noise has two classes 'a'; give each its own name"),
        ([Class("a", numpy.zeros((2, 4, 4, 1)))], r"the pixels of noise are float64 \[2, 4, 4, 1\]; make them uint8"),
        ([Class("a", numpy.zeros((0, 4, 4, 1), numpy.uint8))], "class 'a' of noise has no images; leave it out"),
    ],
)  # fmt: skip
def test_sets_that_are_none(classes: list[Class], message: str) -> None:
    with pytest.raises(InputError, match=message):
        images("noise", classes)


def test_accuracy_before_adaptation_is_chance() -> None:
    """A network that has never seen the labels of a task cannot know them."""
    generator = torch.Generator().manual_seed(0)
    made = [Class(str(k), torch.randint(256, (20, 8, 8, 1), dtype=torch.uint8, generator=generator).numpy()) for k in range(30)]
    tasks = ImageTasks(images("noise", made), {"test": range(30)}, ways=5, shots=1, queries=5)
    net = convnet((1, 8, 8), 5, 8, blocks=2, generator=generator)
    learner = il.maml(net, il.cross_entropy(net), steps=1, rate=0.4)
    scores = il.evaluate(learner, tasks, 1, 200, metric=lambda prediction, y: (prediction.argmax(-1) == y).float().mean())
    assert abs(scores.mean[0] - 0.2) < 2 * scores.interval[0]


def varied(**how: int) -> VariedTasks:
    first = ImageTasks(coded(counts=(20, 8)), {"train": range(12), "test": range(12, 24)}, ways=1, shots=1, queries=1)
    second = ImageTasks(coded(classes=9, counts=(30,)), {"train": range(9)}, ways=1, shots=1, queries=1)
    return VariedTasks({"first": first, "second": second}, **({"fewest": 3, "most": 10} | how))


def test_varied_tasks_differ_in_ways_and_shots() -> None:
    source = varied()
    ways, shots, sizes = set(), set(), set()
    for k in range(60):
        (x, y), (query_x, query_y) = (tuple(t[0] for t in part) for part in source.draw("train", k, 1))
        n = int(y.max()) + 1
        each, asked = torch.bincount(y), torch.bincount(query_y)
        assert len(each) == len(asked) == n
        assert each.min() >= 1
        assert (asked == asked[0]).all()
        assert 1 <= asked[0] <= 10
        (kind, number), (query_kind, query_number) = who(x), who(query_x)
        shown = {*zip(kind.tolist(), number.tolist(), strict=True)}
        assert len(shown) == len(x)
        assert not shown & {*zip(query_kind.tolist(), query_number.tolist(), strict=True)}, "no image is in both"
        label = {int(c): int(y[kind == c][0]) for c in kind.unique()}
        assert all(label[c] == t for c, t in zip([*kind.tolist(), *query_kind.tolist()], [*y.tolist(), *query_y.tolist()], strict=True))
        ways.add(n)
        shots |= {*each.tolist()}
        sizes.add(len(x))
    assert ways == set(range(3, 11))
    assert len(shots) > 8
    assert len(sizes) > 30
    assert max(sizes) <= 500


def test_varied_tasks_of_one_set_where_the_other_has_no_such_split() -> None:
    kinds = {int(k) for n in range(40) for k in who(varied().draw("test", n, 1).support[0])[0].unique()}
    assert kinds == set(range(12, 24))
    with pytest.raises(InputError, match="no set has a split 'val'"):
        varied().draw("val", 0, 1)
    with pytest.raises(InputError, match="2 tasks of different shapes cannot be stacked; draw one at a time"):
        varied().draw("train", 0, 2)
    several = varied(fewest=12, most=12)
    with pytest.raises(InputError, match="coded has 9 classes of 2 images or more in 'train', fewer than 12 ways"):
        [several.draw("train", k, 1) for k in range(20)]


def test_training_on_varied_tasks() -> None:
    torch.manual_seed(0)
    net = convnet((1, 6, 6), 10, 4, blocks=1)
    learner = il.fomaml(net, il.cross_entropy(net), steps=2, rate=0.1)
    rows: list[dict] = []
    trained = il.train(learner, varied(), 12, meta_batch=1, validation_tasks=0, progress=False, log=rows.append)
    assert rows[0]["engine"] == "loop"
    later: list[dict] = []
    il.train(learner, Deferred(varied), 12, meta_batch=1, validation_tasks=0, progress=False, log=later.append)
    assert (later[0]["engine"], later[0]["measured"]) == ("loop", {}), "nothing to choose from, though it is made later"
    scores = il.evaluate(trained, varied(), 2, 20, metric=il.accuracy)
    torch.testing.assert_close(il.evaluate(trained, varied(), 2, 20, metric=il.accuracy, chunk=1).values, scores.values)
    assert len(scores.values) == 20
