"""What a report says of a detector beyond its metrics agrees with the metrics and with itself."""

from __future__ import annotations

import numpy as np

from gkd_core.evaluation.assessment import assess
from gkd_core.evaluation.coco import score
from tests.gkd_core.evaluation.drawn_detections import THREE, drawn, drawn_score


def test_every_object_has_its_place_in_the_confusion_matrix() -> None:
    found = assess(drawn_score(0), THREE)
    assert tuple(found.confusion.sum(axis=1)[1:]) == found.objects
    assert found.confusion[0, 0] == 0


def test_a_class_without_objects_has_no_best_threshold() -> None:
    assert list(assess(drawn_score(0), THREE).points) == ["cat", "dog"]


def test_a_detector_that_finds_nothing_can_be_assessed() -> None:
    images, _ = drawn(0)
    found = assess(score(images, THREE, {}), THREE)
    assert found.points == {"cat": None, "dog": None}
    assert found.calibration.error == 0
    assert np.all(found.mean_precision["AP"] == 0)
    assert found.confusion[:, 1:].sum() == 0
