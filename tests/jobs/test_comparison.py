"""Which fields of configs differ. Why AP cannot be compared is tested where it is shown: client and page."""

from __future__ import annotations

from jobs.comparison import differences


def test_fields_that_differ_are_listed_by_path_and_those_that_are_alike_are_not() -> None:
    one = {"train": {"epochs": 3, "ema": None}, "data": {"classes": ["a", "b"]}}
    two = {"train": {"epochs": 4}, "data": {"classes": ["a", "b"]}}
    assert differences([one, two, one]) == {"train.epochs": (3, 4, 3)}


def test_a_field_that_only_one_has_is_missing_in_the_others() -> None:
    assert differences([{"teacher": {"weights": "t"}}, {}]) == {"teacher.weights": ("t", None)}
