"""Losses of classification and their scale."""

import pytest
import torch
from conftest import image_net, image_tasks
from torch import nn
from torch.func import vmap

import innerloop as il
from innerloop import InputError
from innerloop.batches import one
from innerloop.losses import accuracy, cross_entropy, cross_entropy_of_ways, of_ways


def test_the_loss_per_shot_is_the_number_of_classes_times_the_mean() -> None:
    """With two examples of each of three classes; so a step with a third of the rate is the same step."""
    net = image_net()
    x = image_tasks().support[0][0]
    batch = x, torch.tensor([0, 0, 1, 1, 2, 2])
    mean, per_shot = il.cross_entropy(net), il.cross_entropy_per_shot(net, shots=2)
    prior = il.pretrained(net, mean).prior
    torch.testing.assert_close(per_shot(prior, batch), 3 * mean(prior, batch))
    a, b = (il.maml(net, loss, rate=rate).adapt(prior, batch)[-1] for loss, rate in ((mean, 0.3), (per_shot, 0.1)))
    torch.testing.assert_close(a, b)


def test_no_shots_are_refused() -> None:
    with pytest.raises(InputError, match="shots is 0; give the number of examples of each class"):
        il.cross_entropy_per_shot(nn.Linear(1, 2), shots=0)


def test_accuracy_counts_what_is_right() -> None:
    scores = torch.tensor([[[0.0, 1.0, 0.0], [3.0, 2.0, 1.0]], [[0.0, 0.0, 1.0], [-2.0, -1.0, -3.0]]])
    labels = torch.tensor([[1, 1], [2, 1]])
    assert vmap(il.accuracy)(scores, labels).tolist() == [0.5, 1.0]
    assert il.accuracy(scores[0].double(), labels[0]).dtype == torch.float32
    assert il.accuracy(torch.tensor([[-torch.inf, 0.0]]), torch.tensor([1])) == 1


def test_what_diverged_is_no_guess() -> None:
    scores = torch.tensor([[[0.0, torch.nan]], [[0.0, 1.0]]])
    assert vmap(il.accuracy)(scores, torch.tensor([[0], [1]])).isnan().tolist() == [True, False]
    source = il.from_function(lambda g: one(image_tasks(), 0))
    net = image_net()
    lost = il.maml(net, il.cross_entropy(net), steps=2, rate=1e300)
    found = il.evaluate(lost, source, n_tasks=2, metric=il.accuracy)
    assert found.values[:, 0].max() <= 1
    assert found.diverged.tolist()[-1] == 2


def test_accuracy_wants_a_row_of_scores_for_each_label() -> None:
    for prediction, y in [(torch.zeros(3), torch.zeros(3)), (torch.zeros(3, 2), torch.zeros(2)), (torch.zeros(3, 2), torch.zeros(3, 2))]:
        with pytest.raises(InputError, match=r"give \[points, classes\] and \[points\]"):
            il.accuracy(prediction, y)


def test_outputs_behind_the_ways_count_for_nothing() -> None:
    net = nn.Linear(3, 6).double()
    params = {f"net.{name}": p.detach() for name, p in net.named_parameters()}
    x, y = torch.randn(8, 3, dtype=torch.float64), torch.arange(8) % 4
    few = {name: p[:4] for name, p in params.items()}
    four = nn.Linear(3, 4).double()
    torch.testing.assert_close(cross_entropy_of_ways(net)(params, (x, y)), cross_entropy(four)(few, (x, y)))

    def loss(weight: torch.Tensor) -> torch.Tensor:
        return cross_entropy_of_ways(net)({**params, "net.weight": weight}, (x, y))

    weight = params["net.weight"].requires_grad_()
    assert torch.autograd.gradcheck(loss, [weight])
    assert torch.autograd.gradgradcheck(loss, [weight])
    assert (torch.autograd.grad(loss(weight), weight)[0][4:] == 0).all()
    scores = torch.tensor([[0.0, 1.0, 5.0]])
    assert accuracy(scores, torch.tensor([1])) == 0
    assert accuracy(of_ways(scores, torch.tensor([1])), torch.tensor([1])) == 1, "the third output is of no class here"
