"""DKD (Zhao et al., CVPR 2022) for the proposals of Faster R-CNN: the softmax score comes apart in two questions.

How sure is the teacher of the class that the proposal was to learn, against all others together; and how does it
divide the rest among the others. A plain divergence weighs the second by what the teacher leaves over, which is little
where it is sure; here each has a weight of its own. The class may be background. The published code averages over the
proposals of the batch, we over those of each picture.

It stands in for DrkD (Lv et al., Pattern Recognition 2025), which cites the paper of global knowledge and could not be
read: its title promises that the response is split.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from gkd_core.compute.full_precision import full_precision
from gkd_core.config.losses import DkdConfig
from gkd_core.distill.losses.context import LossContext
from gkd_core.distill.losses.method import MethodLoss


class DkdLoss(MethodLoss[DkdConfig]):
    """`distill_dkd`: the student's proposals are scored as the teacher scores them."""

    config_class = DkdConfig

    def __call__(self, context: LossContext) -> dict[str, Tensor]:
        """Compare the scores of all proposals that the student sampled."""
        rois, temperature = context.rois, self.config.temperature
        scores = rois.student_scores / temperature, rois.teacher_scores / temperature
        values = self.config.target * target_divergence(*scores, rois.labels)
        values = values + self.config.others * others_divergence(*scores, rois.labels)
        return self.weighted(context, temperature**2 * rois.mean_of_pictures(values))


@full_precision
def target_divergence(student: Tensor, teacher: Tensor, labels: Tensor) -> Tensor:
    """Return (R,) TCKD, the KL divergence from teacher to student of (target, all others).

    Args:
        student: (R, C + 1) logits.
        teacher: (R, C + 1) logits.
        labels: (R,) the target's column.
    """
    log_p, log_q = (_target_or_not(logits, labels) for logits in (teacher.detach(), student))
    return (log_p.exp() * (log_p - log_q)).sum(1)


@full_precision
def others_divergence(student: Tensor, teacher: Tensor, labels: Tensor) -> Tensor:
    """Return (R,) NCKD, the same of the distribution over the other columns; see `target_divergence`."""
    log_p, log_q = (F.log_softmax(_others(logits, labels), 1) for logits in (teacher.detach(), student))
    return (log_p.exp() * (log_p - log_q)).sum(1)


def _target_or_not(logits: Tensor, labels: Tensor) -> Tensor:
    """Return (R, 2) the logarithms of the target's share and of that of all others."""
    target = logits.gather(1, labels[:, None])
    return F.log_softmax(torch.cat([target, _others(logits, labels).logsumexp(1, keepdim=True)], 1), 1)


def _others(logits: Tensor, labels: Tensor) -> Tensor:
    """Return logits with a very low, finite one for the target: its share is 0, and 0 times it is no NaN."""
    columns = torch.arange(logits.shape[1], device=logits.device)
    return torch.where(columns == labels[:, None], torch.finfo(logits.dtype).min / 2, logits)
