"""Relation between class and box, after relation knowledge distillation by auxiliary learning (Wang et al., TIP 2024).

A stand-in: of the paper we read the abstract alone. It says that the relation between class and box predictions is what
is handed over; the formula is ours: the product of best score and overlap, which detectors that rank well have high
together or low together. The paper's other half, that distillation is an auxiliary task to detection, is no part of
this loss.

Shapes: B pictures, M positives of the student.
"""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F

from gkd_core.compute.full_precision import full_precision
from gkd_core.config.losses import RelationConfig
from gkd_core.distill.losses.boxes import paired_iou
from gkd_core.distill.losses.context import LossContext
from gkd_core.distill.losses.method import MethodLoss
from gkd_core.distill.losses.predictions import (
    Predictions,
    mean_by,
    of_student,
    of_teacher,
)


class RelationLoss(MethodLoss[RelationConfig]):
    """`distill_relation`: where the student found objects, its score times its overlap is the teacher's."""

    config_class = RelationConfig

    def __call__(self, context: LossContext) -> dict[str, Tensor]:
        """Compare at the student's positives, mean over those of each picture."""
        positives = context.positives
        objects = context.instances.boxes[positives.owner]
        found = relation_distance(
            class_box_relation(of_student(context), objects), class_box_relation(of_teacher(context), objects)
        )
        return self.weighted(context, mean_by(positives.image_index, found, len(context.sizes)))


# ---- formulas ----------------------------------------------------------------------------------------------


def class_box_relation(predictions: Predictions, objects: Tensor) -> Tensor:
    """Return (M,) the score of the best class times the IoU of the box with its object, in 0..1.

    Args:
        predictions: of M positives.
        objects: (M, 4) boxes of their objects, in pixels.
    """
    return predictions.scores.amax(1) * paired_iou(predictions.boxes, objects)


@full_precision
def relation_distance(student: Tensor, teacher: Tensor) -> Tensor:
    """Return (M,) smooth L1 of relations (M,) in 0..1; the teacher's without gradient."""
    return F.smooth_l1_loss(student, teacher, reduction="none")
