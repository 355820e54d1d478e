"""AICSD (Mansourian et al., arXiv 2308.04243), for detectors: the relations between classes are those of the teacher.

The map of a class is where it is seen; the divergences between the maps of all pairs of classes are compared. Of the
paper this is the inter-class similarity alone, by the formula that it states (its code takes a softmax over the rows of
a picture only); its pixel-wise term and its schedule of weights are left out. For detectors the maps are the class
scores of a one-stage head, or, for any pair, cosines with the mean prototype of each class.

Shapes: B pictures, K classes, S cells of a level, C channels.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn import functional as F

from gkd_core.compute.full_precision import full_precision, unit
from gkd_core.config.losses import AicsdConfig
from gkd_core.distill.losses.context import LossContext
from gkd_core.distill.losses.method import MethodLoss
from gkd_core.distill.prototypes import Prototypes

HIDDEN = -1e9
"""Logit of cells in the padding; finite, since 0 times infinity is NaN."""
SHORTEST_ROW = 1e-3
"""Nats, added to the lengths of rows: shorter ones are rounding noise, whose gradient must not be amplified."""

Maps = tuple[Tensor, Tensor]
"""(B, K, S) each, student's and teacher's."""


class AicsdLoss(MethodLoss[AicsdConfig]):
    """`distill_aicsd`: the divergences between class maps are the teacher's."""

    config_class = AicsdConfig

    def __call__(self, context: LossContext) -> dict[str, Tensor]:
        """Compare the finest levels, which are added up.

        Raises:
            RuntimeError: prototypes are asked for and were not chosen yet.
        """
        of_levels = _score_maps(context) if self.config.maps == "scores" else _prototype_maps(context)
        seen = (visible.flatten(2) for visible in context.visible)
        found = [relation_distance(*maps, mask) for maps, mask in zip(of_levels, seen, strict=True)]
        return self.weighted(context, torch.stack(found[: self.config.levels]).sum(0))


# ---- maps of classes ---------------------------------------------------------------------------------------


def _score_maps(context: LossContext) -> Iterator[Maps]:
    """Yield of each level the best score of each cell's anchors, as logits."""
    heads = context.heads
    scores = heads.student_scores, heads.teacher_scores
    cells = context.grids.cells
    of_cells = (each.unflatten(1, (sum(cells), -1)).amax(2).mT for each in scores)
    return zip(*(each.split(cells, dim=2) for each in of_cells), strict=True)


def _prototype_maps(context: LossContext) -> Iterator[Maps]:
    """Yield of each level the cosines of each cell with the mean prototype of each class."""
    context.require_prototypes()
    for student, teacher, prototypes in zip(
        context.student_maps, context.teacher_maps, context.prototypes, strict=True
    ):
        yield (
            class_cosines(student, class_means(prototypes.student, prototypes)),
            class_cosines(teacher, class_means(prototypes.teacher, prototypes)),
        )


def class_means(features: Tensor, prototypes: Prototypes) -> Tensor:
    """Return (K, C) the mean of features (P, C) of the prototypes of each class; 0 for a class without any."""
    classes = torch.arange(len(prototypes.class_start) - 1, device=features.device)
    belongs = (prototypes.labels == classes[:, None]).to(features.dtype)  # (K, P)
    return belongs @ features / belongs.sum(1, keepdim=True).clamp_min(1)


@full_precision
def class_cosines(maps: Tensor, means: Tensor) -> Tensor:
    """Return (B, K, S) the cosines of the cells of maps (B, C, H, W) with the means (K, C) of classes."""
    return unit(means.detach()) @ unit(maps.flatten(2).mT).mT


# ---- formulas ----------------------------------------------------------------------------------------------


@full_precision
def relation_distance(student: Tensor, teacher: Tensor, visible: Tensor) -> Tensor:
    """Return (B,) the mean squared difference of the relations between classes; 0 with a single class.

    Args:
        student: (B, K, S) class maps, as logits.
        teacher: (B, K, S) likewise, without gradient.
        visible: (B, 1, S) 1.0 in cells of the picture, 0.0 in its padding.
    """
    return (class_relations(student, visible) - class_relations(teacher, visible)).square().mean((1, 2))


def class_relations(maps: Tensor, visible: Tensor) -> Tensor:
    """Return (B, K, K) the divergences KL(i || j) of class maps, distributions over the cells; rows of length 1.

    Args:
        maps: (B, K, S) logits.
        visible: (B, 1, S) 1.0 in cells of the picture, 0.0 in its padding.
    """
    log = F.log_softmax(maps.masked_fill(visible == 0, HIDDEN), dim=2) * visible
    crossed = (log.exp() * visible) @ log.mT  # (B, K, K): minus the cross entropies
    own = crossed.diagonal(dim1=1, dim2=2)[..., None]
    divergences = own - crossed
    return divergences * (divergences.square().sum(2, keepdim=True) + SHORTEST_ROW**2).rsqrt()
