"""COCO's matching of detections and objects, class by class, taken from the evaluation that computed the metrics.

Shapes: D detections of a class (at most 100 an image), 10 thresholds of overlap (IoU) 0.50, 0.55 .. 0.95.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from faster_coco_eval import COCOeval_faster
from numpy.typing import NDArray

Ints = NDArray[np.int64]
AT_50 = 0
"""Position of the overlap 0.50 among the thresholds."""


class ClassMatches(NamedTuple):
    """The matching of one class, highest score first; among equal scores that of the earlier image."""

    objects: Ints
    """(objects,) position in the split of the image of each object that counts."""
    picture: Ints
    """(D,) position in the split of the image of each detection."""
    scores: NDArray[np.float64]
    """(D,)."""
    hit: NDArray[np.bool_]
    """(10, D)."""
    ignored: NDArray[np.bool_]
    """(10, D) neither hit nor false alarm."""


def matches_by_class(evaluation: COCOeval_faster) -> list[ClassMatches]:
    """Return the matching of each class in label order, for objects of all areas."""
    return [_matches_of(evaluation, number) for number in range(len(evaluation.params.catIds))]


def _matches_of(evaluation: COCOeval_faster, number: int) -> ClassMatches:
    params = evaluation.params
    pictures, thresholds = len(params.imgIds), len(params.iouThrs)
    first = number * len(params.areaRng) * pictures  # class by area by image; all areas are the first
    kept = [found.__getstate__() for found in evaluation._evalImgs_cpp[first : first + pictures]]
    matched, _, scores, crowd, ignored, *_ = ([state[part] for state in kept] for part in range(6))
    found = _concatenate(scores, np.float64)
    order = np.argsort(-found, kind="stable")
    neither = _by_threshold(ignored, thresholds)[:, order].astype(np.bool_)
    return ClassMatches(
        objects=np.repeat(np.arange(pictures), [len(flags) - sum(flags) for flags in crowd]),
        picture=np.repeat(np.arange(pictures), [len(values) for values in scores])[order],
        scores=found[order],
        hit=(_by_threshold(matched, thresholds)[:, order] > 0) & ~neither,
        ignored=neither,
    )


def _by_threshold(flat: list[list[int]], thresholds: int) -> Ints:
    """Return (10, D) from what the library stores flat for each image."""
    parts = [np.asarray(values, dtype=np.int64).reshape(thresholds, -1) for values in flat]
    return np.concatenate(parts, axis=1)


def _concatenate(parts: list[Any], kind: type) -> np.ndarray:
    return np.concatenate([np.asarray(part, dtype=kind) for part in parts])
