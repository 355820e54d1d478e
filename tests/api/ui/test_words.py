"""Numbers and times as people read them."""

from __future__ import annotations

import pytest

from api.ui import words


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0 s"),
        (89, "89 s"),
        (120, "2 min"),
        (5399, "90 min"),
        (5400, "1 h 30 min"),
        (7200, "2 h"),
        (4e5, "5 days"),
    ],
)
def test_durations_have_two_figures_or_so(seconds: float, text: str):
    assert words.duration(seconds) == text


@pytest.mark.parametrize(
    ("count", "text"), [(0, "0 B"), (999, "999 B"), (31_000, "31.0 kB"), (2.5e9, "2.5 GB")]
)
def test_sizes_have_a_unit(count: float, text: str):
    assert words.size(count) == text


@pytest.mark.parametrize(
    ("value", "text"), [(0.591, "59.1"), (0.0, "0.0"), (-1, "\N{EN DASH}"), (None, "\N{EN DASH}")]
)
def test_a_metric_is_in_points_and_minus_one_is_none(value: float | None, text: str):
    assert words.points(value) == text


def test_differences_have_a_sign():
    assert (words.signed(0.028), words.signed(-0.018)) == ("+2.8", "\N{MINUS SIGN}1.8")


@pytest.mark.parametrize(
    ("name", "text"),
    [("fcos", "FCOS"), ("resnet18", "ResNet-18"), ("timm:convnext_atto", "timm:convnext_atto")],
)
def test_architectures_are_spelled_as_usual(name: str, text: str):
    assert words.architecture(name) == text
