"""DRKD (Ni et al., IJCAI 2023), its instance relations: to which objects of its picture each object is akin.

A stand-in: the paper was read in its abstract and in second-hand notes, and no code was found. It compares products of
learnt projections, of which those of the teacher can collapse while they train; here they are cosines of the pooled
features, and nothing trains. Its relations of pixels and its comparison of features are left out.

The nearest relative of our global loss, which compares cosines with fixed prototypes instead of with whatever else is
in the picture: the natural ablation.

Shapes: B pictures, N objects of the batch, K objects of the picture that has the most, C_s and C_t channels.
"""

from __future__ import annotations

import torch
from torch import Tensor

from gkd_core.compute.full_precision import full_precision, unit
from gkd_core.config.losses import DrkdConfig
from gkd_core.distill.grids import Slots
from gkd_core.distill.losses.context import LossContext
from gkd_core.distill.losses.method import MethodLoss


class DrkdLoss(MethodLoss[DrkdConfig]):
    """`distill_drkd`: each object is akin to the others of its picture as for the teacher."""

    config_class = DrkdConfig

    def __call__(self, context: LossContext) -> dict[str, Tensor]:
        """Compare the relations within each picture; a picture with one object has none."""
        student, teacher = context.pooled_on_own_level
        weights = context.own_omega if self.config.robust else torch.ones_like(student[:, 0])
        return self.weighted(
            context, relations(student, teacher, weights, context.slots, self.config.temperature)
        )


@full_precision
def relations(student: Tensor, teacher: Tensor, weights: Tensor, slots: Slots, temperature: float) -> Tensor:
    """Return (B,) squared differences of both models' relations, sum over the pairs of a picture.

    Args:
        student: (N, C_s) features of objects.
        teacher: (N, C_t) of the same.
        weights: (N,) of each object.
        slots: of the objects.
        temperature: divides the cosines.
    """
    present = in_slots(torch.ones_like(weights)[:, None], slots)
    mine, theirs = (
        akin(in_slots(unit(each), slots), present, temperature) for each in (student, teacher.detach())
    )
    return ((mine - theirs).square() * in_slots(weights.detach()[:, None], slots)).sum((1, 2))


def akin(directions: Tensor, present: Tensor, temperature: float) -> Tensor:
    """Return (B, K, K), each row a softmax over the objects of a picture: how akin each is to each.

    Args:
        directions: (B, K, C) of length 1 or 0.
        present: (B, K, 1) 1.0 where there is an object.
        temperature: divides the cosines.
    """
    logits = directions @ directions.mT / temperature
    return logits.masked_fill(present.mT == 0, torch.finfo(logits.dtype).min).softmax(-1)


def in_slots(values: Tensor, slots: Slots) -> Tensor:
    """Return values (N, C) of objects as (B, K, C), padded with zeros."""
    padded = values.new_zeros(slots.images, slots.places, values.shape[1])
    return padded.index_put((slots.image, slots.place), values)
