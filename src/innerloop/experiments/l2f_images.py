"""Baik et al. 2020, Tables 2, H and I: MAML on tieredImageNet, CIFAR-FS and FC100, as L2F's paper ran it."""

from dataclasses import replace

from innerloop.experiments.few_shot import FewShot, cells

L2F = FewShot(
    iterations=50_000,
    meta_batch=4,
    turns="none",
    queries=15,
    test_queries=15,
    steps=5,
    rate=0.01,
    test_steps=5,
    net="pooled",
    filters=48,
    norm="transductive",
    eps=1e-5,
    slope=0.01,
    bias=False,
    reduction="mean",
    clip=10.0,
    channels=3,
    size=84,
    colours="imagenet",
)
CIFAR = replace(L2F, size=32, colours="cifar", clip=0.0)
RELEASED = (
    "released code of L2F, but for second derivatives from the first iteration on and a single model at the end: "
    "48 filters, leaky ReLU, mean loss, normalisation that does not move"
)

SETS = (
    (
        "tiered-imagenet",
        replace(L2F, data="tiered-imagenet", split="tiered", iterations=125_000),
        {(5, 1): (49.06, 0.5), (5, 5): (67.48, 0.47)},
        "70 h",
    ),
    ("cifar-fs", replace(CIFAR, data="cifar-fs", split="cifar-fs"), {(5, 1): (53.91, 0.5), (5, 5): (70.16, 0.46)}, "8 h"),
    ("fc100", replace(CIFAR, data="fc100", split="fc100"), {(5, 1): (35.98, 0.48), (5, 5): (51.4, 0.5), (5, 10): (56.13, 0.5)}, "8 h"),
)

EXPERIMENTS = tuple(
    cell
    for name, settings, claims, cost in SETS
    for (ways, shots), claim in claims.items()
    for cell in cells(
        f"l2f/{name}@maml",
        "MAML",
        settings if shots == 1 else replace(settings, meta_batch=2),
        {(ways, shots): claim},
        cost,
        source="Baik et al. 2020, arXiv:1906.05859, Tables 2, H and I",
        follows=RELEASED,
    )
)
