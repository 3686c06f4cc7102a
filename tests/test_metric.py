"""Methods that compare: against plain loops, finite differences and each plan."""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from conftest import EAGER, differences, image_net, image_tasks
from torch import Tensor, nn
from torch.autograd import gradcheck

import innerloop as il
from innerloop import InputError, Learner, Task, meta_loss
from innerloop.batches import map_tensors, one
from innerloop.engine import Plan, meta_gradient

Build = Callable[[nn.Module, int], Learner]
LEARNED: dict[str, Build] = {"prototypical": il.prototypical, "matching": il.matching}


def smooth() -> nn.Sequential:
    net = nn.Sequential(nn.Flatten(), nn.Linear(16, 4), nn.Tanh(), nn.Linear(4, 4)).double()
    generator = torch.Generator().manual_seed(0)
    for p in net.parameters():
        nn.init.normal_(p, std=0.5, generator=generator)
    return net


def adapted(learner: Learner, task: Task) -> Tensor:
    assert learner.model is not None
    return learner.model(learner.adapt(learner.prior, task.support)[-1], task.query[0])


@pytest.mark.parametrize("name", LEARNED)
def test_the_meta_gradient_equals_finite_differences(name: str) -> None:
    """With classes that are shown unequally often, so through support and query."""
    learner, tasks = LEARNED[name](smooth(), 3), image_tasks()
    gradient, _ = meta_gradient(learner)(learner.prior, tasks)
    torch.testing.assert_close(gradient, differences(lambda p: meta_loss(learner)(p, tasks), learner.prior), rtol=1e-6, atol=1e-8)
    inputs = tuple(p.clone().requires_grad_() for p in learner.prior.values())
    assert gradcheck(lambda *p: meta_loss(learner)(dict(zip(learner.prior, p, strict=True)), tasks), inputs)


