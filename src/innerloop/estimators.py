"""A trained prior as a scikit-learn estimator: ``fit`` adapts it to a handful of examples.

Needs scikit-learn, which ``pip install 'innerloop[sklearn]'`` brings.
"""

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Self

import numpy
import torch
from sklearn.base import BaseEstimator, ClassifierMixin, RegressorMixin
from sklearn.utils import check_random_state
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted, validate_data
from torch import Tensor, nn

from innerloop.errors import InputError
from innerloop.evaluate import adapted, check_classes, predict_with
from innerloop.experiments import load
from innerloop.folders import input_colours
from innerloop.learner import Batch, Learner
from innerloop.losses import cross_entropy, model
from innerloop.methods import maml
from innerloop.models import mlp
from innerloop.params import Params


class FewShot(BaseEstimator):
    """What ``FewShotClassifier`` and ``FewShotRegressor`` share."""

    learner_: Learner
    params_: Params
    shape_: torch.Size

    def __init__(
        self,
        run: str | Path | Learner | None = None,
        learner: Learner | None = None,
        steps: int | None = None,
        random_state: Any = 0,
    ):
        self.run = run
        self.learner = learner
        self.steps = steps
        self.random_state = random_state

    def _start(self, shots: int | None = None) -> Learner:
        """The learner that is adapted, to so many examples of each class."""
        if isinstance(self.run, Learner):
            return self.run
        if self.run is not None:
            return load(self.run, self.learner, shots=shots)
        return self.learner or self._untrained()

    def _untrained(self) -> Learner:
        raise NotImplementedError

    def _generator(self) -> torch.Generator:
        return torch.Generator().manual_seed(int(check_random_state(self.random_state).randint(2**31 - 1)))

    def _seen(self, X: Any, y: Any = "no_validation", **how: Any) -> tuple[Tensor, Any]:
        """X as the network sees it, and y once it is known to fit."""
        given: Any = numpy.asarray(X) if isinstance(X, (Tensor, list)) else X
        images = getattr(given, "ndim", 2) > 2
        bytes_ = images and given.dtype == numpy.uint8
        if images and not bytes_ and given.dtype.kind in "iu":
            raise InputError(f"X are images of {given.dtype}; give bytes (uint8, 0 to 255), or numbers scaled as in training")
        checked = validate_data(self, given, y, allow_nd=True, dtype=numpy.float64, **how)
        x, y = checked if isinstance(checked, tuple) else (checked, None)
        x = torch.tensor(numpy.ascontiguousarray(x))
        x = x[:, None] if x.ndim == 3 else x
        if bytes_:
            mean, sd = input_colours(self.run) if isinstance(self.run, (str, Path)) else ((0.0,), (1.0,))
            x = (x / 255 - x.new_tensor(mean).view(-1, 1, 1)) / x.new_tensor(sd).view(-1, 1, 1)
        return x, y

    def _at(self, X: Any) -> Tensor:
        """The network's outputs."""
        check_is_fitted(self)
        x, _ = self._seen(X, reset=False)
        if x.shape[1:] != self.shape_:
            raise InputError(f"X has examples of shape {list(x.shape[1:])}, but fit had {list(self.shape_)}; give the same")
        return predict_with(self.learner_, self.params_, x).double().cpu()

    def __getstate__(self) -> dict[str, Any]:
        state: Any = super().__getstate__()
        return {name: value for name, value in state.items() if name != "learner_"}  # its steps are functions

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        if "params_" in state:
            self.learner_ = self._start(getattr(self, "shots_", None))


