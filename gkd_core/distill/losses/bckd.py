"""BCKD (Yang et al., ICCV 2023): a sigmoid head answers a yes-or-no question for each class, and is taught as one.

Each place and class is a binary cross entropy with the teacher's probability, times the difference of the two: places
where both agree, most of the background, weigh nothing. Boxes are compared by GIoU, weighted by the same difference.

The published code divides by the positives of the batch and leaves out levels without positives; here each picture is
divided by its own (at least `heads.LEAST_POSITIVES`), and all levels count. It was published for GFL alone.
"""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F

from gkd_core.compute.full_precision import full_precision
from gkd_core.config.losses import BckdConfig
from gkd_core.distill.losses.boxes import giou_distance
from gkd_core.distill.losses.context import LossContext
from gkd_core.distill.losses.method import MethodLoss


class BckdLoss(MethodLoss[BckdConfig]):
    """`distill_bckd`: class scores and boxes of all anchors or locations are the teacher's."""

    config_class = BckdConfig

    def __call__(self, context: LossContext) -> dict[str, Tensor]:
        """Compare the heads at all visible places."""
        heads = context.heads
        values = binary_difference(heads.student_scores, heads.teacher_scores)
        if self.config.boxes:
            weights = disagreement(heads.student_scores, heads.teacher_scores).detach()
            values = values + self.config.boxes * weights * box_difference(
                heads.student_boxes, heads.teacher_boxes
            )
        return self.weighted(context, heads.per_positive(values))


@full_precision
def binary_difference(student: Tensor, teacher: Tensor) -> Tensor:
    """Return (..., ) binary cross entropy with the teacher's probability times the difference, summed over classes.

    The factor has a gradient too, as published.

    Args:
        student: (..., C) logits.
        teacher: (..., C) logits.
    """
    wanted = teacher.detach().sigmoid()
    entropy = F.binary_cross_entropy_with_logits(student, wanted, reduction="none")
    return (entropy * (student.sigmoid() - wanted).abs()).sum(-1)


@full_precision
def disagreement(student: Tensor, teacher: Tensor) -> Tensor:
    """Return (...) the largest difference of the two probabilities of a class, of logits (..., C); in 0..1."""
    return (student.sigmoid() - teacher.detach().sigmoid()).abs().amax(-1)


@full_precision
def box_difference(student: Tensor, teacher: Tensor) -> Tensor:
    """Return (...) 1 - GIoU of boxes (..., 4)."""
    return giou_distance(student, teacher.detach())
