"""Patterns over names."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from innerloop import InputError
from innerloop.losses import model
from innerloop.params import named, under, within

NAMES = ["net.body.0.weight", "net.body.0.bias", "net.body.10.weight", "net.head.weight", "net.head.bias", "rate.net.head.weight"]
PARAMS = {name: torch.tensor(float(k)) for k, name in enumerate(NAMES)}


@pytest.mark.parametrize(
    ("only", "expected"),
    [
        ("net", NAMES[:5]),
        ("net.head", NAMES[3:5]),
        ("net.head.bias", NAMES[4:5]),
        ("net.*.bias", [NAMES[1], NAMES[4]]),
        ("*.bias", [NAMES[1], NAMES[4]]),
        ("net.body.1*", NAMES[2:3]),
        ("*", NAMES),
        (["net", "-net.head"], NAMES[:3]),
        (["-*.weight", "net"], [NAMES[1], NAMES[4]]),
        (["net.head", "rate"], NAMES[3:]),
    ],
)
def test_a_pattern_is_a_leading_part_of_the_name(only: str | list[str], expected: list[str]) -> None:
    assert list(within(PARAMS, only)) == expected


@pytest.mark.parametrize(
    ("only", "message"),
    [
        ("net.haed", "pattern 'net.haed' matches no parameter; did you mean net.head?"),
        ("net.body.1", "pattern 'net.body.1' matches no parameter"),
        (["net", "-net.tail"], "pattern 'net.tail' matches no parameter"),
        (["net.head", "-net"], "leave no parameter"),
    ],
)
def test_a_pattern_that_leaves_nothing_is_an_error(only: str | list[str], message: str) -> None:
    with pytest.raises(InputError, match=message.replace("?", r"\?")):
        within(PARAMS, only)


@given(st.sampled_from(NAMES), st.data())
def test_any_leading_part_matches_its_own_name(name: str, data: st.DataObject) -> None:
    parts = name.split(".")
    leading = ".".join(parts[: data.draw(st.integers(1, len(parts)))])
    assert name in within(PARAMS, leading)
    assert name not in within({**PARAMS, "other.x": torch.zeros(())}, ["other", "net", "rate", f"-{leading}"])


def test_named_and_under_are_inverse_and_copy() -> None:
    net = nn.Linear(2, 1)
    params = named("net", net)
    assert list(under(params, "net")) == ["weight", "bias"]
    params["net.weight"].zero_()
    assert net.weight.abs().sum() > 0


def test_a_missing_parameter_is_not_taken_from_the_module() -> None:
    net = nn.Linear(2, 1)
    with pytest.raises(RuntimeError, match="bias"):
        model(net)({"net.weight": torch.zeros(1, 2)}, torch.zeros(1, 2))
