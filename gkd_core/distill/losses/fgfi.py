"""FGFI (Wang et al., CVPR 2019): imitate where the student's anchors lie near objects.

A cell counts if one of its anchors overlaps an object by more than half of what the best anchor of the object's level
does. FCOS has no anchors; the cells inside of the boxes count. Published for one map; every object here counts on the
level that it belongs to, as in ports to pyramids. The published adapter ends in a ReLU, which cannot give the negative
values of a pyramid: left out.

Shapes: B pictures, C channels, H x W cells of a level, M boxes, A anchors of a cell, L levels.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from gkd_core.compute.full_precision import full_precision
from gkd_core.config.losses import FgfiConfig
from gkd_core.detectors.detector import Detector
from gkd_core.distill.losses.context import LossContext
from gkd_core.distill.losses.local import FAINTEST, foreground_masks
from gkd_core.distill.losses.method import MethodLoss, Pair
from gkd_core.distill.positives import architecture_of, is_two_stage


class FgfiLoss(MethodLoss[FgfiConfig]):
    """`distill_fgfi`: the adapted maps are the teacher's near objects."""

    config_class = FgfiConfig

    def modules(self, pair: Pair) -> nn.Module:
        """Return 3x3 convolutions, one a level, also between equal channels, as published."""
        return nn.ModuleList(
            nn.Conv2d(pair.student_channels, pair.teacher_channels, 3, padding=1) for _ in range(pair.levels)
        )

    def __call__(self, context: LossContext) -> dict[str, Tensor]:
        """Compare the cells of all levels together, of each picture by itself."""
        maps = zip(context.student_maps, context.visible, context.modules[self.name], strict=True)
        adapted = [adapt(student * visible) for student, visible, adapt in maps]
        masks = self._masks(context)
        parts = [
            imitation(*each)
            for each in zip(adapted, context.teacher_maps, masks, context.visible, strict=True)
        ]
        errors, cells = torch.stack(parts).sum(0)
        return self.weighted(context, errors / (2 * cells.clamp_min(1)))

    def _masks(self, context: LossContext) -> list[Tensor]:
        """Return L of (B, 1, H, W): 1.0, or the robustness of the object, near objects; else 0.0."""
        boxes, omega = context.instances.boxes, context.omega if self.config.robust else None
        weights = boxes.new_ones(len(context.strides), len(boxes)) if omega is None else omega
        anchors = anchors_of_cells(context)
        if anchors is None:
            painted = foreground_masks(boxes, weights, context.level, context.grids, context.slots)
            of_levels = painted.split(context.grids.cells, dim=1)
            return [mask.view_as(seen) for mask, seen in zip(of_levels, context.visible, strict=True)]
        return [
            _near_objects(context, level, cell, weights[level], self.config.overlap)
            for level, cell in enumerate(anchors)
        ]


def anchors_of_cells(context: LossContext) -> list[Tensor] | None:
    """Return for each common level the student's anchors (A, 4) of its first cell; None where it has no anchors."""
    generator = anchor_generator_of(context.student)
    if generator is None:
        return None
    levels = [context.student.strides.index(stride) for stride in context.strides]
    return [generator.cell_anchors[level].to(context.student_maps[0].device) for level in levels]


def anchor_generator_of(student: Detector) -> Any | None:
    """Return what makes the anchors of RetinaNet, or those of the proposals of Faster R-CNN; FCOS has none."""
    if is_two_stage(student):
        return student.rpn.anchor_generator
    return None if architecture_of(student) == "fcos" else student.anchor_generator


def _near_objects(
    context: LossContext, level: int, anchors: Tensor, weights: Tensor, overlap: float
) -> Tensor:
    """Return (B, 1, H, W) the largest weight (M,) of the objects of a level to which a cell is near."""
    visible, slots = context.visible[level], context.slots
    best = best_overlaps(context.instances.boxes, anchors, context.strides[level], visible.shape[2:])
    near = near_cells(best * visible[slots.image, 0], overlap)
    own = (context.level == level) * weights.clamp_min(FAINTEST)
    padded = visible.new_zeros(slots.images, slots.places, *near.shape[1:])
    padded = padded.index_put_((slots.image, slots.place), near * own[:, None, None])
    return padded.amax(1, keepdim=True)


# ---- formulas --------------------------------------------------------------------------------------------


@full_precision
def best_overlaps(boxes: Tensor, anchors: Tensor, stride: int, shape: tuple[int, ...]) -> Tensor:
    """Return (M, H, W) the largest IoU of each box with an anchor of each cell.

    Args:
        boxes: (M, 4) pixels.
        anchors: (A, 4) pixels, of the first cell.
        stride: pixels by which the anchors of the next cell are shifted.
        shape: H and W.
    """
    down, along = (torch.arange(side, device=boxes.device)[:, None] * stride for side in shape)
    common = _common(boxes[:, 1::2], anchors[:, 1::2], down)[:, :, None] * _common(
        boxes[:, ::2], anchors[:, ::2], along
    ).unsqueeze(1)
    area = (boxes[:, 2:] - boxes[:, :2]).prod(1)[:, None, None, None] + (
        anchors[:, 2:] - anchors[:, :2]
    ).prod(1)
    return (common / (area - common).clamp_min(1e-6)).amax(-1)


def _common(boxes: Tensor, anchors: Tensor, shifts: Tensor) -> Tensor:
    """Return (M, cells, A): how many pixels of an axis boxes (M, 2) and shifted anchors (A, 2) have in common."""
    low = torch.maximum(boxes[:, None, None, 0], anchors[:, 0] + shifts)
    high = torch.minimum(boxes[:, None, None, 1], anchors[:, 1] + shifts)
    return (high - low).clamp_min(0)


def near_cells(best: Tensor, overlap: float) -> Tensor:
    """Return (M, H, W) bool: which cells reach `overlap` times the largest value of a box."""
    return best > overlap * best.amax((1, 2), keepdim=True)


@full_precision
def imitation(student: Tensor, teacher: Tensor, mask: Tensor, visible: Tensor) -> Tensor:
    """Return (2, B): squared differences weighted by the mask, mean over channels, sum over cells; and cells in it."""
    mask = mask * visible
    squared = (student - teacher).square().mean(1, keepdim=True)
    return torch.stack([(squared * mask).sum((1, 2, 3)), (mask > 0).sum((1, 2, 3))])
