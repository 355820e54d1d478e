"""Which place of a pyramid learns which object: task-aligned assignment (TOOD, Feng et al. 2021, section 3.2.1).

A place is given to an object because its score and its box are already the best for it, not because it lies in the
middle of it or on a level made for its size. The better its box, the higher the score that it is asked for, so
that the score ranks detections by the quality of their boxes too.

Shapes: A places of a picture, N objects, C classes and background.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torchvision.ops import box_iou

SCORE_POWER, OVERLAP_POWER = 0.5, 6.0
"""alpha and beta of the paper's metric. alpha as in YOLOv6 and YOLOv8 (the paper has 1): scores of a network that
starts from scratch say little, overlaps more."""


class Assignment(NamedTuple):
    """What the places of a picture learn."""

    matched: Tensor
    """(A,) int64, the object of each place, -1 for none."""
    quality: Tensor
    """(A,) in 0..1, the score that the place should give to the class of its object; 0 for none. The best place of
    an object is asked for the best overlap that any of its places has, the others for less."""


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
    """Give every object the places that find it best.

    Args:
        scores: (A, C) in 0..1, what each place says at present.
        boxes: (A, 4) x1 y1 x2 y2 in pixels, what each place finds at present.
        points: (A, 2) x y in pixels, where the places are.
        objects: (N, 4) x1 y1 x2 y2 in pixels.
        labels: (N,) int64, columns of `scores`.
        reach: pixels around an object's middle that count as inside however small it is, so that some place is.
        count: places per object at most.
    """
    if not len(objects):
        return Assignment(
            points.new_full((len(points),), -1, dtype=torch.int64), points.new_zeros(len(points))
        )
    inside = _inside(points, objects, reach)
    overlap = box_iou(objects, boxes) * inside  # (N, A)
    alignment = scores[:, labels].T ** SCORE_POWER * overlap**OVERLAP_POWER
    chosen = _best(alignment, inside, count)
    # a place that several objects want goes to the one that its box overlaps most
    wanted, matched = torch.where(chosen, overlap, -1.0).max(0)
    own = chosen & (torch.arange(len(objects), device=matched.device)[:, None] == matched)
    alignment, overlap = alignment * own, overlap * own
    best = alignment.amax(1, keepdim=True)
    quality = alignment / best.clamp(min=torch.finfo(best.dtype).tiny) * overlap.amax(1, keepdim=True)
    return Assignment(torch.where(wanted >= 0, matched, -1), quality.amax(0))


def _inside(points: Tensor, objects: Tensor, reach: float | Tensor) -> Tensor:
    """(N, A) which places lie within each object."""
    middles, sides = (objects[:, :2] + objects[:, 2:]) / 2, objects[:, 2:] - objects[:, :2]
    return ((points - middles[:, None]).abs() < (sides / 2).clamp(min=reach)[:, None]).all(-1)


def _best(alignment: Tensor, inside: Tensor, count: int) -> Tensor:
    """(N, A) the `count` places of each object that are aligned best; those inside it come before any other."""
    ranked = torch.where(inside, alignment, -1.0)
    best = ranked.topk(min(count, ranked.shape[1]), dim=1).indices
    return torch.zeros_like(inside).scatter_(1, best, value=True) & inside
