"""Losses of a network on one task's batch ``(x, y)``; ``mse`` is the papers' for regression."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from hashlib import blake2b
from threading import RLock
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional

from innerloop.batches import in_bytes, tensors
from innerloop.device import device_of
from innerloop.errors import InputError
from innerloop.learner import Batch
from innerloop.models.exchange import exchanged, exchanges
from innerloop.params import Params, under

_MISFITS = ("shapes cannot be multiplied", "same dtype", "expected scalar type", "both arguments to linear", "Expected more than 1")
"""What torch says of an input that does not fit the network."""
_ALONE = RLock()
"""While a network runs, its parameters are others', and some of torch's functions are ours: one thread at a time."""


class Model:
    """``(params, x, …) → net(x, …)``, made by ``model``.

    Args:
        net: runs as it is, but for layers whose higher derivatives torch has not right (``models.exchange``).
            Its parameters that require no gradient, and its buffers, are its own.
        name: what its parameters are under.
    """

    def __init__(self, net: nn.Module, name: str = "net"):
        self.net, self.name = net, name
        self._exchanges, self._innermost = exchanges(net), True
        self._frozen = _frozen(net)

    def __call__(self, params: Params, x: Any, *more: Any) -> Any:
        with _ALONE:
            return self._checked(params, x, *more)

    def _checked(self, params: Params, x: Any, *more: Any) -> Any:
        own = under(params, self.name)
        kinds = {p.dtype for p in own.values() if p.is_floating_point()}
        if kinds and isinstance(x, Tensor) and x.is_floating_point() and x.dtype not in kinds:
            kept = ", ".join(sorted(str(kind).removeprefix("torch.") for kind in kinds))
            raise InputError(f"x is {str(x.dtype).removeprefix('torch.')} but the network is {kept}; convert one of them")
        if (tested := _TESTED.get()) is not None and any(part.training for part in self.net.modules()):
            tested += [(part, part.training) for part in self.net.modules()]
            self.net.eval()
        try:
            y = self._run(own, x, *more)
        except InputError:
            raise
        except (RuntimeError, ValueError) as problem:
            if self._follow(str(problem)):
                return self._checked(params, x, *more)
            if left := self._left_behind(own):
                raise InputError(left) from problem
            if isinstance(x, Tensor) and any(sign in str(problem) for sign in _MISFITS):
                kind = str(x.dtype).removeprefix("torch.")
                what, shapes = "network" if self.name == "net" else self.name, ", ".join(str(list(t.shape)) for t in tensors((x, more)))
                raise InputError(f"the {what} does not take x of shape {shapes} and kind {kind}: {problem}") from problem
            raise
        if isinstance(y, Tensor) and y.dtype is torch.bfloat16 and torch.is_autocast_enabled(y.device.type):
            return y.float()  # the network may be of low precision, what compares its predictions may not
        return y

    def _run(self, own: Params, *inputs: Any) -> Any:
        # functional_call puts back the wrong tensors where a module has two names.
        before = [(part._parameters, name, p) for part in self.net.modules() for name, p in part._parameters.items()]
        try:
            with exchanged(self._exchanges):
                return functional_call(self.net, {**self._fixed(), **own}, inputs, strict=True)
        finally:
            for held, name, p in before:
                held[name] = p

    def _follow(self, problem: str) -> bool:
        """Whether there was something to put right that the network showed when it ran."""
        if self._innermost and any(sign in problem for sign in ("view size is not compatible", "Cannot view a tensor")):
            self._innermost = False
            self._exchanges = exchanges(self.net, innermost=False)
            return True
        if "Missing key" in problem and (frozen := _frozen(self.net)).keys() - self._frozen:
            self._frozen |= frozen  # it was frozen after its loss was made
            return True
        return False

    def _fixed(self) -> Params:
        # Copies, as a network may write into its buffers, such as a spectral norm.
        return {**{name: b.clone() for name, b in self.net.named_buffers()}, **self._frozen}

    def _left_behind(self, own: Params) -> str:
        """What of the network is on another device than its parameters, and what to do; "" where nothing is."""
        there = device_of(own)
        for name, t in self._fixed().items():
            if own and t.device != there:
                return (
                    f"{name} of the network is on {t.device} and the prior on {there}; buffers and frozen parameters "
                    f"stay where they are, so move the network first: net.to({str(there)!r})"
                )
        return ""


def untrained(model: Any) -> dict[str, str]:
    """A digest of each buffer and frozen parameter of a model's network: they are no part of a prior, and saved nowhere."""
    if not isinstance(model, Model):
        return {}
    own = {**dict(model.net.named_buffers()), **_frozen(model.net)}
    return {name: blake2b(in_bytes(t), digest_size=8).hexdigest() for name, t in own.items()}


