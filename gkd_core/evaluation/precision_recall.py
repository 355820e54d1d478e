"""Precision over recall of each class, and the score threshold at which F1 is highest.

Hits are COCO's at an overlap (IoU) of 0.5. A threshold t keeps the detections whose score is t or more.

Shapes: C classes, T different scores of a class, 101 recalls 0, 0.01 .. 1.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from faster_coco_eval import COCOeval_faster
from numpy.typing import NDArray

from gkd_core.evaluation.class_matches import AT_50, ClassMatches

Floats = NDArray[np.float64]
AT_75 = 5
"""Position of the overlap 0.75 among COCO's thresholds."""


class Curve(NamedTuple):
    """Precision and recall of one class at each possible threshold, the highest first."""

    thresholds: Floats
    """(T,) the different scores."""
    precision: Floats
    """(T,) in 0..1."""
    recall: Floats
    """(T,) in 0..1, ascending."""


class OperatingPoint(NamedTuple):
    """One threshold of a class, and what it gives."""

    threshold: float
    precision: float
    recall: float
    f1: float


def curve(matches: ClassMatches) -> Curve:
    """Return precision and recall at each possible threshold; recall is 0 without objects."""
    counted = ~matches.ignored[AT_50]
    scores, hits = matches.scores[counted], matches.hit[AT_50, counted].cumsum()
    last = np.flatnonzero(np.diff(scores, append=-np.inf))  # of each run of equal scores
    return Curve(scores[last], hits[last] / (last + 1), hits[last] / max(len(matches.objects), 1))


def best_point(of: Curve) -> OperatingPoint | None:
    """Return the point with the highest F1, of equal ones that of the highest threshold; None without a hit."""
    both = of.precision + of.recall
    if not both.any():
        return None
    f1 = 2 * of.precision * of.recall / np.maximum(both, np.finfo(float).tiny)
    best = int(f1.argmax())
    numbers = (float(values[best]) for values in (of.thresholds, of.precision, of.recall, f1))
    return OperatingPoint(*numbers)


def precision_at_recalls(evaluation: COCOeval_faster) -> Floats:
    """Return (10, 101, C) COCO's precision: the highest at a recall or a higher one; -1 without objects.

    The first axis is the overlap from 0.50 to 0.95; objects of all areas, at most 100 detections an image.
    """
    precision: Floats = evaluation.eval["precision"][:, :, :, 0, -1]
    return precision


def mean_curves(precision: Floats) -> dict[str, Floats]:
    """Return (101,) the mean precision over the classes that have objects, by the metric that is its mean.

    `AP50` and `AP75` are at one overlap, `AP` is the mean over all ten. Empty if no class has objects.

    Args:
        precision: (10, 101, C) as `precision_at_recalls` returns it.
    """
    known = precision[:, :, (precision[0] > -1).all(axis=0)]
    if not known.size:
        return {}
    mean = known.mean(axis=2)  # (10, 101)
    return {"AP": mean.mean(axis=0), "AP50": mean[AT_50], "AP75": mean[AT_75]}
