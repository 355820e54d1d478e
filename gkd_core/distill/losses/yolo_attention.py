"""Attention for global features, and imitation where the teacher responds, after Cheng (ESWA 2024, 240:122553).

A stand-in: of the paper we read the abstract alone. It says that an improved GAM attends to global features and that
the student imitates the teacher's regions of high response, so that noisy background does little; formulas and weights
here are ours. The attention (GAM, Liu et al. 2021: a gate for each channel of each cell from a small network, then one
from two 7x7 convolutions) is the student's, trained with it and thrown away; both gates start at 1, and there is no
batch norm, which would mix pictures.

Shapes: B pictures, C channels of the teacher's maps, H x W cells of a level.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from gkd_core.compute.full_precision import full_precision
from gkd_core.config.losses import YoloAttentionConfig
from gkd_core.distill.losses.context import LossContext
from gkd_core.distill.losses.method import MethodLoss, Pair, masked_mean, relative_squares, zeroed

REDUCTION = 4
"""Of the channels between the two layers of both gates, as in GAM."""
KERNEL = 7
"""Cells along each axis that a convolution of the second gate sees, as in GAM."""


class YoloAttentionLoss(MethodLoss[YoloAttentionConfig]):
    """`distill_yolo_attention`: the student's attended maps are the teacher's where the teacher responds."""

    config_class = YoloAttentionConfig

    def modules(self, pair: Pair) -> nn.Module:
        """Return adapter and attention of each level."""
        return nn.ModuleList(
            _Attention(pair.student_channels, pair.teacher_channels) for _ in range(pair.levels)
        )

    def __call__(self, context: LossContext) -> dict[str, Tensor]:
        """Compare the finest levels, which are added up."""
        attended = full_precision(lambda maps, visible, module: module(maps, visible))
        levels = zip(
            context.modules[self.name],
            context.student_maps,
            context.teacher_maps,
            context.visible,
            strict=True,
        )
        found = [
            response_imitation(attended(student, visible, module), teacher, visible, self.config.background)
            for module, student, teacher, visible in list(levels)[: self.config.levels]
        ]
        return self.weighted(context, torch.stack(found).sum(0))


class _Attention(nn.Module):
    """What trains on one level: a 1x1 convolution, and both gates."""

    def __init__(self, student_channels: int, channels: int) -> None:
        super().__init__()
        hidden = max(1, channels // REDUCTION)
        self.adapter = nn.Conv2d(student_channels, channels, 1)
        self.channel = nn.Sequential(
            nn.Conv2d(channels, hidden, 1), nn.ReLU(), zeroed(nn.Conv2d(hidden, channels, 1))
        )
        wide = KERNEL // 2
        self.spatial = nn.Sequential(
            nn.Conv2d(channels, hidden, KERNEL, padding=wide),
            nn.ReLU(),
            zeroed(nn.Conv2d(hidden, channels, KERNEL, padding=wide)),
        )

    def forward(self, maps: Tensor, visible: Tensor) -> Tensor:
        """Return the attended maps (B, C, H, W); gates lie in 0..2 and start at 1."""
        adapted = self.adapter(maps) * visible
        gated = adapted * 2 * self.channel(adapted).sigmoid()
        attended: Tensor = gated * 2 * self._spatial_logits(gated, visible).sigmoid()
        return attended

    def _spatial_logits(self, maps: Tensor, visible: Tensor) -> Tensor:
        """Return (B, C, H, W); padding is kept at 0 between the convolutions, as what lies outside of the map."""
        first, relu, second = self.spatial
        logits: Tensor = second(relu(first(maps)) * visible)
        return logits


# ---- formulas ----------------------------------------------------------------------------------------------


@full_precision
def response_imitation(student: Tensor, teacher: Tensor, visible: Tensor, background: float) -> Tensor:
    """Return (B,) the mean squared difference where the teacher responds, plus a share of that elsewhere.

    Both are relative to the teacher's power: zeros everywhere cost about 1.

    Args:
        student: (B, C, H, W) attended, with the teacher's channels.
        teacher: (B, C, H, W), without gradient.
        visible: (B, 1, H, W) 1.0 in cells of the picture, 0.0 in its padding.
        background: weight of the cells without response.
    """
    squares = relative_squares(student, teacher, visible)
    high = responding(teacher, visible)
    return masked_mean(squares, high) + background * masked_mean(squares, visible - high)


def responding(teacher: Tensor, visible: Tensor) -> Tensor:
    """Return (B, 1, H, W) 1.0 in visible cells whose mean magnitude over channels is above that of the picture."""
    magnitude = teacher.abs().mean(1, keepdim=True)
    return (magnitude > masked_mean(magnitude, visible)[:, None, None, None]).to(visible.dtype) * visible
