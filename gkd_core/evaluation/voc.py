"""Pascal VOC's matching of detections at an IoU of 0.5 (true positive, false positive or ignored), and its AP.

    - every detection is compared with the object of its class that it overlaps most, also if that is matched already
    - of those that overlap an object by 0.5 or more, the one with the highest score is the hit (true positive), the
    others are false alarms (false positives); a detection that overlaps a crowd region or difficult object most is
    ignored - an overlap (IoU) is computed in whole pixels, both ends of a box included: a side is x2 - x1 + 1, as in
    the development
      kit, where coordinates name pixels
    - no limit on the number of detections

COCO's rules differ in all four; its numbers come from a library (`coco.py`). Sources: Everingham et al., "The
PASCAL Visual Object Classes Challenge", IJCV 2010 (VOC07), and `VOCevaldet.m` of the kits of 2007 and 2012.

Shapes: D detections of a split, N of an image, M objects of it, C classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from gkd_core.data.records import ImageRecord

_Kind = TypeVar("_Kind", bound=np.generic)

Detections = dict[int, dict[str, np.ndarray]]
"""By image id: boxes (N, 4) float x1 y1 x2 y2 in pixels of the original, labels (N,) from 1, scores (N,)."""

OVERLAP = 0.5
"""Intersection over union from which a detection belongs to an object."""
ELEVEN_RECALLS = np.arange(0, 1.1, 0.1)
"""In floating point, as other implementations: 0.3 is a little more than 3 / 10, so a recall of 3 of 10 does not
reach it."""


class Matches(NamedTuple):
    """All detections of a split, highest score first; among equal ones that of the earlier image."""

    picture: NDArray[np.int64]
    """(D,) position of the image in the split."""
    row: NDArray[np.int64]
    """(D,) position among the detections of its image."""
    labels: NDArray[np.int64]
    """(D,) labels, from 1."""
    scores: NDArray[np.float64]
    """(D,)."""
    truth: NDArray[np.int64]
    """(D,) row of the object that it overlaps most, among those of its image; -1: none by 0.5 or more."""
    hit: NDArray[np.bool_]
    """(D,)."""
    ignored: NDArray[np.bool_]
    """(D,) neither hit nor false alarm."""
    objects: NDArray[np.int64]
    """(C,) objects by class, crowd regions and difficult ones not counted."""


def match(images: Sequence[ImageRecord], num_classes: int, detections: Detections) -> Matches:
    """Match every detection of a split with the objects. Label 0 (the output for background) is no detection."""
    looked = [_best_overlaps(image, detections.get(image.image_id)) for image in images]
    row, labels, truth = (_concatenate([part[at] for part in looked], np.int64) for at in range(3))
    scores = _concatenate([part[3] for part in looked], np.float64)
    picture = np.repeat(np.arange(len(images)), [len(part[0]) for part in looked])
    order = np.argsort(-scores, kind="stable")
    hit, ignored = _hits_and_ignored(images, picture[order], truth[order])
    wanted = _concatenate([image.labels[~image.crowd] for image in images], np.int64)
    objects = np.bincount(wanted, minlength=num_classes + 1)[1:]
    return Matches(
        picture[order], row[order], labels[order], scores[order], truth[order], hit, ignored, objects
    )


def _best_overlaps(image: ImageRecord, found: dict[str, np.ndarray] | None) -> tuple[np.ndarray, ...]:
    """Return row, label, best object (of equal ones the first) and score of each detection of an image."""
    if found is None:
        return (np.zeros(0),) * 4
    row = np.flatnonzero(np.asarray(found["labels"]) > 0)
    labels, scores, boxes = (np.asarray(found[name])[row] for name in ("labels", "scores", "boxes"))
    truth = np.full(len(row), -1)
    if len(row) and len(image.labels):
        overlap = overlaps(boxes.astype(np.float64), image.boxes.astype(np.float64))
        overlap[labels[:, None] != image.labels] = 0
        truth = np.where(overlap.max(axis=1) >= OVERLAP, overlap.argmax(axis=1), -1)
    return row, labels, truth, scores


def _hits_and_ignored(
    images: Sequence[ImageRecord], picture: np.ndarray, truth: np.ndarray
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Return which detections, highest score first, are hits, and which are ignored."""
    start = np.cumsum([0, *(len(image.labels) for image in images)])
    crowd = _concatenate([image.crowd for image in images], np.bool_)
    found = np.flatnonzero(truth >= 0)
    target = start[picture[found]] + truth[found]  # row among all objects of the split
    hit, ignored = np.zeros((2, len(truth)), dtype=np.bool_)
    hit[found[np.unique(target, return_index=True)[1]]] = True  # the first of each
    ignored[found] = crowd[target]
    return hit & ~ignored, ignored


def _concatenate(parts: Sequence[np.ndarray], kind: type[_Kind]) -> NDArray[_Kind]:
    return np.concatenate([np.zeros(0, dtype=kind), *parts]).astype(kind)


def overlaps(boxes: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Return (N, M) the IoU of (N, 4) and (M, 4) boxes, both ends of every side included."""
    low = np.maximum(boxes[:, None, :2], others[:, :2])
    high = np.minimum(boxes[:, None, 2:], others[:, 2:])
    common = (high - low + 1).clip(0).prod(axis=2)
    area, other_area = ((b[:, 2:] - b[:, :2] + 1).prod(axis=1) for b in (boxes, others))
    shares: np.ndarray = common / (area[:, None] + other_area - common)
    return shares


# ---- average precision -----------------------------------------------------------------------------------


def voc_ap(matches: Matches) -> dict[str, NDArray[np.float64]]:
    """Compute VOC's AP50 of each class, by metric: (C,) in 0..1, -1 for a class without objects.

    `VOC07`: the mean, over the recalls 0, 0.1 .. 1, of the best precision at that recall or a higher one. `VOC12`:
    the area under the best precision at each recall or a higher one.
    """
    found = np.array([_ap(matches, label) for label in range(1, len(matches.objects) + 1)]).reshape(-1, 2)
    return {"VOC07": found[:, 0], "VOC12": found[:, 1]}


def _ap(matches: Matches, label: int) -> tuple[float, float]:
    """Compute AP50 of one class as of 2007 and as of 2012."""
    objects = matches.objects[label - 1]
    if not objects:
        return -1.0, -1.0
    own = (matches.labels == label) & ~matches.ignored
    hits = matches.hit[own].cumsum()  # (D_c,)
    recall, precision = hits / objects, hits / np.arange(1, len(hits) + 1)
    best = np.maximum.accumulate(precision[::-1])[::-1]  # at this recall or a higher one
    reached = np.searchsorted(recall, ELEVEN_RECALLS)
    eleven = np.append(best, 0.0)[reached].mean()
    return float(eleven), float((best * np.diff(recall, prepend=0.0)).sum())


def best_threshold(matches: Matches) -> float:
    """Return the score at which F1 over all classes is highest; 0 without a hit.

    Scores of detectors are not comparable, so one threshold for all would favour one of them.
    """
    counted = ~matches.ignored
    hits = matches.hit[counted].cumsum()
    if not len(hits) or not hits[-1]:
        return 0.0
    f1 = 2 * hits / (np.arange(1, len(hits) + 1) + matches.objects.sum())
    return float(matches.scores[counted][f1.argmax()])
