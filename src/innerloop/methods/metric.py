"""Methods that compare instead of descending: one step keeps what was shown, and a query is held against it.

Labels are class numbers 0 … ways − 1, ``[points]``. Classes may be shown unequally often, but
each of them at least once: the loss of a task without one of its classes is NaN or infinite.
"""

from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from innerloop.errors import InputError
from innerloop.learner import Batch, Learner, Step
from innerloop.losses import accuracy, model
from innerloop.params import Params, named

Model = Callable[[Params, Any], Tensor]


FAR = 1e6
"""Each number of the prototype of a class that the support does not show: nothing is near it."""


def prototypical(net: nn.Module, ways: int) -> Learner:
    """Prototypical network: log p(n | x) = log softmax_n −|f(x) − cₙ|², with cₙ the mean of f over the support of class n.

    The meta-gradient goes through query and support. The released code embeds both as one
    batch; here each is a batch of its own, which makes a difference with batch normalisation
    by the batch. A network may be trained with more ways than it is evaluated with:
    ``replace(prototypical(net, 5), prior=trained.prior)``.

    Args:
        net: the embedding f, ``[points, …] → [points, features]``.
        ways: classes of a task.

    Raises:
        InputError: there is no class or no parameter; later, the labels are no class numbers.

    >>> learner = prototypical(nn.Linear(1, 2), ways=2)
    >>> [_, kept] = learner.adapt(learner.prior, (torch.randn(3, 1), torch.tensor([0, 1, 1])))
    >>> kept["prototypes"].shape
    torch.Size([2, 2])

    Source: Snell et al. 2017, arXiv:1703.05175, eq. 1 and 2.
    """
    embed = _embedding(net)

    def keep_means(params: Params, batch: Batch) -> Params:
        shown, label = _shown(embed, params, batch, ways)
        count = label.sum(0)[:, None]
        return {**params, "prototypes": torch.where(count > 0, label.mT @ shown / count.clamp(min=1), FAR)}

    def predict(params: Params, x: Any) -> Tensor:
        return functional.log_softmax(_closeness(embed(params, x), params["prototypes"]), -1)

    return _learner(net, ways, keep_means, predict)


def matching(net: nn.Module, ways: int) -> Learner:
    """Matching network: p(n | x) = Σ over the support of class n of a(x, xᵢ), a = softmax over i of cos(f(x), f(xᵢ)).

    Query and support are embedded by one and the same network, each point by itself: the paper's
    full context embeddings are not built.

    Args:
        net: the embedding f, ``[points, …] → [points, features]``.
        ways: classes of a task.

    Raises:
        InputError: there is no class or no parameter; later, the labels are no class numbers.

    >>> learner = matching(nn.Linear(1, 2), ways=2)
    >>> path = learner.adapt(learner.prior, (torch.randn(3, 1), torch.tensor([0, 1, 1])))
    >>> learner.model(path[-1], torch.randn(4, 1)).exp().sum(1).round(decimals=4)
    tensor([1., 1., 1., 1.])

    Source: Vinyals et al. 2016, arXiv:1606.04080, eq. 1, §2.1.1.
    """
    embed = _embedding(net, cosine=True)

    def predict(params: Params, x: Any) -> Tensor:
        attention = functional.softmax(embed(params, x) @ params["shown.embedding"].mT, -1)
        return (attention @ params["shown.label"]).log()

    return _learner(net, ways, _keep_all(embed, ways), predict)


def nearest_neighbour(embed: nn.Module, ways: int, distance: Literal["euclidean", "cosine"] = "euclidean") -> Learner:
    """Nearest neighbour: a query has the class of the support point that it is closest to; nothing is trained.

    Predictions are logarithms of probabilities, 0 for that class and −∞ for the others, and the loss is the part that is wrong.

    Args:
        embed: what makes features of an input: ``nn.Flatten()`` for raw pixels, or a trained
            network, such as ``without_head(net)`` with ``replace(learner, prior=…)``.
        ways: classes of a task.
        distance: between features; by ``cosine`` their lengths do not count.

    Raises:
        InputError: there is no class or no such distance; later, the labels are no class numbers.

    >>> learner = nearest_neighbour(nn.Flatten(), ways=2)
    >>> [_, kept] = learner.adapt(learner.prior, (torch.tensor([[0.0], [1.0]]), torch.tensor([1, 0])))
    >>> learner.model(kept, torch.tensor([[0.2]]))
    tensor([[-inf, 0.]])

    Source: Ravi & Larochelle 2017, "Optimization as a model for few-shot learning", ICLR, its second
    baseline; on raw pixels: Vinyals et al. 2016, arXiv:1606.04080, §4.1.
    """
    if distance not in ("euclidean", "cosine"):
        raise InputError(f"distance is {distance!r}; euclidean or cosine would do")
    features = _embedding(embed, cosine=distance == "cosine")  # of equal length, the closest is that of the smallest angle

    def predict(params: Params, x: Any) -> Tensor:
        closest = _closeness(features(params, x), params["shown.embedding"]).argmax(-1)
        return params["shown.label"][closest].log()

    def wrong(params: Params, batch: Batch) -> Tensor:
        return 1 - accuracy(predict(params, batch[0]), batch[1])

    _check(ways)
    return Learner(named("net", embed), (_keep_all(features, ways),), wrong, predict, prepared=1)


def _learner(net: nn.Module, ways: int, keep: Step, predict: Model) -> Learner:
    _check(ways)
    if not (prior := named("net", net)):
        raise InputError(f"{type(net).__name__} has no parameters to learn; give a network that has, or take nearest_neighbour")

    def loss(params: Params, batch: Batch) -> Tensor:
        x, y = batch
        return functional.nll_loss(predict(params, x), y)

    return Learner(prior, (keep,), loss, predict, prepared=1)


def _check(ways: int) -> None:
    if ways < 1:
        raise InputError(f"ways is {ways}; a task has 1 class or more")


def _embedding(net: nn.Module, cosine: bool = False) -> Model:
    forward = model(net)

    def embed(params: Params, x: Any) -> Tensor:
        features = forward(params, x).flatten(1)
        return functional.normalize(features, dim=-1) if cosine else features

    return embed


def _keep_all(embed: Model, ways: int) -> Step:
    def keep(params: Params, batch: Batch) -> Params:
        shown, label = _shown(embed, params, batch, ways)
        return {**params, "shown.embedding": shown, "shown.label": label}

    return keep


def _shown(embed: Model, params: Params, batch: Batch, ways: int) -> tuple[Tensor, Tensor]:
    """The support's embeddings ``[points, features]``, and its labels as rows of 0 and 1 ``[points, ways]``."""
    x, y = batch
    if y.ndim != 1 or y.is_floating_point():
        raise InputError(f"y is {y.dtype} of shape {list(y.shape)}; labels are class numbers 0 to {ways - 1}, one for each point")
    features = embed(params, x)
    # By comparison: functional.one_hot reads the labels' values, which a compiler cannot follow.
    return features, (y[:, None] == torch.arange(ways, device=y.device)).to(features.dtype)


def _closeness(a: Tensor, b: Tensor) -> Tensor:
    """−|a − b|² of all pairs of rows, but for |a|², which is the same for every b."""
    return 2 * a @ b.mT - b.square().sum(-1)