class FewShotClassifier(ClassifierMixin, FewShot):
    """A classifier that is a trained prior, adapted to the examples of ``fit``.

    X is ``[examples, features]``, or images ``[examples, channels, height, width]`` or
    ``[examples, height, width]``; scaled as in training, or images as bytes. The head's
    outputs beyond the classes of ``fit`` are ignored. With a run's folder it can be pickled.

    Args:
        run: folder of a trained run, or a trained learner. Where there is neither this nor
            ``learner``, a small network that is not trained at all, on standardised features.
        learner: what was trained, where the run is of no listed experiment; without a run,
            it is adapted as it is.
        steps: of adaptation; by default as many as the learner takes.
        random_state: of the weights that the untrained network starts from.

    >>> FewShotClassifier().fit([[0.0], [0.2], [2.0], [2.2]], ["low", "low", "high", "high"]).predict([[0.1], [2.1]]).tolist()
    ['low', 'high']

    Raises:
        InputError: in ``fit``, where there are more classes than the head has outputs, or the
            examples do not fit the network.
    """

    def fit(self, X: Any, y: Any) -> Self:
        """Adapt the prior to examples X of classes y."""
        x, y = self._seen(X, y)
        check_classification_targets(y)
        self.shape_ = x.shape[1:]
        self.classes_, numbers = numpy.unique(y, return_inverse=True)
        self.shots_ = max(round(len(y) / len(self.classes_)), 1)
        self.learner_ = self._start(self.shots_)
        check_classes(self.learner_, x, len(self.classes_))
        self.params_ = adapted(self.learner_, (x, torch.tensor(numbers)), self.steps)
        return self

    def predict(self, X: Any) -> numpy.ndarray:
        """The most probable class of each example."""
        best = self.predict_proba(X).argmax(1)
        return self.classes_[best]

    def predict_proba(self, X: Any) -> numpy.ndarray:
        """Probabilities ``[examples, classes]``, classes in the order of ``classes_``."""
        logits = self._at(X)
        return logits[:, : len(self.classes_)].softmax(1).numpy()

    def _untrained(self) -> Learner:
        net = Standardised(self.shape_, len(self.classes_), self._generator())
        return standardising(maml(net, cross_entropy(net), steps=100, rate=0.5, only="net.body"))


class FewShotRegressor(RegressorMixin, FewShot):
    """A regressor that is a trained prior, adapted to the examples of ``fit``.

    X is as in ``FewShotClassifier``, y is ``[examples]`` or ``[examples, outputs]``.

    Args:
        run, learner, steps, random_state: as in ``FewShotClassifier``.

    >>> x = numpy.linspace(-1, 1, 10)[:, None]
    >>> bool(FewShotRegressor().fit(x, x[:, 0]).score(x, x[:, 0]) > 0.9)
    True

    Raises:
        InputError: in ``fit``, where the examples do not fit the network.
    """

    def fit(self, X: Any, y: Any) -> Self:
        """Adapt the prior to examples X with values y."""
        x, y = self._seen(X, y, multi_output=True, y_numeric=True)
        y = torch.tensor(numpy.asarray(y, numpy.float64))
        self.shape_, self.y_shape_ = x.shape[1:], y.shape[1:]
        self.learner_ = self._start()
        self.params_ = adapted(self.learner_, (x, y.reshape(len(y), -1)), self.steps)
        return self

    def predict(self, X: Any) -> numpy.ndarray:
        """The value of each example, in the shape that ``fit`` was given."""
        values = self._at(X)
        return values.reshape(len(values), *self.y_shape_).numpy()

    def _untrained(self) -> Learner:
        net = Standardised(self.shape_, math.prod(self.y_shape_), self._generator())
        forward = model(net)

        def loss(params: Params, batch: Batch) -> Tensor:
            return ((forward(params, batch[0]) - batch[1]) / params["net.y_sd"]).square().mean()

        return standardising(maml(net, loss, steps=100, rate=0.1, only="net.body"))

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.target_tags.multi_output = True
        return tags


class Standardised(nn.Module):
    """An MLP whose inputs and outputs are in units of their deviation from their mean, which are parameters.

    In double precision: scikit-learn expects of an estimator that predictions do not depend on
    the size of a batch beyond 1e-7.
    """

    x_mean: nn.Parameter
    x_sd: nn.Parameter
    y_mean: nn.Parameter
    y_sd: nn.Parameter

    def __init__(self, shape: Sequence[int], outputs: int, generator: torch.Generator):
        super().__init__()
        self.body = nn.Sequential(nn.Flatten(), *mlp(math.prod(shape), 32, outputs, generator=generator))
        for name, size in (("x", tuple(shape)), ("y", (outputs,))):
            self.register_parameter(f"{name}_mean", nn.Parameter(torch.zeros(size)))
            self.register_parameter(f"{name}_sd", nn.Parameter(torch.ones(size)))
        self.double()

    def forward(self, x: Tensor) -> Tensor:
        return self.body((x - self.x_mean) / self.x_sd) * self.y_sd + self.y_mean


def standardising(learner: Learner) -> Learner:
    """The learner with a first step that reads mean and deviation off the support."""

    def standardise(params: Params, batch: Batch) -> Params:
        found = {}
        for name, values in zip("xy", batch, strict=True):
            if values.is_floating_point():
                sd = values.std(0, correction=0)
                found |= {f"net.{name}_mean": values.mean(0), f"net.{name}_sd": torch.where(sd > 0, sd, 1.0)}
        return {**params, **found}

    return replace(learner, steps=(standardise, *learner.steps), prepared=1)
