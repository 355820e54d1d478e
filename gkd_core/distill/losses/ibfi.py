"""Inconsistency-based feature imitation and global relation imitation, after Ju et al. (2024).

A stand-in: of the paper we read the abstract alone. It says that the inconsistency of class and box outputs weighs the
imitation of features, and that the relations of the whole are imitated; both formulas are ours. The imitation is that
of DeFeat, objects and background apart, in which an object weighs more the less the teacher's score for it fits the
overlap of the teacher's box. The relations of a picture are the cosines between its pyramid levels.

Shapes: B pictures, N objects, M positives of the student, L levels, C channels, H x W cells of a level.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from gkd_core.compute.full_precision import full_precision, unit
from gkd_core.config.losses import IbfiConfig
from gkd_core.distill.losses.boxes import paired_iou
from gkd_core.distill.losses.context import LossContext
from gkd_core.distill.losses.local import foreground_masks
from gkd_core.distill.losses.method import (
    MethodLoss,
    Pair,
    adapted,
    cell_mean,
    one_by_one,
    relative_squares,
)
from gkd_core.distill.losses.predictions import Predictions, mean_by, of_teacher


class IbfiLoss(MethodLoss[IbfiConfig]):
    """`distill_ibfi`: maps, where scores and boxes disagree most, and the relations between levels."""

    config_class = IbfiConfig

    def modules(self, pair: Pair) -> nn.Module:
        """Return the convolutions, also between equal channels: a channel means nothing of itself."""
        return one_by_one(pair)

    def __call__(self, context: LossContext) -> dict[str, Tensor]:
        """Compare the maps, mean over levels, and add the relations."""
        maps = adapted(self.name, context)
        each = [
            imitation(*level, self.config.foreground, self.config.background)
            for level in zip(maps, context.teacher_maps, self._masks(context), context.visible, strict=True)
        ]
        found = torch.stack(each).mean(0)
        if self.config.relation:
            relations = [level_relations(maps, context.visible) for maps in _pyramids(context)]
            found = found + self.config.relation * (relations[0] - relations[1]).square().mean((1, 2))
        return self.weighted(context, found)

    def _masks(self, context: LossContext) -> list[Tensor]:
        """Return L of (B, 1, H, W): 1 plus the inconsistency of the object on the cells of objects, else 0."""
        instances, positives = context.instances, context.positives
        labels, objects = instances.labels[positives.owner], instances.boxes[positives.owner]
        found = inconsistency(of_teacher(context), labels, objects)
        weights = 1 + mean_by(positives.owner, found, len(instances.boxes))
        weights = weights.expand(len(context.strides), -1)
        painted = foreground_masks(instances.boxes, weights, context.level, context.grids, context.slots)
        levels = painted.split(context.grids.cells, dim=1)
        return [level.view(-1, 1, *shape) for level, shape in zip(levels, context.grids.shapes, strict=True)]


def _pyramids(context: LossContext) -> tuple[Sequence[Tensor], Sequence[Tensor]]:
    return context.student_maps, context.teacher_maps


# ---- formulas ----------------------------------------------------------------------------------------------


def inconsistency(predictions: Predictions, labels: Tensor, objects: Tensor) -> Tensor:
    """Return (M,) how far the score of the object's class is from the IoU of box and object, in 0..1.

    Args:
        predictions: of M positives.
        labels: (M,) int64, classes of their objects, from 0.
        objects: (M, 4) boxes of their objects, in pixels.
    """
    scores = predictions.scores.gather(1, labels[:, None]).squeeze(1)
    return (scores - paired_iou(predictions.boxes, objects)).abs()


@full_precision
def imitation(
    student: Tensor, teacher: Tensor, mask: Tensor, visible: Tensor, foreground: float, background: float
) -> Tensor:
    """Return (B,) half the squared difference relative to the teacher's power, of objects and of background.

    Each is a mean over the channels and its cells; those of objects are weighted by the mask, which does not count in
    the divisor.

    Args:
        student: (B, C, H, W), with the teacher's channels.
        teacher: (B, C, H, W), without gradient.
        mask: (B, 1, H, W) weights on the cells of objects, 0 on others.
        visible: (B, 1, H, W) 1.0 in cells of the picture, 0.0 in its padding.
        foreground: weight of objects.
        background: weight of the rest.
    """
    squares = relative_squares(student, teacher, visible).mean(1, keepdim=True) / 2
    inside = (mask > 0) * visible
    outside = visible - inside
    of_objects = (squares * mask * visible).sum((1, 2, 3)) / inside.sum((1, 2, 3)).clamp_min(1)
    of_rest = (squares * outside).sum((1, 2, 3)) / outside.sum((1, 2, 3)).clamp_min(1)
    return foreground * of_objects + background * of_rest


def level_relations(maps: Sequence[Tensor], visible: Sequence[Tensor]) -> Tensor:
    """Return (B, L, L) the cosines between the means of L maps (B, C, H, W) over visible cells (B, 1, H, W)."""
    pooled = full_precision(cell_mean)
    vectors = unit(torch.stack([pooled(*level) for level in zip(maps, visible, strict=True)], dim=1))
    return full_precision(torch.matmul)(vectors, vectors.mT)
