"""Estimators: scikit-learn's own checks, and what is theirs alone."""

import pickle
from pathlib import Path
from typing import Any

import numpy
import pytest
import torch
from sklearn.base import clone
from sklearn.model_selection import cross_val_score
from sklearn.utils.estimator_checks import parametrize_with_checks
from torch import nn

import innerloop as il
from innerloop import InputError, experiments
from innerloop.estimators import FewShotClassifier, FewShotRegressor


@parametrize_with_checks([FewShotClassifier(), FewShotRegressor()])
def test_scikit_learn_takes_it_for_an_estimator(estimator: Any, check: Any) -> None:
    check(estimator)


def classifier(ways: int = 3) -> il.Learner:
    """A learner of small images."""
    net = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 8 * 8, ways))
    generator = torch.Generator().manual_seed(0)
    for p in net.parameters():
        nn.init.normal_(p, std=0.1, generator=generator)
    return il.maml(net, il.cross_entropy(net), steps=5, rate=0.5)


def bars(n: int = 12) -> tuple[numpy.ndarray, numpy.ndarray]:
    """Images of a bar, whose class is its place."""
    x, y = numpy.zeros((n, 8, 8), numpy.uint8), numpy.arange(n) % 3
    for k in range(n):
        x[k, 2 * y[k] + 1] = 150 + 5 * k
    return x, y


def test_a_regressor_is_predict(tmp_path: Path) -> None:
    net = il.mlp(1, 8, 1)
    learner = il.maml(net, il.mse(net), steps=3)
    trained = il.train(learner, il.Sinusoids(), 3, out=tmp_path, progress=False)
    x = torch.linspace(-5, 5, 10)[:, None]
    expected = il.predict(trained, (x, x.sin()), x)[:, 0].tolist()
    for given in (FewShotRegressor(tmp_path, learner), FewShotRegressor(trained), FewShotRegressor(learner=trained)):
        assert given.fit(x.numpy(), x.sin()[:, 0].numpy()).predict(x.numpy()).tolist() == pytest.approx(expected, rel=1e-5)
    for steps in (0, 7):
        moved = FewShotRegressor(trained, steps=steps).fit(x.numpy(), x.sin().numpy())
        numpy.testing.assert_allclose(moved.predict(x.numpy()), il.predict(trained, (x, x.sin()), x, steps), rtol=1e-5)


def test_a_run_of_an_experiment_loads_by_its_folder(tmp_path: Path) -> None:
    [experiment] = experiments.find("maml/sinusoid")
    options = experiments.Options(out=tmp_path, quick=True, progress=False)
    experiments.run(experiment, experiment.settings, options)
    folder = tmp_path / "maml/sinusoid/seed0"
    x = numpy.linspace(-5, 5, 10)[:, None]
    given = FewShotRegressor(folder).fit(x, numpy.sin(x[:, 0]))
    assert given.predict(x).tolist() == pytest.approx(il.predict(il.load(folder), (x, numpy.sin(x)), x)[:, 0].tolist(), rel=1e-5)
    assert pickle.loads(pickle.dumps(given)).predict(x).tolist() == given.predict(x).tolist()


def test_a_classifier_takes_images_in_every_form() -> None:
    x, y = bars()
    names = numpy.array(["top", "middle", "low"])[y]
    fitted = FewShotClassifier(classifier()).fit(x, names)
    probabilities = fitted.predict_proba(x)
    assert fitted.classes_.tolist() == ["low", "middle", "top"]
    assert fitted.score(x, names) == 1
    assert probabilities.sum(1) == pytest.approx(1)
    for same in (x / 255, x[:, None], (x / 255)[:, None]):
        numpy.testing.assert_allclose(FewShotClassifier(classifier()).fit(same, names).predict_proba(same), probabilities, rtol=1e-5)


def test_a_learner_that_compares_is_a_classifier_too() -> None:
    x, y = bars()
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 8, bias=False))
    assert FewShotClassifier(il.prototypical(net, 3)).fit(x, y).score(x, y) == 1


