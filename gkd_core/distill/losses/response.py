"""Response loss: the student's class scores imitate the teacher's for the same proposals (RDM of the paper).

The default forms sum over classes, so that what a proposal weighs does not shrink as classes are added; the published
code takes the mean over classes (`*_reference`).

Shapes: N proposals, anchors or points.
"""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F

from gkd_core.compute.precision import full_precision


@full_precision
def response_softmax(student: Tensor, teacher: Tensor, weights: Tensor, temperature: float = 2.0) -> Tensor:
    """Return the KL divergence between softened softmax scores, mean over rows, times T^2: for two-stage heads.

    Args:
        student: (N, classes + 1) logits.
        teacher: (N, classes + 1) logits of the same proposals.
        weights: (N,) omega in [0, 1].
        temperature: T > 0.

    Returns:
        Scalar, at least 0; 0 when N is 0.
    """
    log_p = F.log_softmax(teacher.detach() / temperature, dim=1)
    log_q = F.log_softmax(student / temperature, dim=1)
    divergence = (log_p.exp() * (log_p - log_q)).sum(1)  # (N,)
    return _weighted(divergence, weights, temperature)


@full_precision
def response_sigmoid(student: Tensor, teacher: Tensor, weights: Tensor, temperature: float = 2.0) -> Tensor:
    """Return the KL divergence between softened binary scores, summed over classes, mean over rows, times T^2.

    For heads that judge each class by itself (sigmoid).

    Args:
        student: (N, classes) logits.
        teacher: (N, classes) logits of the same anchors or points.
        weights: (N,) omega in [0, 1].
        temperature: T > 0.

    Returns:
        Scalar, at least 0; 0 when N is 0.
    """
    soft_t, soft_s = teacher.detach() / temperature, student / temperature
    yes = soft_t.sigmoid() * (F.logsigmoid(soft_t) - F.logsigmoid(soft_s))
    no = (-soft_t).sigmoid() * (F.logsigmoid(-soft_t) - F.logsigmoid(-soft_s))
    return _weighted((yes + no).sum(1), weights, temperature)


def response_softmax_reference(
    student: Tensor, teacher: Tensor, weights: Tensor, temperature: float = 2.0
) -> Tensor:
    """Return `response_softmax` divided by the number of its columns: the published code."""
    return response_softmax(student, teacher, weights, temperature) / student.shape[1]


def response_sigmoid_reference(
    student: Tensor, teacher: Tensor, weights: Tensor, temperature: float = 2.0
) -> Tensor:
    """Return `response_sigmoid` divided by the number of classes, as the published code averages its softmax."""
    return response_sigmoid(student, teacher, weights, temperature) / student.shape[1]


def _weighted(divergence: Tensor, weights: Tensor, temperature: float) -> Tensor:
    """Return the mean over all rows, also those of weight 0, times T^2, which keeps the gradient's size at any T."""
    return temperature**2 * (weights.detach() * divergence).sum() / max(1, len(divergence))
