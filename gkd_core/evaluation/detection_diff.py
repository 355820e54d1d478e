"""Comparison of the detections of two runs of one detector that may differ only by rounding.

Detections are paired by class and overlap, since near-equal scores may change their order. A detection without a
partner within the tolerance must be explained by rounding: its score lies at the threshold (or at the last place of a
full list), or it ties with another box in NMS. docs/decisions/0046 says why.

Shapes: N and M detections of one image.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import NamedTuple

import torch
from torch import Tensor
from torchvision.ops import box_iou

from gkd_core.detectors.detector import Detector

Found = dict[str, Tensor]
"""boxes (N, 4) in pixels, labels (N,) from 1, scores (N,)."""

SAME_OBJECT = 0.5
"""Overlap (IoU) from which two boxes of a class can be partners."""
OVERLAP_EDGE = 0.01
"""An overlap this close to the NMS threshold is decided by rounding."""


class Limits(NamedTuple):
    """Thresholds of a detector's post-processing."""

    score: float
    """Score threshold: detections below are dropped."""
    overlap: float
    """NMS threshold: of two boxes of a class that overlap more, the lower-scored one is suppressed."""
    most: int
    """Largest number of detections of an image."""


class Tolerance(NamedTuple):
    """Largest differences that count as equal."""

    box: float
    """Pixels, of any coordinate."""
    score: float


class Agreement(NamedTuple):
    """Result of comparing two lists of detections."""

    pairs: int
    """Number of pairs that were compared."""
    box: float
    """Largest difference of a coordinate between partners, in pixels; 0 without any."""
    score: float
    """Largest difference of their scores."""
    decided_otherwise: int
    """Detections of either list without a partner, explained by rounding."""
    alone: tuple[str, ...]
    """Descriptions of the detections of either list without a partner that rounding does not explain."""

    def and_(self, other: Agreement) -> Agreement:
        """Combine the results of two images."""
        return Agreement(
            self.pairs + other.pairs,
            max(self.box, other.box),
            max(self.score, other.score),
            self.decided_otherwise + other.decided_otherwise,
            self.alone + other.alone,
        )


NOTHING = Agreement(0, 0.0, 0.0, 0, ())


def limits_of(detector: Detector) -> Limits:
    """Return the thresholds of a torchvision detector."""
    heads: Detector = getattr(detector, "roi_heads", detector)
    return Limits(heads.score_thresh, heads.nms_thresh, heads.detections_per_img)


def compare(first: Found, second: Found, limits: Limits, tolerance: Tolerance) -> Agreement:
    """Compare the detections of two runs on one image.

    Args:
        first: N detections.
        second: M detections, on the same device.
        limits: those of the detector.
        tolerance: how far rounding may reach.
    """
    result = NOTHING
    rows, columns = set(range(len(first["scores"]))), set(range(len(second["scores"])))
    for row, column in _partners(first, second, tolerance):
        box = float((first["boxes"][row] - second["boxes"][column]).abs().max())
        score = float((first["scores"][row] - second["scores"][column]).abs())
        if box > tolerance.box and _rivals(first, row, second, limits, tolerance)[column]:
            continue  # two boxes tied, and each run kept another: explained by rounding below
        rows.discard(row)
        columns.discard(column)
        result = result.and_(Agreement(1, box, score, 0, ()))
    for left, own, other in ((rows, first, second), (columns, second, first)):
        for index in sorted(left):
            result = result.and_(_explain_unpaired(own, index, other, limits, tolerance))
    return result


def _partners(first: Found, second: Found, tolerance: Tolerance) -> Iterator[tuple[int, int]]:
    """Yield pairs of one class, the most similar first; each detection in one pair at most."""
    alike = _similarity(first, second, tolerance)
    rows, columns = (alike >= SAME_OBJECT).nonzero(as_tuple=True)
    order = alike[rows, columns].argsort(descending=True, stable=True)
    taken: set[int] = set()
    given: set[int] = set()
    for row, column in zip(rows[order].tolist(), columns[order].tolist(), strict=True):
        if row not in taken and column not in given:
            taken.add(row)
            given.add(column)
            yield row, column


def _similarity(first: Found, second: Found, tolerance: Tolerance) -> Tensor:
    """Return (N, M) the similarity of detections: their overlap, over 1 for boxes equal within the tolerance.

    Equal boxes have an overlap of 0 if they are empty; the nearer box and score, the higher the similarity.
    """
    box = (first["boxes"][:, None] - second["boxes"][None]).abs().amax(-1)
    score = (first["scores"][:, None] - second["scores"][None]).abs()
    equal = 3 - box / tolerance.box - score.clamp(max=1)
    near = (box <= tolerance.box) & (first["labels"][:, None] == second["labels"][None])
    return equal.where(near, _overlaps(first, second))


def _overlaps(first: Found, second: Found) -> Tensor:
    """Return (N, M) intersection over union, 0 for empty boxes; -1 between classes."""
    same = first["labels"][:, None] == second["labels"][None]
    overlaps: Tensor = box_iou(first["boxes"], second["boxes"]).nan_to_num(0.0).where(same, -1.0)
    return overlaps


def _rivals(own: Found, index: int, other: Found, limits: Limits, tolerance: Tolerance) -> Tensor:
    """Return (M,) which of the others could suppress a detection, or be suppressed by it, by rounding alone."""
    one = {name: values[index : index + 1] for name, values in own.items()}
    close = (other["scores"] - one["scores"]).abs() <= tolerance.score
    return (_overlaps(one, other)[0] >= limits.overlap - OVERLAP_EDGE) & close


def _explain_unpaired(
    own: Found, index: int, other: Found, limits: Limits, tolerance: Tolerance
) -> Agreement:
    """Return the result for a detection without a partner: explained by rounding, or a difference."""
    score = float(own["scores"][index])
    full = len(own["scores"]) >= limits.most
    lines = [limits.score, *([float(own["scores"].min())] if full else [])]
    if (
        min(abs(score - line) for line in lines) <= tolerance.score
        or _rivals(own, index, other, limits, tolerance).any()
        or _near_nms_threshold(own, index, limits)
    ):
        return NOTHING._replace(decided_otherwise=1)
    box = ", ".join(f"{value:.1f}" for value in own["boxes"][index].tolist())
    return NOTHING._replace(alone=(f"label {int(own['labels'][index])} at {box} with score {score:.4f}",))


def _near_nms_threshold(own: Found, index: int, limits: Limits) -> bool:
    """Return whether another box of its list overlaps it by nearly the NMS threshold."""
    overlap = _overlaps(own, own)[index]
    overlap[index] = -1
    return bool((overlap >= limits.overlap - OVERLAP_EDGE).any())


def as_found(arrays: Mapping[str, object]) -> Found:
    """Convert numpy arrays to tensors."""
    return {name: torch.as_tensor(values) for name, values in arrays.items()}
