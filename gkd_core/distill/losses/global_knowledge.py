"""Global loss: where an instance stands among the prototypes of all classes (RDM of the paper).

The formulas also take many levels at once, as a dimension in front of the others; losses then are (L,).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from gkd_core.config import GlobalConfig
from gkd_core.distill.bank import PooledPair
from gkd_core.distill.grids import Slots
from gkd_core.distill.losses.context import LossContext
from gkd_core.distill.losses.positions import Positions, positions
from gkd_core.distill.losses.robustness import robustness
from gkd_core.distill.positives import architecture_of
from gkd_core.errors import checked


@dataclass(frozen=True)
class GlobalLoss:
    """`distill_global`: the student's instances stand among the prototypes as the teacher's do."""

    weight: float = 0.5
    form: Literal["cosine", "projection"] = "cosine"
    """See `config.GlobalConfig`, as of the next two."""
    robust: bool = True
    levels: Literal["own", "neighbours", "all"] = "own"
    instances: Literal["truth", "positives"] = "truth"
    """What is pooled: the ground-truth boxes, or those of the student's positives."""

    def __post_init__(self) -> None:
        checked(
            GlobalConfig,
            "distill",
            "global",
            weight=self.weight,
            form=self.form,
            robust=self.robust,
            levels=self.levels,
        )

    @property
    def active(self) -> bool:
        """Whether it adds anything."""
        return self.weight > 0

    def __call__(self, context: LossContext) -> dict[str, Tensor]:
        """Compare cosines on every level; of a one-stage detector the levels are added up."""
        places, omega, level = self._compared(context)
        weights = omega if self.robust else torch.ones_like(omega)
        weights = weights * self._counts_on_level(context, level)
        losses = (global_loss if self.form == "cosine" else global_projection_loss)(places, weights)
        found = context.over_levels(losses) if self._on_all_levels(context) else losses.sum(0)
        return {
            "distill_global": context.attenuation * (self.weight * context.of_the_whole(found, weights[0]))
        }

    def _compared(self, context: LossContext) -> tuple[Positions, Tensor, Tensor]:
        """Positions, robustness (L, N) and own level (N,) of what is compared."""
        if self.instances == "truth":
            return context.positions, context.omega, context.level
        positives, prototypes = context.positives, context.require_prototypes()
        places = positions(*_pool_positives(context), prototypes)
        omega = robustness(places, context.instances.labels[positives.owner], context.prototypes[0])
        return places, omega, context.levels_of(positives.boxes)

    def _on_all_levels(self, context: LossContext) -> bool:
        """Whether an object counts on every level, as published."""
        return context.reference or self.levels == "all"

    def _counts_on_level(self, context: LossContext, own: Tensor) -> Tensor:
        """(L, N) bool: on which levels each box counts, by its own level (N,)."""
        level = torch.arange(len(context.strides), device=own.device)[:, None]
        if self._on_all_levels(context):
            return (level >= 0).expand(-1, len(own))
        reach = 1 if self.levels == "neighbours" else 0
        return (level - own).abs() <= reach


def _pool_positives(context: LossContext) -> PooledPair:
    """Features in the boxes of the positives; those of FCOS are the objects', which are pooled already."""
    positives = context.positives
    if architecture_of(context.student) == "fcos":
        return context.pooled[0][:, positives.owner], context.pooled[1][:, positives.owner]
    slots = Slots.of(positives.image_index, context.slots.images, max(1, positives.most))
    return context.pool(positives.boxes, slots)


# ---- formulas --------------------------------------------------------------------------------------------


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
