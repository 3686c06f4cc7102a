"""Meta-Dataset's experiment, on sets built of folders as a user has them."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import innerloop as il
from innerloop import InputError, experiments
from innerloop.experiments.experiment import Options
from innerloop.experiments.meta_dataset import MetaDataset, mixed, opened
from innerloop.folders import input_colours

SMALL: dict[str, Any] = {"size": 16, "fewest": 2, "most": 4, "filters": 4}
SETS: dict[str, Any] = {"trained_on": ("birds", "omniglot"), "scored_on": ("omniglot", "coco")}


@pytest.mark.parametrize("name", ["l2f/meta-dataset", "l2f/meta-dataset@maml"])
def test_it_trains_on_some_sets_and_scores_each(name: str, sets: Path) -> None:
    [experiment] = experiments.find(name)
    settings = replace(experiment.settings, **SMALL, **SETS)
    row = experiments.run(experiment, settings, Options(out=sets / "runs", quick=True, progress=False))
    assert list(row["cases"]) == ["Omniglot", "MSCOCO"]
    for case, scored in row["cases"].items():
        assert scored["tasks"] == 5
        assert len(scored["mean"]) == 6
        assert case in experiment.claims
    assert input_colours(sets / "runs" / name / "seed0") == ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    learner = il.load(sets / "runs" / name / "seed0")
    x = torch.rand(3, 3, 16, 16)
    assert il.predict(learner, (x, torch.arange(3)), x).shape == (3, 4)


def test_grey_sets_are_shown_in_three_channels(sets: Path) -> None:
    x, _ = opened(MetaDataset(size=16), "omniglot").draw("train", 0, 1).support
    assert x.shape[2:] == (3, 16, 16)
    mean, sd = (torch.tensor(v).view(3, 1, 1) for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    grey = x * sd + mean
    torch.testing.assert_close(grey[:, :, 0], grey[:, :, 2])
    with pytest.raises(InputError, match="images of 3 channels, which cannot be shown in 1"):
        replace(opened(MetaDataset(size=16), "birds"), channels=1)


@pytest.mark.usefixtures("sets")
def test_what_is_missing_is_named() -> None:
    with pytest.raises(InputError, match="no set 'meta-fungi'"):
        mixed(MetaDataset(size=16), ["fungi"]).draw("train", 0, 1)
    with pytest.raises(InputError, match="there is no set 'cats' in Meta-Dataset; it has ilsvrc, omniglot"):
        mixed(MetaDataset(), ["cats"])
    with pytest.raises(InputError, match="16 × 16 and the experiment's 84 × 84; build the set anew with --size 84"):
        mixed(MetaDataset(), ["birds"]).draw("train", 0, 1)
