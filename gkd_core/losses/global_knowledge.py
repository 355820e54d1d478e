"""Global loss: where an instance stands among the prototypes of all classes (RDM of the paper)."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F

from gkd_core.precision import full_precision, unit
from gkd_core.prototypes import Prototypes


@full_precision
def global_loss(student: Tensor, teacher: Tensor, weights: Tensor, prototypes: Prototypes) -> Tensor:
    """Smooth-L1 between omega_i G_s,i and omega_i G_t,i, mean over all N x P cosines: the published code.

    Args:
        student: (N, C_s) pooled features.
        teacher: (N, C_t) pooled features of the same instances.
        weights: (N,) omega in [0, 1].
        prototypes: those of the level, P rows.

    Returns:
        Scalar, at least 0; 0 when N or P is 0.
    """
    global_s, global_t = _positions(student, teacher, prototypes)
    omega = weights.detach()[:, None]  # (N, 1)
    total = F.smooth_l1_loss(omega * global_s, omega * global_t, reduction="sum")
    return total / max(1, global_s.numel())


@full_precision
def global_projection_loss(
    student: Tensor, teacher: Tensor, weights: Tensor, prototypes: Prototypes
) -> Tensor:
    """(1 / 2N) sum_i omega_i sum_j (G_t,ij - G_s,ij)^2: the paper's own form; grows with the prototypes.

    Args:
        student: (N, C_s) pooled features.
        teacher: (N, C_t) pooled features of the same instances.
        weights: (N,) omega in [0, 1].
        prototypes: those of the level, P rows.

    Returns:
        Scalar, at least 0; 0 when N or P is 0.
    """
    global_s, global_t = _positions(student, teacher, prototypes)
    squared = (global_t - global_s).square().sum(1)  # (N,)
    return (weights.detach() * squared).sum() / (2 * max(1, len(squared)))


def _positions(student: Tensor, teacher: Tensor, prototypes: Prototypes) -> tuple[Tensor, Tensor]:
    """(N, P) cosines of each instance with every prototype, in both spaces."""
    global_s = unit(student) @ unit(prototypes.student.detach()).T
    global_t = unit(teacher.detach()) @ unit(prototypes.teacher.detach()).T
    return global_s, global_t
