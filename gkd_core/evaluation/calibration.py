"""Calibration of a detector's scores: how far a score is from the precision of the detections that have it.

A detection is right if it is COCO's hit at an overlap (IoU) of 0.5. The expected calibration error (ECE) is the mean
over bins of scores, weighted by their detections, of |precision - mean score|. Sources: Guo et al., "On Calibration
of Modern Neural Networks", ICML 2017, equation 3; for detections Kueppers et al., "Multivariate Confidence
Calibration for Object Detection", CVPR Workshops 2020 (their D-ECE, without the position of the box).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from gkd_core.evaluation.class_matches import AT_50, ClassMatches

BINS = 15
"""Bins of equal width between 0 and 1; as many as in the paper."""


class Calibration(NamedTuple):
    """The bins, lowest scores first; numbers of an empty bin are 0."""

    counts: NDArray[np.int64]
    """(15,) detections."""
    scores: NDArray[np.float64]
    """(15,) mean score."""
    precision: NDArray[np.float64]
    """(15,) share of hits."""

    @property
    def error(self) -> float:
        """Return the expected calibration error, in 0..1; 0 without detections."""
        distances = np.abs(self.precision - self.scores)
        return float((self.counts * distances).sum() / max(self.counts.sum(), 1))


def calibrate(classes: Sequence[ClassMatches]) -> Calibration:
    """Sort the detections of all classes into bins; those that count neither for nor against are left out."""
    counted = [~matches.ignored[AT_50] for matches in classes]
    scores = np.concatenate([m.scores[kept] for m, kept in zip(classes, counted, strict=True)])
    hits = np.concatenate([m.hit[AT_50, kept] for m, kept in zip(classes, counted, strict=True)])
    bins = np.minimum((scores * BINS).astype(np.int64), BINS - 1)
    count = np.bincount(bins, minlength=BINS)
    sums = (np.bincount(bins, values, minlength=BINS) for values in (scores, hits))
    score, precision = (values / np.maximum(count, 1) for values in sums)
    return Calibration(count, score, precision)
