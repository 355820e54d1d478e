"""Positions: where an instance stands among the prototypes of all classes, in both feature spaces (RDM of the paper).

Computed once for all who need it: both forms of the global loss, and `robustness`. Also takes many levels at once, as a
dimension in front of the others.
"""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

from gkd_core.compute.full_precision import full_precision, unit
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