@pytest.mark.parametrize("plan", EAGER, ids=str)
@pytest.mark.parametrize("name", LEARNED)
def test_every_plan_gives_the_same_meta_gradient(name: str, plan: Plan) -> None:
    learner, tasks = LEARNED[name](il.without_head(image_net()), 3), image_tasks()
    expected = meta_gradient(learner, Plan(loop=True))(learner.prior, tasks)
    torch.testing.assert_close(meta_gradient(learner, plan)(learner.prior, tasks), expected, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize(
    ("name", "plan"), [("prototypical", Plan(compiled=True)), ("matching", Plan(loop=True, recompute=True, compiled=True))], ids=str
)
def test_compiled_equals_eager(name: str, plan: Plan) -> None:
    learner, tasks = LEARNED[name](smooth(), 3), image_tasks()
    expected = meta_gradient(learner)(learner.prior, tasks)
    torch.testing.assert_close(meta_gradient(learner, plan)(learner.prior, tasks), expected, rtol=1e-10, atol=1e-12)


def test_a_prototypical_network_by_hand() -> None:
    net, task = smooth(), one(image_tasks(), 0)
    (x, y), (z, _) = task
    means = torch.stack([net(x[y == n]).mean(0) for n in range(3)])
    expected = torch.stack([torch.stack([-(net(point[None])[0] - c).square().sum() for c in means]) for point in z]).log_softmax(1)
    torch.testing.assert_close(adapted(il.prototypical(net, 3), task), expected, rtol=1e-10, atol=1e-12)


def test_prototypes_of_one_example_each_are_the_examples() -> None:
    net, (x, _) = smooth(), one(image_tasks(), 0).support
    path = (learner := il.prototypical(net, 6)).adapt(learner.prior, (x, torch.tensor([2, 0, 1, 5, 4, 3])))
    torch.testing.assert_close(path[-1]["prototypes"], net(x)[[1, 2, 0, 5, 4, 3]])


def test_a_matching_network_by_hand() -> None:
    net, task = smooth(), one(image_tasks(), 0)
    (x, y), (z, _) = task
    expected = torch.zeros(6, 3, dtype=torch.float64)
    for k in range(6):
        attention = nn.functional.cosine_similarity(net(z[k : k + 1]), net(x)).softmax(0).detach()
        for share, label in zip(attention, y, strict=True):
            expected[k, label] += share
    torch.testing.assert_close(adapted(il.matching(net, 3), task).exp(), expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("name", LEARNED)
def test_the_loss_is_the_cross_entropy_of_the_predictions(name: str) -> None:
    learner, task = LEARNED[name](smooth(), 3), one(image_tasks(), 0)
    predicted = adapted(learner, task)
    torch.testing.assert_close(predicted.exp().sum(1), torch.ones(6, dtype=torch.float64))
    loss = il.task_loss(learner)(learner.prior, task)
    torch.testing.assert_close(loss, nn.functional.cross_entropy(predicted, task.query[1]))


@pytest.mark.parametrize("name", LEARNED)
def test_training_and_evaluating_with_another_number_of_classes(name: str) -> None:
    centres = 3 * torch.randn(5, 16, generator=torch.Generator().manual_seed(3))

    def of(ways: int) -> il.tasks.Source:
        def make(g: torch.Generator) -> Task:
            label = torch.arange(ways).repeat(4)
            x = centres[torch.randperm(5, generator=g)[:ways]][label] + torch.randn(4 * ways, 16, generator=g)
            return Task((x[:ways], label[:ways]), (x[ways:], label[ways:]))

        return il.from_function(make)

    net = smooth().float()
    trained = il.train(LEARNED[name](net, 5), of(5), 100, meta_batch=4, outer_rate=1e-2, progress=False)
    start, end = (
        il.evaluate(replace(LEARNED[name](net, 3), prior=prior), of(3), n_tasks=100, metric=il.accuracy)
        for prior in (LEARNED[name](net, 3).prior, trained.prior)
    )
    assert end.values.shape == (100, 1), "what only prepares is no step"
    assert start.mean[0] < end.mean[0] > 0.9


@pytest.mark.parametrize("distance", ["euclidean", "cosine"])
def test_the_nearest_neighbour_by_hand(distance: str) -> None:
    tasks = image_tasks()
    learner = il.nearest_neighbour(nn.Flatten(), 3, distance)  # pyright: ignore[reportArgumentType]
    for k in range(2):
        (x, y), (z, t) = task = one(tasks, k)
        if distance == "euclidean":
            closest = torch.cdist(z.flatten(1), x.flatten(1)).argmin(1)
        else:
            closest = nn.functional.cosine_similarity(z.flatten(1)[:, None], x.flatten(1)[None], dim=-1).argmax(1)
        assert adapted(learner, task).exp().tolist() == nn.functional.one_hot(y[closest], 3).tolist()
        assert il.task_loss(learner)(learner.prior, task).item() == pytest.approx(1 - (y[closest] == t).double().mean().item())
    scores = il.evaluate(learner, il.from_function(lambda g: one(tasks, 1)), n_tasks=2, metric=il.accuracy)
    assert scores.mean[0].item() == pytest.approx((y[closest] == t).double().mean().item())  # pyright: ignore[reportPossiblyUnboundVariable]


def test_the_nearest_neighbour_by_a_trained_networks_features() -> None:
    net, task = image_net(), one(image_tasks(), 0)
    trained = {name: 2 * p for name, p in il.pretrained(net, il.cross_entropy(net)).prior.items()}
    learner = il.nearest_neighbour(il.without_head(net), 3)
    learner = replace(learner, prior={name: trained[name] for name in learner.prior})
    support = Task(task.support, task.support)
    assert il.task_loss(learner)(learner.prior, support) == 0, "each point is its own nearest"
    x, y = map_tensors(torch.clone, task.support)
    assert il.predict(learner, (x, y), x).argmax(1).tolist() == y.tolist()


def test_pixels_need_no_prior_and_cannot_be_trained() -> None:
    learner = il.nearest_neighbour(nn.Flatten(), 3)
    (x, y), _ = one(image_tasks(), 0)
    assert learner.prior == {}
    assert il.predict(learner, (x, y), x).argmax(1).tolist() == y.tolist()
    with pytest.raises(InputError, match="the learner has no prior that could be trained"):
        il.train(learner, il.from_function(lambda g: one(image_tasks(), 0)), 1, progress=False)


def test_what_cannot_be_compared_is_refused() -> None:
    (x, y), query = one(image_tasks(), 0)
    for build in (il.prototypical, il.matching, il.nearest_neighbour):
        with pytest.raises(InputError, match="ways is 0; a task has 1 class or more"):
            build(smooth(), 0)
        with pytest.raises(InputError, match=r"y is torch.float64 of shape \[6\]; labels are class numbers 0 to 2"):
            (learner := build(smooth(), 3)).adapt(learner.prior, (x, y.double()))
        with pytest.raises(InputError, match=r"of shape \[6, 1\]; labels are class numbers"):
            (learner := build(smooth(), 3)).adapt(learner.prior, (x, y[:, None]))
    for build in (il.prototypical, il.matching):
        with pytest.raises(InputError, match="Flatten has no parameters to learn"):
            build(nn.Flatten(), 3)
    with pytest.raises(InputError, match="distance is 'manhattan'; euclidean or cosine would do"):
        il.nearest_neighbour(nn.Flatten(), 3, "manhattan")  # pyright: ignore[reportArgumentType]
    with pytest.raises(InputError, match="cannot take 2 steps"):
        il.prototypical(smooth(), 3).taking(2)
    assert query[0].shape == (6, 1, 4, 4)


def test_a_class_that_is_not_shown_is_never_the_closest() -> None:
    learner = il.prototypical(nn.Linear(2, 3), 4)
    x = torch.randn(6, 2, generator=torch.Generator().manual_seed(0))
    three = il.prototypical(nn.Linear(2, 3), 3)
    given = (x, torch.arange(6) % 3)
    found = il.predict(learner, given, x)
    assert (found[:, 3] < -1e6).all()
    torch.testing.assert_close(found[:, :3], il.predict(replace(three, prior=learner.prior), given, x))


def test_a_matching_networks_compiled_steps_give_its_gradient() -> None:
    learner = il.matching(nn.Linear(2, 3).double(), 3)
    x = torch.randn(2, 3, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    y = torch.tensor([[0, 1, 2], [2, 0, 1]])
    tasks = Task((x, y), (x.flip(1), y))
    found = meta_gradient(learner, Plan(stepwise=True, compiled=True))(learner.prior, tasks)
    torch.testing.assert_close(found, meta_gradient(learner)(learner.prior, tasks))
