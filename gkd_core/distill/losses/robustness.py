"""Robustness weight: how alike both models see an instance relative to its class's prototypes (RDM of the paper)."""

from __future__ import annotations

import torch
from torch import Tensor

from gkd_core.distill.losses.positions import Positions
from gkd_core.distill.prototypes import Prototypes


def robustness(positions: Positions, labels: Tensor, prototypes: Prototypes) -> Tensor:
    """omega_i = 1 - | max_k cos(s_i, P_s^c[k]) - max_k cos(t_i, P_t^c[k]) | with c the class of i.

    A class without prototypes gets 1: nothing is known against its instances. Positions and prototypes of many levels
    at once have a dimension in front of the others, and so has the result.

    Args:
        positions: of N instances among P prototypes.
        labels: (N,) int64, from 0.
        prototypes: those of the level; only how many there are of each class counts.

    Returns:
        (N,) in [0, 1], without gradient.
    """
    if not prototypes.teacher.shape[-2]:
        return positions.student.new_ones(positions.student.shape[:-1])
    others = labels[:, None] != prototypes.labels  # (N, P)
    nearest_s, nearest_t = (_nearest(cosines.detach(), others) for cosines in positions)
    known = prototypes.class_start.diff()[labels] > 0
    return torch.where(known, 1 - (nearest_s - nearest_t).abs(), 1.0).clamp(0, 1)


def _nearest(cosines: Tensor, others: Tensor) -> Tensor:
    """(N,) largest cosine with a prototype of the own class; -2, less than any cosine, where there is none."""
    return cosines.masked_fill(others, -2.0).amax(-1)