def _frozen(net: nn.Module) -> Params:
    return {name: p for name, p in net.named_parameters() if not p.requires_grad}


_TESTED: ContextVar[list[tuple[nn.Module, bool]] | None] = ContextVar("networks that are in test", default=None)


@contextmanager
def in_test() -> Iterator[None]:
    """Within the block networks run as after ``net.eval()``: nothing is dropped out."""
    tested: list[tuple[nn.Module, bool]] = []
    token = _TESTED.set(tested)
    try:
        yield
    finally:
        _TESTED.reset(token)
        with _ALONE:
            for part, training in tested:
                part.training = training


def model(net: nn.Module, name: str = "net") -> Model:
    """``(params, x, …) → net(x, …)`` with the parameters under ``net.``, or another name; the module itself stays as it is.

    Raises:
        InputError: the network keeps running statistics, which tasks would overwrite for each other.
    """
    for at, part in net.named_modules():
        if part.training and getattr(part, "track_running_stats", False):
            raise InputError(
                f"{type(part).__name__} {at!r} updates running statistics, which tasks would overwrite for each other; "
                "build it with track_running_stats=False to normalise each batch by itself, or call net.eval() to freeze it"
            )
    return Model(net, name)


@dataclass(frozen=True)
class Supervised:
    """Loss of a network on a batch ``(x, y)``, made by ``supervised``."""

    model: Callable[[Params, Any], Any]
    compare: Callable[[Any, Any], Tensor]

    def __call__(self, params: Params, batch: Batch) -> Tensor:
        if not (isinstance(batch, (tuple, list)) and len(batch) == 2):
            listed = "; a list as support is one batch for each step, so give a tuple" if isinstance(batch, Tensor) else ""
            raise InputError(f"a batch must be a pair (x, y), not {type(batch).__name__} of {_size(batch)}{listed}")
        x, y = batch
        value = self.compare(self.model(params, x), y)
        if value.ndim:
            raise InputError(f"the loss of one task must be a scalar, not of shape {list(value.shape)}; reduce it to its mean")
        return value


def supervised(net: nn.Module, compare: Callable[[Any, Any], Tensor]) -> Supervised:
    """Loss L(φ) = compare(net_φ(x), y) on a batch ``(x, y)``.

    Args:
        net: any module of one input.
        compare: ``(prediction, y) → scalar``, such as those of ``torch.nn.functional``. Its
            reduction sets the scale of the inner gradient, and so is part of the method.

    Raises:
        InputError: the batch is no pair, or ``compare`` does not give a scalar.
    """
    return Supervised(model(net), compare)


def mse(net: nn.Module) -> Supervised:
    """Mean squared error, L(φ) = mean (net_φ(x) − y)², over points and outputs.

    The paper's equation 2 prints a sum; its released code takes the mean, and the printed
    inner rates go with the mean. We follow the code.

    >>> import torch
    >>> net = nn.Linear(1, 1)
    >>> params = {"net.weight": torch.ones(1, 1), "net.bias": torch.zeros(1)}
    >>> mse(net)(params, (torch.tensor([[1.0], [2.0]]), torch.tensor([[1.0], [4.0]])))
    tensor(2.)

    Raises:
        InputError: prediction and ``y`` differ in shape or kind of number.
    Source: Finn et al. 2017, arXiv:1703.03400, eq. 2.
    """
    return supervised(net, squared_error)


def squared_error(prediction: Tensor, y: Tensor) -> Tensor:
    """mean (prediction − y)², of tensors that agree in shape: nothing is broadcast."""
    if prediction.shape != y.shape:
        raise InputError(f"the network gives {list(prediction.shape)} but y is {list(y.shape)}; they must agree")
    if prediction.dtype != y.dtype:
        raise InputError(f"the network gives {prediction.dtype} but y is {y.dtype}; convert y")
    return functional.mse_loss(prediction, y)


