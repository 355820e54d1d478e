"""Outliers: the objects with the lowest robustness (RDM of the paper).

Teacher and student differ most in their features.

Robustness is the weight of their losses, so these are the objects with the least weight in distillation. People look
at them to find wrong boxes, blurred and hidden objects.

Shapes: N instances, L levels.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from gkd_core.distill.features import assign_levels
from gkd_core.distill.instances import Pooled
from gkd_core.distill.losses import positions, robustness
from gkd_core.distill.prototypes import Prototypes

SHOWN = 24
"""Number of objects kept; as many as fit on one figure."""


class Outlier(NamedTuple):
    """An object whose features in teacher and student differ."""

    instance: int
    """Index of the pooled instance."""
    robustness: float
    """Robustness in 0..1 on the object's own level."""
    level: int


def least_alike(
    pooled: Pooled, prototypes: Sequence[Prototypes], levels: Tensor, count: int = SHOWN
) -> list[Outlier]:
    """Return the instances of lowest robustness, lowest first; of equal ones the first.

    Args:
        pooled: the instances, features on L levels.
        prototypes: L.
        levels: (N,) int64, the level whose robustness counts for each instance: its own.
        count: how many.
    """
    omega = torch.ones(len(pooled.labels))
    for level in range(len(prototypes)):
        members = (levels == level).nonzero().squeeze(1)
        omega[members] = _by_class(pooled, prototypes[level], level, members)
    lowest = omega.argsort(stable=True)[:count]
    return [Outlier(int(index), float(omega[index]), int(levels[index])) for index in lowest]


def _by_class(pooled: Pooled, prototypes: Prototypes, level: int, members: Tensor) -> Tensor:
    """Return the robustness of some instances, on the CPU.

    Class by class: all instances by all prototypes may not fit the memory.
    """
    omega = torch.ones(len(members))
    labels = pooled.labels[members.to(pooled.labels.device)]
    for label in labels.unique().tolist():
        own = (labels == label).nonzero().squeeze(1).cpu()
        start, end = prototypes.class_start[label : label + 2].tolist()
        rows = members[own].to(pooled.labels.device)
        alone = Prototypes(
            prototypes.teacher[start:end],
            prototypes.student[start:end],
            prototypes.class_start.new_tensor([0, end - start]),
        )
        zeros = torch.zeros_like(pooled.labels[rows])
        place = positions(pooled.student[level][rows], pooled.teacher[level][rows], alone)
        omega[own] = robustness(place, zeros, alone).cpu()
    return omega


def own_levels(
    boxes: Tensor, sizes: Tensor, image_size: int, strides: Sequence[float], cells: float
) -> Tensor:
    """Return (N,), the level that each box is assigned to.

    Args:
        boxes: (N, 4) pixels of the original pictures.
        sizes: (N,) the longer sides of these pictures, in pixels.
        image_size: what they are resized to.
        strides: pixels per cell of each level, ascending.
        cells: as in `assign_levels`.
    """
    return assign_levels(boxes * (image_size / sizes)[:, None], strides, cells)
