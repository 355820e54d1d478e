"""The classes of the teacher and of the data."""

import pytest

from gkd_core.distill.teacher import labels_of, match_classes
from gkd_core.errors import SpecError


def test_classes_are_matched_by_name() -> None:
    assert match_classes(["cat", "dog", "cow"], ["dog", "cat"]).tolist() == [2, 1]


def test_a_class_that_the_teacher_lacks_is_named() -> None:
    with pytest.raises(SpecError, match="does not know zebra"):
        match_classes(["cat", "dog"], ["dog", "zebra"])


def test_what_the_teacher_finds_gets_the_labels_of_the_data() -> None:
    assert labels_of(["cat", "dog", "cow"], ["cow", "cat"]).tolist() == [0, 2, 0, 1]
