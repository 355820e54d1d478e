"""MasKD (Huang et al., ICLR 2023): learnt tokens cut the teacher's map into regions, each of which counts alike.

The published tokens are learnt before, with the teacher's own task loss on maps that the masks leave. Here they are
learnt on the way, on the teacher's maps alone: a region is a good one if its mean says what its cells hold, and if it
does not overlap the others. What the student costs never reaches them, else regions would close where it is wrong. A
second head that weighs the regions is left out, as are the student's own masks and the comparison of box heads.

The masks are contracted: sum_k m_k^2 / sum_p m_k is one weight for a cell, exact, and spares maps of every token.

Shapes: B pictures, C channels of the teacher's maps, H x W cells of a level, K tokens.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from gkd_core.compute.full_precision import full_precision
from gkd_core.config.losses import MaskdConfig
from gkd_core.distill.losses.context import LossContext
from gkd_core.distill.losses.method import MethodLoss, Pair, one_by_one


class MaskdLoss(MethodLoss[MaskdConfig]):
    """`distill_maskd`: the adapted maps are the teacher's, region by region."""

    config_class = MaskdConfig

    def modules(self, pair: Pair) -> nn.Module:
        """Return 1x1 convolutions and tokens, one set a level."""
        levels = min(pair.levels, self.config.levels)
        scale = pair.teacher_channels**-0.5
        tokens = [torch.randn(self.config.tokens, pair.teacher_channels) * scale for _ in range(levels)]
        return nn.ModuleDict({"adapters": one_by_one(pair), "tokens": nn.ParameterList(tokens)})

    def __call__(self, context: LossContext) -> dict[str, Tensor]:
        """Compare the finest levels; the tokens learn at a weight of their own, which adds nothing to the value."""
        modules = context.modules[self.name]
        maps = zip(context.student_maps, context.teacher_maps, context.visible, strict=True)
        found, learnt = [], []
        for (student, teacher, visible), adapt, tokens in zip(
            maps, modules["adapters"], modules["tokens"], strict=False
        ):
            masks = masks_of(tokens, teacher.clone(), visible)  # a copy: it is kept for the tokens' gradient
            found.append(regions_alike(adapt(student), teacher, masks))
            learnt.append(region_quality(masks, teacher.clone(), visible))
        quality = torch.stack(learnt).sum(0)
        named = self.weighted(context, torch.stack(found).sum(0))
        of_tokens = context.of_the_whole(quality.mean(), quality)
        return {name: loss + (of_tokens - of_tokens.detach()) for name, loss in named.items()}


# ---- formulas --------------------------------------------------------------------------------------------


@full_precision
def masks_of(tokens: Tensor, teacher: Tensor, visible: Tensor) -> Tensor:
    """Return (B, K, H, W) in [0, 1], the sigmoid of the products of tokens (K, C) with a map; 0 in padding."""
    return torch.einsum("kc,bchw->bkhw", tokens, teacher).sigmoid() * visible


@full_precision
def regions_alike(student: Tensor, teacher: Tensor, masks: Tensor) -> Tensor:
    """Return (B,) squared differences under the masks, mean over channels and tokens.

    Of each token sum_p m^2 d^2 / sum_p m, with the mask squared above and simple below, as published.

    Args:
        student: (B, C, H, W).
        teacher: (B, C, H, W).
        masks: (B, K, H, W); get no gradient.
    """
    masks = masks.detach()
    weights = masks.square() / masks.sum((2, 3), keepdim=True).clamp_min(1e-6)
    squared = (student - teacher).square().mean(1)
    return (weights.mean(1) * squared).sum((1, 2))


@full_precision
def region_quality(masks: Tensor, teacher: Tensor, visible: Tensor) -> Tensor:
    """Return (B,) what tokens learn to make small: cells unlike the mean of their regions, plus overlap (Dice).

    Args:
        masks: (B, K, H, W), with gradient to the tokens.
        teacher: (B, C, H, W).
        visible: (B, 1, H, W) 0 in padding.
    """
    flat, cells = masks.flatten(2), teacher.flatten(2)  # (B, K, cells), (B, C, cells)
    means = (flat @ cells.mT) / flat.sum(2, keepdim=True).clamp_min(1e-6)  # (B, K, C)
    told = (means.mT @ flat) / flat.sum(1, keepdim=True).clamp_min(1e-6)  # (B, C, cells)
    seen = visible.flatten(2)
    power = (cells.square() * seen).sum((1, 2)).clamp_min(1e-12)
    return ((told - cells).square() * seen).sum((1, 2)) / power + overlap(flat)


def overlap(masks: Tensor) -> Tensor:
    """Return (B,) the mean Dice coefficient of each two masks (B, K, cells), in [0, 1]; 0 for a single one."""
    common = masks @ masks.mT
    own = torch.diagonal(common, dim1=1, dim2=2)
    dice = 2 * common / (own[:, :, None] + own[:, None]).clamp_min(1e-6)
    count = masks.shape[1]
    alone = torch.diagonal(dice, dim1=1, dim2=2).sum(1)
    return (dice.sum((1, 2)) - alone) / max(1, count * count - count)
