"""How well two runs of one detector agree, when only rounding may tell them apart.

Detections are paired by class and overlap, since near-equal scores may change their order. What has no partner, or
not a near one, must be a matter of rounding: its score lies at the threshold (or at the last place of a full list), or
it ties with another box in the suppression of doubles. docs/decisions/0046 says why.

Shapes: N and M detections of one picture.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import NamedTuple

import torch
from torch import Tensor
from torchvision.ops import box_iou

from gkd_core.detectors.build import Detector

Found = dict[str, Tensor]
"""boxes (N, 4) in pixels, labels (N,) from 1, scores (N,)."""

SAME_OBJECT = 0.5
"""Overlap from which two boxes of a class can be partners."""
OVERLAP_EDGE = 0.01
"""An overlap this close to the threshold of the suppression is decided by rounding."""


class Limits(NamedTuple):
    """Where a detector draws its lines."""

    score: float
    """Under it nothing is reported."""
    overlap: float
    """Over it the lower-scored of two boxes of a class is suppressed."""
    most: int
    """Detections that are reported at most."""


class Tolerance(NamedTuple):
    """What counts as equal."""

    box: float
    """Pixels, of any coordinate."""
    score: float


class Agreement(NamedTuple):
    """How two lists of detections compare."""

    pairs: int
    """Partners that were compared."""
    box: float
    """Largest difference of a coordinate between partners, in pixels; 0 without any."""
    score: float
    """Largest difference of their scores."""
    decided_otherwise: int
    """Detections of either list that only rounding decided."""
    alone: tuple[str, ...]
    """Detections of either list that have no partner and no such excuse, in words."""

    def and_(self, other: Agreement) -> Agreement:
        """Of two pictures."""
        return Agreement(
            self.pairs + other.pairs,
            max(self.box, other.box),
            max(self.score, other.score),
            self.decided_otherwise + other.decided_otherwise,
            self.alone + other.alone,
        )


NOTHING = Agreement(0, 0.0, 0.0, 0, ())


def limits_of(detector: Detector) -> Limits:
    """The lines of a torchvision detector."""
    heads: Detector = getattr(detector, "roi_heads", detector)
    return Limits(heads.score_thresh, heads.nms_thresh, heads.detections_per_img)


def compare(first: Found, second: Found, limits: Limits, tolerance: Tolerance) -> Agreement:
    """Compare what two runs found on one picture.

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
            continue  # two boxes tied, and each run kept another: excused below
        rows.discard(row)
        columns.discard(column)
        result = result.and_(Agreement(1, box, score, 0, ()))
    for left, own, other in ((rows, first, second), (columns, second, first)):
        for index in sorted(left):
            result = result.and_(_excuse(own, index, other, limits, tolerance))
    return result


def _partners(first: Found, second: Found, tolerance: Tolerance) -> Iterator[tuple[int, int]]:
    """Pairs of one class, the likest first; each detection in one pair at most."""
    alike = _likeness(first, second, tolerance)
    rows, columns = (alike >= SAME_OBJECT).nonzero(as_tuple=True)
    order = alike[rows, columns].argsort(descending=True, stable=True)
    taken: set[int] = set()
    given: set[int] = set()
    for row, column in zip(rows[order].tolist(), columns[order].tolist(), strict=True):
        if row not in taken and column not in given:
            taken.add(row)
            given.add(column)
            yield row, column


def _likeness(first: Found, second: Found, tolerance: Tolerance) -> Tensor:
    """(N, M) their overlap; over 1 for boxes that are equal within the tolerance, which overlap in nothing if they are
    empty; the nearer box and score, the more."""
    box = (first["boxes"][:, None] - second["boxes"][None]).abs().amax(-1)
    score = (first["scores"][:, None] - second["scores"][None]).abs()
    equal = 3 - box / tolerance.box - score.clamp(max=1)
    near = (box <= tolerance.box) & (first["labels"][:, None] == second["labels"][None])
    return equal.where(near, _overlaps(first, second))


def _overlaps(first: Found, second: Found) -> Tensor:
    """(N, M) intersection over union, 0 for empty boxes; -1 between classes."""
    same = first["labels"][:, None] == second["labels"][None]
    return box_iou(first["boxes"], second["boxes"]).nan_to_num(0.0).where(same, -1.0)


def _rivals(own: Found, index: int, other: Found, limits: Limits, tolerance: Tolerance) -> Tensor:
    """(M,) which of the others could have suppressed a detection, or have been suppressed by it, by rounding alone."""
    one = {name: values[index : index + 1] for name, values in own.items()}
    close = (other["scores"] - one["scores"]).abs() <= tolerance.score
    return (_overlaps(one, other)[0] >= limits.overlap - OVERLAP_EDGE) & close


def _excuse(own: Found, index: int, other: Found, limits: Limits, tolerance: Tolerance) -> Agreement:
    """A detection without a partner: decided by rounding, or a difference."""
    score = float(own["scores"][index])
    full = len(own["scores"]) >= limits.most
    lines = [limits.score, *([float(own["scores"].min())] if full else [])]
    if (
        min(abs(score - line) for line in lines) <= tolerance.score
        or _rivals(own, index, other, limits, tolerance).any()
        or _just_kept(own, index, limits)
    ):
        return NOTHING._replace(decided_otherwise=1)
    box = ", ".join(f"{value:.1f}" for value in own["boxes"][index].tolist())
    return NOTHING._replace(alone=(f"label {int(own['labels'][index])} at {box} with score {score:.4f}",))


def _just_kept(own: Found, index: int, limits: Limits) -> bool:
    """Whether another box of its list overlaps it by nearly as much as is suppressed."""
    overlap = _overlaps(own, own)[index]
    overlap[index] = -1
    return bool((overlap >= limits.overlap - OVERLAP_EDGE).any())


def as_found(arrays: Mapping[str, object]) -> Found:
    """Tensors from numpy arrays."""
    return {name: torch.as_tensor(values) for name, values in arrays.items()}
