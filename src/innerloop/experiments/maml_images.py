"""Finn et al. 2017, §5.2 and App. A.1: few-shot classification of Omniglot and mini-ImageNet."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

from innerloop.experiments.experiment import Trial
from innerloop.experiments.few_shot import (
    FewShot,
    by_reptile,
    cells,
    classifier_of_all,
    few_shot,
    metric_method,
    plus_plus,
    with_context,
)
from innerloop.methods import fomaml, matching, meta_sgd, prototypical

FIVE_WAYS_TAKE = {1: "3 h", 5: "12 h"}
TWENTY_WAYS_TAKE = {1: "20 h", 5: "4 days"}
FIVE_WAYS = FewShot()
TWENTY_WAYS = FewShot(ways=20, steps=5, rate=0.1, meta_batch=16, test_steps=5)
MINI = FewShot(
    data="mini-imagenet",
    channels=3,
    size=84,
    split="ravi",
    turns="none",
    queries=15,
    meta_batch=4,
    steps=5,
    rate=0.01,
    test_steps=10,
    net="pooled",
    filters=32,
    clip=10.0,
)
OMNIGLOT = "Finn et al. 2017, arXiv:1703.03400, Table 1"
RELEASED = "released code: 1100/100/423 characters, turned by quarters at test too, K query images, normalisation that does not move"

VARIANTS: dict[str, tuple[str, Callable[[Any], Trial]]] = {
    "first-order": ("first-order MAML", partial(few_shot, method=fomaml)),
    "anil": ("ANIL", partial(few_shot, moves="net.head")),
    "boil": ("BOIL", partial(few_shot, moves=("net", "-net.head", "-*.norm"))),
    "meta-sgd": ("Meta-SGD", partial(few_shot, method=meta_sgd)),
    "maml++": ("MAML++", plus_plus),
    "reptile": ("Reptile", by_reptile),
    "prototypical": ("prototypical network", partial(metric_method, method=prototypical)),
    "matching": ("matching network", partial(metric_method, method=matching)),
}
"""What is compared with MAML on the same tasks; none of these has a number in its paper."""

FULL_CONTEXT = "; the printed number is with full-context embeddings, which ours has not"
NONE = (0.0, 0.0)
MINI_RELEASED = "released code: 64/16/20 classes, meta-batch of 4, K query images at test, normalisation that does not move"
NO_CONV = replace(FIVE_WAYS, net="no-conv")

GLYPHS = FewShot(data="glyphs", split="glyphs", turns="none", iterations=1_000, queries=5, test_queries=5)
BASELINES: dict[str, tuple[str, Callable[[Any], Trial], dict[tuple[int, int], tuple[float, float]]]] = {
    "fine-tuned": ("fine-tuning", partial(classifier_of_all, method="fine-tuned"), {(5, 1): (28.86, 0.54), (5, 5): (49.79, 0.79)}),
    "nearest": ("nearest neighbour", partial(classifier_of_all, method="nearest neighbour"), {(5, 1): (41.08, 0.7), (5, 5): (51.04, 0.65)}),
    "matching": ("matching network", partial(metric_method, method=matching), {(5, 1): (43.56, 0.84), (5, 5): (55.31, 0.73)}),
}

EXPERIMENTS = (
    *cells(
        "maml/omniglot", "MAML", FIVE_WAYS, {(5, 1): (98.7, 0.4), (5, 5): (99.9, 0.1)}, FIVE_WAYS_TAKE, source=OMNIGLOT, follows=RELEASED
    ),
    *cells(
        "maml/omniglot",
        "MAML",
        TWENTY_WAYS,
        {(20, 1): (95.8, 0.3), (20, 5): (98.9, 0.2)},
        TWENTY_WAYS_TAKE,
        source=OMNIGLOT,
        follows=RELEASED,
    ),
    *cells(
        "maml/omniglot-noconv",
        "MAML without convolutions",
        NO_CONV,
        {(5, 1): (89.7, 1.1), (5, 5): (97.5, 0.6)},
        {1: "2 h", 5: "4 h"},
        source=OMNIGLOT,
        follows=RELEASED,
    ),
    *cells(
        "maml/context-vector",
        "context vector",
        FIVE_WAYS,
        {(5, 1): (94.9, 0.9), (5, 5): (97.7, 0.3)},
        FIVE_WAYS_TAKE,
        with_context,
        source="Finn et al. 2017, arXiv:1703.03400, Table 3",
        follows="paper, only the context moves; released code for the tasks",
    ),
    *(
        cell
        for variant, (title, build) in VARIANTS.items()
        for own, cost in ((FIVE_WAYS, FIVE_WAYS_TAKE), (TWENTY_WAYS, TWENTY_WAYS_TAKE))
        for cell in cells(
            f"maml/omniglot@{variant}", title, own, {(own.ways, 1): NONE}, cost, build, source="compared with MAML", follows=RELEASED
        )
    ),
    *cells(
        "maml/mini-imagenet",
        "MAML",
        MINI,
        {(5, 1): (48.7, 1.84), (5, 5): (63.11, 0.92)},
        {1: "15 h", 5: "30 h"},
        source=OMNIGLOT,
        follows=MINI_RELEASED,
    ),
    *cells(
        "maml/mini-imagenet@first-order",
        "first-order MAML",
        MINI,
        {(5, 1): (48.07, 1.75), (5, 5): (63.15, 0.91)},
        {1: "8 h", 5: "15 h"},
        VARIANTS["first-order"][1],
        source=OMNIGLOT,
        follows=MINI_RELEASED,
    ),
    *(
        cell
        for variant, (title, build, claims) in BASELINES.items()
        for cell in cells(
            f"maml/mini-imagenet@{variant}",
            title,
            replace(MINI, test_steps=10 if variant == "fine-tuned" else 0),
            claims,
            dict.fromkeys((1, 5), "6 h"),
            build,
            source=OMNIGLOT,
            follows="Ravi & Larochelle 2017 where they print it; MAML's tasks and network" + FULL_CONTEXT * (variant == "matching"),
        )
    ),
    *cells("maml/glyphs", "MAML", GLYPHS, {(5, 1): NONE}, {1: "5 min"}, source="no paper", follows="MAML's settings for Omniglot"),
)
