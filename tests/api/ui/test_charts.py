"""Charts: ticks, labels that do not overlap, and values that cannot be drawn."""

from __future__ import annotations

import math
import re
from itertools import pairwise
from xml.etree import ElementTree

import pytest

from api.ui.charts import Series, line_chart, scale, spread, tick_label, ticks

NAMES = ("teacher", "control", "student", "other")


def line(y: list[float], name: str = "student", x: list[float] | None = None) -> Series:
    return Series(name, name, x or [float(n) for n in range(1, len(y) + 1)], y, name)


def drawn(*lines: Series, **how: object) -> ElementTree.Element:
    return ElementTree.fromstring(line_chart(lines, title="AP", **how))  # type: ignore[arg-type]


def places(chart: ElementTree.Element, css: str) -> list[float]:
    """Return the heights in per cent of the elements of a class."""
    found = [each for each in chart.iter() if each.get("class", "").split(" ")[0] == css]
    return [float(str(each.get("cy") or each.get("y")).rstrip("%")) for each in found]


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (0, 1, [0, 0.2, 0.4, 0.6, 0.8, 1]),
        (0.3, 0.62, [0.3, 0.4, 0.5, 0.6]),
        (-3, 7, [-2, 0, 2, 4, 6]),
        (0, 60, [0, 20, 40, 60]),
        (1e-5, 9e-5, [2e-5, 4e-5, 6e-5, 8e-5]),
        (1e6, 1e6 + 10, [1e6 + n for n in (0, 2, 4, 6, 8, 10)]),
    ],
)
def test_ticks_are_round_values_inside_the_range(low: float, high: float, expected: list[float]):
    assert ticks(low, high, 5) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("value", "step", "text"),
    [
        (0.25, 0.25, "0.25"),
        (20, 20, "20"),
        (5000, 2500, "5,000"),
        (-2, 2, "\N{MINUS SIGN}2"),
        (1e-4, 1e-4, "0.0001"),
    ],
)
def test_ticks_have_the_digits_that_their_step_needs(value: float, step: float, text: str):
    assert tick_label(value, step) == text


@pytest.mark.parametrize("y", [[], [math.nan], [math.inf, -math.inf], [math.nan, math.nan, math.nan]])
def test_without_a_point_there_is_an_empty_frame(y: list[float]):
    chart = drawn(line(y))
    assert "no values yet" in "".join(chart.itertext())
    assert chart.get("aria-label") == "AP: no values yet"


@pytest.mark.parametrize("y", [[0.5], [0.0], [-1.0], [0.3, 0.3], [1e-12, 1e-12], [1e12, 1e12]])
def test_one_value_is_drawn_inside_the_frame(y: list[float]):
    [place] = places(drawn(line(y)), "dot")
    assert 0 <= place <= 100


def test_points_that_are_no_numbers_are_left_out():
    chart = drawn(line([0.1, math.nan, 0.3, math.inf, 0.5]))
    [path] = [each.get("d") for each in chart.iter() if each.tag == "path"]
    assert len(str(path).split("L")) == 3
    assert "nan" not in str(path)


@pytest.mark.parametrize(("size", "gap"), [("tall", 6.5), ("small", 15.0)])
@pytest.mark.parametrize("ends", [(0.5, 0.5, 0.5, 0.5), (0.9, 0.899, 0.1, 0.101), (0, 0.3, 0.31, 1)])
def test_labels_at_the_ends_of_four_lines_do_not_overlap(size: str, gap: float, ends: tuple[float, ...]):
    lines = [line([0.2, end], name) for name, end in zip(NAMES, ends, strict=True)]
    labels = sorted(places(drawn(*lines, size=size), "end"))
    assert len(labels) == 4
    assert all(below - above >= gap - 0.02 for above, below in pairwise(labels))
    assert labels[-1] <= 100


def test_labels_stay_where_their_lines_end_if_there_is_room():
    assert spread([10, 30, 90], 5) == [10, 30, 90]
    assert spread([98, 99], 5) == [95, 100]
    assert spread([], 5) == []


def test_each_line_keeps_its_role_and_says_its_last_value():
    chart = drawn(*(line([0.1, 0.2], name) for name in NAMES))
    classes = {each.get("class") for each in chart.iter() if each.tag == "path"}
    assert classes == {f"line r-{name}" for name in NAMES}
    assert chart.get("aria-label") == f"AP: {', '.join(NAMES)}"


def test_what_is_still_to_come_is_shaded():
    [rest] = [each for each in drawn(line([0.1, 0.2]), until=8).iter() if each.get("class") == "rest"]
    assert (rest.get("x"), rest.get("width")) == ("25.00%", "75.00%")
    assert not [each for each in drawn(line([0.1, 0.2]), until=2).iter() if each.get("class") == "rest"]


def test_a_name_is_text():
    hostile = "</svg><script>alert(1)</script>\"'"
    text = line_chart([Series(hostile, "student", [1], [1], hostile)], title=hostile)
    assert "<script" not in text
    ElementTree.fromstring(text)


@pytest.mark.parametrize("values", [(60.9, 56.3, 59.1), (50.0, 50.0, 50.0), (0, 0, 0), (99, 1, 1.2)])
def test_a_scale_has_a_mark_for_each_role(values: tuple[float, ...]):
    shown = dict(zip(("teacher", "control", "student"), values, strict=True))
    text = scale(shown, "words")
    chart = ElementTree.fromstring(text)
    marks = [each for each in chart.iter("svg") if each.get("class") == "ov"]
    assert len(marks) == 3
    assert all(0 <= float(str(mark.get("x")).rstrip("%")) <= 100 for mark in marks)
    heights = re.findall(r'class="lab r-\w+" y="(-\d+)"', text)
    assert len(heights) == 3


def test_labels_of_models_that_are_equal_stand_above_one_another():
    heights = re.findall(
        r'class="lab r-\w+" y="(-\d+)"', scale({"teacher": 5, "control": 5, "student": 5}, "")
    )
    assert sorted(heights) == ["-16", "-31", "-46"]
