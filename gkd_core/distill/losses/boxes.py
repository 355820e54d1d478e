"""Distances between boxes of the same places, for losses that compare what two heads predict."""

from __future__ import annotations

import torch
from torch import Tensor

from gkd_core.compute.full_precision import full_precision

SMALLEST = 1e-7
"""Area in square pixels below which a box has none."""


def giou_distance(boxes: Tensor, others: Tensor) -> Tensor:
    """Return 1 - GIoU (Rezatofighi et al. 2019) of boxes in pairs, in [0, 2].

    torchvision's `generalized_box_iou_loss` selects by a mask, and so waits for the GPU.

    Args:
        boxes: (..., 4) x1, y1, x2, y2.
        others: (..., 4).

    Returns:
        (...), with gradient to both.
    """
    overlap, union = _overlap_and_union(boxes, others)
    hull = _area(
        torch.minimum(boxes[..., :2], others[..., :2]), torch.maximum(boxes[..., 2:], others[..., 2:])
    )
    return 1 - overlap / union.clamp_min(SMALLEST) + (hull - union) / hull.clamp_min(SMALLEST)


@full_precision
def paired_iou(boxes: Tensor, others: Tensor) -> Tensor:
    """Return (...) the intersection over union of boxes (..., 4) in pairs, in 0..1; 0 where both have no area."""
    overlap, union = _overlap_and_union(boxes, others)
    return overlap / union.clamp_min(SMALLEST)


def _overlap_and_union(boxes: Tensor, others: Tensor) -> tuple[Tensor, Tensor]:
    """Return (...) the areas that boxes (..., 4) have in common, and those that they cover together."""
    overlap = _area(
        torch.maximum(boxes[..., :2], others[..., :2]), torch.minimum(boxes[..., 2:], others[..., 2:])
    )
    return overlap, _area(boxes[..., :2], boxes[..., 2:]) + _area(others[..., :2], others[..., 2:]) - overlap


def _area(upper_left: Tensor, lower_right: Tensor) -> Tensor:
    return (lower_right - upper_left).clamp_min(0).prod(-1)
