"""DIST (Huang et al., NeurIPS 2022): scores agree in their order of size, and not in their values.

The probabilities of a picture are a matrix. Its rows are places, with the classes side by side: proposals of Faster
R-CNN with their softmax, cells of RetinaNet or FCOS with the sigmoids of all their anchors. Rows are to correlate with
the teacher's (which class is likelier here), and so are columns (where a class is likelier).

The published code correlates columns over the cells of the batch; here each picture is by itself, over its visible
cells, all levels together. Rows and columns in which the teacher's scores are all equal say nothing and are left out;
where only the student's are, the correlation is 0.
"""

from __future__ import annotations

import torch
from torch import Tensor

from gkd_core.compute.full_precision import full_precision
from gkd_core.config.losses import DistConfig
from gkd_core.distill.losses.context import LossContext
from gkd_core.distill.losses.method import MethodLoss
from gkd_core.distill.positives import is_two_stage

LEAST_VARIANCE = 1e-12
"""Below it the numbers of a row or a column are equal."""


class DistLoss(MethodLoss[DistConfig]):
    """`distill_dist`: the rows and the columns of the student's probabilities correlate with the teacher's."""

    config_class = DistConfig

    def __call__(self, context: LossContext) -> dict[str, Tensor]:
        """Compare the matrices of each picture."""
        compare = self._of_proposals if is_two_stage(context.student) else self._of_cells
        return self.weighted(context, compare(context))

    def _of_cells(self, context: LossContext) -> Tensor:
        """Return (B,) of one-stage pairs."""
        heads = context.heads
        student, teacher = (
            scores.float().sigmoid() for scores in (heads.student_scores, heads.teacher_scores)
        )
        per_cell = heads.anchors_per_cell
        ours, theirs = (each.unflatten(1, (-1, per_cell)).flatten(2) for each in (student, teacher))
        return self._of_matrices(ours, theirs, heads.visible[:, ::per_cell])

    def _of_proposals(self, context: LossContext) -> Tensor:
        """Return (B,) of two-stage pairs."""
        rois = context.rois
        scores = rois.student_scores.float().softmax(1), rois.teacher_scores.float().softmax(1)
        pairs = zip(*map(rois.of_pictures, scores), strict=True)
        found = [self._of_matrices(s[None], t[None], torch.ones_like(t[None, :, 0])) for s, t in pairs]
        return torch.cat(found)

    def _of_matrices(self, student: Tensor, teacher: Tensor, visible: Tensor) -> Tensor:
        """Return (B,) of probabilities (B, cells, columns) where visible (B, cells) is 1."""
        shown = visible[..., None].expand_as(teacher)
        rows = uncorrelated(student, teacher, shown, 2)
        columns = uncorrelated(student, teacher, shown, 1)
        return self.config.rows * rows + self.config.columns * columns


@full_precision
def uncorrelated(student: Tensor, teacher: Tensor, shown: Tensor, along: int) -> Tensor:
    """Return (B,) one minus the mean Pearson correlation of the rows (along 2) or the columns (along 1), in [0, 2].

    Args:
        student: (B, rows, columns).
        teacher: (B, rows, columns).
        shown: (B, rows, columns) 1.0 where an entry counts, else 0.0.
        along: the dimension that a correlation runs over.

    Returns:
        0 with a gradient path where the teacher says nothing.
    """
    ours, _ = _standardised(student, shown, along)
    theirs, says = _standardised(teacher.detach(), shown, along)
    correlation = (ours * theirs).sum(along)  # of unit vectors
    return ((1 - correlation) * says).sum(1) / says.sum(1).clamp_min(1)


def _standardised(values: Tensor, shown: Tensor, along: int) -> tuple[Tensor, Tensor]:
    """Return the values with mean 0 and length 1 along a dimension, and where they are not all equal."""
    count = shown.sum(along, keepdim=True).clamp_min(1)
    centred = (values - (values * shown).sum(along, keepdim=True) / count) * shown
    squares = centred.square().sum(along, keepdim=True)
    varied = squares > LEAST_VARIANCE * count
    inverse = torch.where(varied, squares, 1.0).rsqrt() * varied
    return centred * inverse, varied.squeeze(along).to(values.dtype)
