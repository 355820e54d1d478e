"""Global loss: where an instance stands among the prototypes of all classes (RDM of the paper).

`positions` computes it, once for all who need it: both forms of the loss, and `robustness`.

All functions also take many levels at once, as a dimension in front of the others; losses then are (L,).
"""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor
from torch.nn import functional as F

from gkd_core.compute.precision import full_precision, unit
from gkd_core.distill.prototypes import Prototypes


class Positions(NamedTuple):
    """(N, P) cosines of each instance with every prototype of a level, G_s and G_t of the paper."""

    student: Tensor
    """With gradient to the features."""
    teacher: Tensor
    """Without."""


@full_precision
def positions(student: Tensor, teacher: Tensor, prototypes: Prototypes) -> Positions:
    """Where instances stand in both spaces.

    Args:
        student: (N, C_s) pooled features.
        teacher: (N, C_t) pooled features of the same instances.
        prototypes: those of the level, P rows.
    """
    return Positions(
        unit(student) @ unit(prototypes.student.detach()).mT,
        unit(teacher.detach()) @ unit(prototypes.teacher.detach()).mT,
    )


def global_loss(positions: Positions, weights: Tensor) -> Tensor:
    """Smooth-L1 between omega_i G_s,i and omega_i G_t,i, mean over all N x P cosines: the published code.

    Args:
        positions: of N instances among P prototypes.
        weights: (N,) omega in [0, 1].

    Returns:
        Scalar, at least 0; 0 when N or P is 0.
    """
    omega = weights.detach()[..., None]  # (N, 1)
    each = F.smooth_l1_loss(omega * positions.student, omega * positions.teacher, reduction="none")
    return each.sum((-2, -1)) / max(1, positions.student.shape[-2:].numel())


def global_projection_loss(positions: Positions, weights: Tensor) -> Tensor:
    """(1 / 2N) sum_i omega_i sum_j (G_t,ij - G_s,ij)^2: the paper's own form; grows with the prototypes.

    Args:
        positions: of N instances among P prototypes.
        weights: (N,) omega in [0, 1].

    Returns:
        Scalar, at least 0; 0 when N or P is 0.
    """
    squared = (positions.teacher - positions.student).square().sum(-1)  # (N,)
    return (weights.detach() * squared).sum(-1) / (2 * max(1, squared.shape[-1]))
