"""Robustness weight: how alike both models see an instance relative to its class's prototypes (RDM of the paper)."""

from __future__ import annotations

import torch
from torch import Tensor

from gkd_core.precision import full_precision, unit
from gkd_core.prototypes import Prototypes


@full_precision
def robustness(student: Tensor, teacher: Tensor, labels: Tensor, prototypes: Prototypes) -> Tensor:
    """omega_i = 1 - | max_k cos(s_i, P_s^c[k]) - max_k cos(t_i, P_t^c[k]) | with c the class of i.

    A class without prototypes gets 1: nothing is known against its instances.

    Args:
        student: (N, C_s) pooled features.
        teacher: (N, C_t) pooled features of the same instances.
        labels: (N,) int64, from 0.
        prototypes: those of the level.

    Returns:
        (N,) in [0, 1], without gradient.
    """
    if len(prototypes.teacher) == 0:
        return torch.ones_like(labels, dtype=student.dtype)
    first, end = prototypes.class_start[labels], prototypes.class_start[labels + 1]  # (N,)
    row = torch.arange(len(prototypes.teacher), device=labels.device)
    own = (row >= first[:, None]) & (row < end[:, None])  # (N, P)
    nearest_s = _nearest_cosine(student.detach(), prototypes.student, own)
    nearest_t = _nearest_cosine(teacher.detach(), prototypes.teacher, own)
    return torch.where(first < end, 1 - (nearest_s - nearest_t).abs(), 1.0).clamp(0, 1)


def _nearest_cosine(features: Tensor, rows: Tensor, own: Tensor) -> Tensor:
    """(N,) largest cosine with a prototype of the own class; -2, less than any cosine, where there is none."""
    cosines = unit(features) @ unit(rows).T  # (N, P)
    return cosines.masked_fill(~own, -2.0).amax(1)
