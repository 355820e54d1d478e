"""Response loss: the student's class scores imitate the teacher's for the same proposals (RDM of the paper)."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F

from gkd_core.precision import full_precision


@full_precision
def response_softmax(student: Tensor, teacher: Tensor, weights: Tensor, temperature: float = 2.0) -> Tensor:
    """KL divergence between softened softmax scores, mean over classes and rows, times T^2: for two-stage heads.

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
    divergence = (log_p.exp() * (log_p - log_q)).mean(1)  # (N,)
    return _weighted(divergence, weights, temperature)


@full_precision
def response_sigmoid(student: Tensor, teacher: Tensor, weights: Tensor, temperature: float = 2.0) -> Tensor:
    """KL divergence between softened binary scores of each class, same means, times T^2: for sigmoid heads.

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
    return _weighted((yes + no).mean(1), weights, temperature)


def _weighted(divergence: Tensor, weights: Tensor, temperature: float) -> Tensor:
    """Mean over all rows, also those of weight 0, times T^2, which keeps the gradient's size at any T."""
    return temperature**2 * (weights.detach() * divergence).sum() / max(1, len(divergence))
