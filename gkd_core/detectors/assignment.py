"""Label assignment: which locations of a pyramid learn which object.

Task-aligned assignment (TOOD, Feng et al. 2021, section 3.2.1).

A location is assigned to an object because its score and its box are already the best for it, not because it lies in
the centre of the object or on a level made for its size. The better its box, the higher the target of its score, so
that the score ranks detections by the quality of their boxes too.

Shapes: A locations of an image, N ground-truth objects, C classes and background.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torchvision.ops import box_iou

SCORE_POWER, OVERLAP_POWER = 0.5, 6.0
"""alpha and beta of the paper's metric. alpha as in YOLOv6 and YOLOv8 (the paper has 1): scores of a network that
starts from scratch carry little information, overlaps more."""


class Assignment(NamedTuple):
    """The training targets of the locations of an image."""

    matched: Tensor
    """(A,) int64, the object of each location, -1 for none (background)."""
    quality: Tensor
    """(A,) in 0..1, target score of the location for the class of its object; 0 for none. The target of the best
    location of an object is the best overlap that any of its locations has, the others' are lower."""


@torch.no_grad()
def assign_aligned(
    scores: Tensor,
    boxes: Tensor,
    points: Tensor,
    objects: Tensor,
    labels: Tensor,
    *,
    reach: float | Tensor,
    count: int,
) -> Assignment:
    """Assign to each object the locations that predict it best.

    Args:
        scores: (A, C) in 0..1, current scores of each location.
        boxes: (A, 4) x1 y1 x2 y2 in pixels, current predicted box of each location.
        points: (A, 2) x y in pixels, the locations.
        objects: (N, 4) x1 y1 x2 y2 in pixels.
        labels: (N,) int64, columns of `scores`.
        reach: pixels around an object's centre that count as inside however small it is, so that at least one
            location is.
        count: locations per object at most.
    """
    if not len(objects):
        return Assignment(
            points.new_full((len(points),), -1, dtype=torch.int64), points.new_zeros(len(points))
        )
    inside = _is_inside(points, objects, reach)
    overlap = box_iou(objects, boxes) * inside  # (N, A)
    alignment = scores[:, labels].T ** SCORE_POWER * overlap**OVERLAP_POWER
    chosen = _best_aligned(alignment, inside, count)
    # a location that several objects would take goes to the one that its box overlaps most
    wanted, matched = torch.where(chosen, overlap, -1.0).max(0)
    own = chosen & (torch.arange(len(objects), device=matched.device)[:, None] == matched)
    alignment, overlap = alignment * own, overlap * own
    best = alignment.amax(1, keepdim=True)
    quality = alignment / best.clamp(min=torch.finfo(best.dtype).tiny) * overlap.amax(1, keepdim=True)
    return Assignment(torch.where(wanted >= 0, matched, -1), quality.amax(0))


def _is_inside(points: Tensor, objects: Tensor, reach: float | Tensor) -> Tensor:
    """Return (N, A) which locations lie within each object."""
    middles, sides = (objects[:, :2] + objects[:, 2:]) / 2, objects[:, 2:] - objects[:, :2]
    return ((points - middles[:, None]).abs() < (sides / 2).clamp(min=reach)[:, None]).all(-1)


def _best_aligned(alignment: Tensor, inside: Tensor, count: int) -> Tensor:
    """Return (N, A) the `count` best aligned locations of each object; those inside it come before any other."""
    ranked = torch.where(inside, alignment, -1.0)
    best = ranked.topk(min(count, ranked.shape[1]), dim=1).indices
    return torch.zeros_like(inside).scatter_(1, best, value=True) & inside
