"""GID (Dai et al., CVPR 2021), its relation term: how far the objects of a batch lie from each other.

The instances are the ground-truth boxes. The published ones are boxes on whose score the models disagree, found by NMS,
for which a step would wait for the GPU. The feature and the response term of those instances are not part of it: the
local and the response loss compare the same at the places of the ground truth.

Shapes: N objects of the batch, C_s and C_t channels.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from gkd_core.compute.full_precision import full_precision
from gkd_core.config.losses import GidConfig
from gkd_core.distill.losses.context import LossContext
from gkd_core.distill.losses.method import MethodLoss

FEWEST = 3
"""Objects; two have one distance, which is 1 after the division by the mean."""


class GidLoss(MethodLoss[GidConfig]):
    """`distill_gid`: distances between objects are in the proportions of the teacher's."""

    config_class = GidConfig

    def __call__(self, context: LossContext) -> dict[str, Tensor]:
        """Compare the distances of all pairs of objects of this process."""
        student, teacher = context.pooled_on_own_level
        weights = context.own_omega if self.config.robust else torch.ones_like(student[:, 0])
        found = relation(student, teacher, weights)
        return {f"distill_{self.name}": self.factor(context) * context.of_the_whole(found, weights)}


@full_precision
def relation(student: Tensor, teacher: Tensor, weights: Tensor) -> Tensor:
    """Return the smooth-L1 of relative distances, mean over pairs.

    Args:
        student: (N, C_s) features of objects.
        teacher: (N, C_t) of the same.
        weights: (N,) in [0, 1]; a pair has the product of both.

    Returns:
        Scalar, at least 0; 0 for fewer than three objects.
    """
    count = len(student)
    if count < FEWEST:
        return (student * 0).sum()
    each = F.smooth_l1_loss(
        relative_distances(student), relative_distances(teacher.detach()), reduction="none"
    )
    return (each * weights.detach() * weights.detach()[:, None]).sum() / (count * count - count)


def relative_distances(features: Tensor) -> Tensor:
    """Return (N, N) Euclidean distances of features (N, C), divided by the mean of those that are not 0."""
    found = torch.cdist(features, features, compute_mode="donot_use_mm_for_euclid_dist")
    return found / (found.sum() / (found > 0).sum().clamp_min(1)).clamp_min(1e-12)