def cross_entropy(net: nn.Module) -> Supervised:
    """Mean cross-entropy, L(φ) = −mean log softmax(net_φ(x))_y, of logits ``[points, classes]`` and class numbers ``[points]``.

    MAML's printed inner rates do not go with the mean: see ``cross_entropy_per_shot``.

    >>> net = nn.Linear(1, 4)
    >>> params = {"net.weight": torch.zeros(4, 1), "net.bias": torch.zeros(4)}
    >>> cross_entropy(net)(params, (torch.ones(8, 1), torch.arange(8) % 4))  # log 4
    tensor(1.3863)
    """
    return supervised(net, functional.cross_entropy)


def cross_entropy_per_shot(net: nn.Module, shots: int) -> Supervised:
    """Cross-entropy as MAML scales it, L(φ) = −Σ log softmax(net_φ(x))_y / shots, a *sum* over all points.

    With N classes of ``shots`` examples each that is N times the mean, so an inner rate printed
    for it is N times as large on ``cross_entropy``: 0.01 of 5-way mini-ImageNet is 0.05 there,
    0.4 of 5-way Omniglot is 2. The released code divides the sum over the *query* by the
    support's shots too, which Adam does not see but a clipped meta-gradient does.

    Args:
        shots: examples of each class in the support, 1 or more.

    >>> net = nn.Linear(1, 4)
    >>> params = {"net.weight": torch.zeros(4, 1), "net.bias": torch.zeros(4)}
    >>> cross_entropy_per_shot(net, shots=2)(params, (torch.ones(8, 1), torch.arange(8) % 4))  # 4 log 4
    tensor(5.5452)

    Raises:
        InputError: shots is below 1.
    Source: Finn et al. 2017, arXiv:1703.03400, §5.2; its scale: cbfinn/maml, ``maml.py`` and ``utils.py``.
    """
    if shots < 1:
        raise InputError(f"shots is {shots}; give the number of examples of each class in the support, 1 or more")
    return supervised(net, lambda logits, y: functional.cross_entropy(logits, y, reduction="sum") / shots)


def cross_entropy_of_ways(net: nn.Module) -> Supervised:
    """Mean cross-entropy among the first N outputs, L(φ) = −mean log softmax(net_φ(x)₀ … net_φ(x)_N₋₁)_y, for tasks of different N.

    N is the largest class number of the batch and 1; outputs behind it count for nothing.

    >>> net = nn.Linear(1, 50)
    >>> params = {"net.weight": torch.zeros(50, 1), "net.bias": torch.zeros(50)}
    >>> cross_entropy_of_ways(net)(params, (torch.ones(8, 1), torch.arange(8) % 4))  # log 4
    tensor(1.3863)

    Source: Triantafillou et al. 2020, arXiv:1903.03096, §3.3: the last layer is cut to a task's ways.
    """
    return supervised(net, lambda logits, y: functional.cross_entropy(of_ways(logits, y), y))


def of_ways(logits: Tensor, y: Tensor) -> Tensor:
    """Logits ``[points, outputs]`` with −∞ for those of classes beyond the largest in y."""
    beyond = torch.arange(logits.shape[-1], device=logits.device) > y.max()
    return logits.masked_fill(beyond, -torch.inf)


def accuracy(prediction: Tensor, y: Tensor) -> Tensor:
    """Part of the points whose largest score is that of their class, 0 to 1; a metric for ``evaluate``.

    Args:
        prediction: logits or other scores, ``[points, classes]``. NaN among them makes the
            accuracy NaN: what diverged is no guess.
        y: class numbers, ``[points]``.

    >>> accuracy(torch.tensor([[2.0, 1.0], [0.0, 1.0]]), torch.tensor([0, 0]))
    tensor(0.5000)

    Raises:
        InputError: the shapes do not fit.
    """
    if prediction.ndim != 2 or prediction.shape[:1] != y.shape:
        raise InputError(f"prediction is {list(prediction.shape)} and y {list(y.shape)}; give [points, classes] and [points]")
    right = (prediction.argmax(-1) == y).float().mean()
    return torch.where(prediction.isnan().any(), torch.nan, right)


def _size(batch: Any) -> str:
    return f"shape {list(batch.shape)}" if isinstance(batch, Tensor) else f"{len(batch)} parts" if hasattr(batch, "__len__") else "one"