def test_surplus_outputs_are_ignored() -> None:
    x, y = bars()
    learner = classifier(ways=5)
    logits = il.predict(learner, (x[:, None] / 255, y), x[:, None] / 255)[:, :3]
    numpy.testing.assert_allclose(FewShotClassifier(learner).fit(x, y).predict_proba(x), logits.softmax(1).numpy(), rtol=1e-5)


def test_bad_input_is_named(tmp_path: Path) -> None:
    x, y = bars()
    with pytest.raises(InputError, match="the support has 3 classes but the learner's head has 2 outputs; give fewer classes"):
        FewShotClassifier(classifier(ways=2)).fit(x, y)
    with pytest.raises(InputError, match=r"the network does not take x of shape \[12, 1, 6, 8\]"):
        FewShotClassifier(classifier()).fit(x[:, :6], y)
    with pytest.raises(InputError, match=r"X has examples of shape \[1, 8, 4\], but fit had \[1, 8, 8\]; give the same"):
        FewShotClassifier(classifier()).fit(x, y).predict(x[:, :, :4])
    with pytest.raises(InputError, match="holds no run of a listed experiment"):
        FewShotClassifier(tmp_path).fit(x, y)
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 1))
    with pytest.raises(InputError, match=r"the network gives \[12, 1\] but y is \[12, 2\]"):
        FewShotRegressor(il.maml(net, il.mse(net))).fit(x, numpy.ones((12, 2)))
    with pytest.raises(InputError, match=r"adapting to the support makes net\.1\.weight infinite; scale the examples"):
        FewShotRegressor(il.maml(net, il.mse(net), steps=50, rate=1e6)).fit(x, y)


def test_it_can_be_cloned_and_cross_validated() -> None:
    x, y = bars(15)
    scores = cross_val_score(clone(FewShotClassifier(classifier())), x, y, cv=5)
    assert scores.tolist() == [1.0] * 5


def test_examples_that_are_shown_more_often_change_nothing() -> None:
    """MAML's loss on images is a sum divided by the shots, which are those that are given."""
    run = Path(__file__).parents[1] / "priors/maml-omniglot-5w1s"
    x = numpy.random.default_rng(0).integers(0, 255, (5, 28, 28), dtype=numpy.uint8)
    y = numpy.arange(5)
    once = FewShotClassifier(run).fit(x, y)
    often = FewShotClassifier(run).fit(x.repeat(4, 0), y.repeat(4))
    numpy.testing.assert_allclose(often.predict_proba(x), once.predict_proba(x), atol=1e-4)
    assert numpy.abs(FewShotClassifier(run).fit(x, y[::-1]).predict_proba(x) - once.predict_proba(x)).max() > 0.1
    again = pickle.loads(pickle.dumps(often))
    assert again.predict_proba(x).tolist() == often.predict_proba(x).tolist()


def test_bytes_are_scaled_as_the_runs_images_were(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    x, y = bars()
    run = tmp_path / "run"
    il.train(
        classifier(),
        il.from_function(lambda g: il.Task(*((torch.rand(3, 1, 8, 8, generator=g), torch.arange(3)),) * 2)),
        1,
        out=run,
        progress=False,
    )
    monkeypatch.setattr("innerloop.estimators.input_colours", lambda folder: ((0.2,), (0.5,)))
    told = FewShotClassifier(run, classifier()).fit(x, y).predict_proba(x)
    scaled = (x / 255 - 0.2) / 0.5
    numpy.testing.assert_allclose(FewShotClassifier(run, classifier()).fit(scaled, y).predict_proba(scaled), told, atol=1e-5)
    for same in (torch.from_numpy(x), [*x]):
        assert FewShotClassifier(run, classifier()).fit(same, y).predict_proba(same).tolist() == told.tolist()
    with pytest.raises(InputError, match="X are images of int64; give bytes"):
        FewShotClassifier(classifier()).fit(x.astype(int), y)


def test_images_that_do_not_fit_are_told_in_a_line() -> None:
    x, y = bars()
    with pytest.raises(InputError, match=r"does not fit|does not take"):
        FewShotClassifier(classifier()).fit(x[..., None], y)
