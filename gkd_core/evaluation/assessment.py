"""What decides whether a detector can be shipped, beyond its metrics: thresholds, curves, confusions, calibration.

Computed once for a report, from the matching that `coco.py` did.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from gkd_core.evaluation.calibration import Calibration, calibrate
from gkd_core.evaluation.class_matches import matches_by_class
from gkd_core.evaluation.coco import Score
from gkd_core.evaluation.confusion import Counts, confusion
from gkd_core.evaluation.precision_recall import (
    Floats,
    OperatingPoint,
    best_point,
    curve,
    mean_curves,
    precision_at_recalls,
)
from gkd_core.evaluation.voc import best_threshold


class Assessment(NamedTuple):
    """One detector on one split."""

    classes: tuple[str, ...]
    """Names in label order."""
    objects: tuple[int, ...]
    """Objects of each class."""
    points: dict[str, OperatingPoint | None]
    """By name of a class with objects, the threshold of the highest F1; None if no object was found."""
    precision: Floats
    """(10, 101, C) as `precision_at_recalls` returns it."""
    mean_precision: dict[str, Floats]
    """As `mean_curves` returns it."""
    threshold: float
    """The threshold at which F1 over all classes is highest: that of `confusion`."""
    confusion: Counts
    """(C + 1, C + 1): row by annotated, column by detected label; 0 is the background."""
    calibration: Calibration


def assess(score: Score, classes: Sequence[str]) -> Assessment:
    """Assess the detections of a split from their scores; `classes` in label order."""
    matches = matches_by_class(score.evaluation)
    precision = precision_at_recalls(score.evaluation)
    threshold = best_threshold(score.matches)
    return Assessment(
        classes=tuple(classes),
        objects=tuple(len(one.objects) for one in matches),
        points={
            name: best_point(curve(one))
            for name, one in zip(classes, matches, strict=True)
            if len(one.objects)
        },
        precision=precision,
        mean_precision=mean_curves(precision),
        threshold=threshold,
        confusion=confusion(score.evaluation, threshold),
        calibration=calibrate(matches),
    )
