"""AttnFD (Mansourian et al., arXiv 2403.05451), for pyramids: attended maps agree in direction.

The published method attends three layers of a segmentation network with CBAM (Woo et al. 2018): a gate for each
channel, then one for each cell. Its code offers the gates with and without weights. Here the teacher's have none, so
that nothing has to be trained on the teacher; the student's are the same plus a learned correction that starts at 0.
The published norm is that of the whole batch; here each picture is normalised by itself.

Shapes: B pictures, C channels of the teacher's maps, H x W cells of a level.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from gkd_core.compute.full_precision import full_precision, unit
from gkd_core.config.losses import AttnFdConfig
from gkd_core.distill.losses.context import LossContext
from gkd_core.distill.losses.method import MethodLoss, Pair, cell_mean, zeroed

CHANNEL_REDUCTION = 16
"""Of the hidden layer of the channel gate, as in CBAM."""
SPATIAL_KERNEL = 7
"""Cells along each axis that the spatial gate sees, as in CBAM."""

Correction = Callable[[Tensor], Tensor]


class AttnFdLoss(MethodLoss[AttnFdConfig]):
    """`distill_attnfd`: the squared distance of attended maps of length 1."""

    config_class = AttnFdConfig

    def modules(self, pair: Pair) -> nn.Module:
        """Return the student's gates, one pair a level, behind a 1x1 convolution where the channels differ."""
        return nn.ModuleList(
            _StudentGates(pair.student_channels, pair.teacher_channels) for _ in range(pair.levels)
        )

    def __call__(self, context: LossContext) -> dict[str, Tensor]:
        """Compare the finest levels, which are added up."""
        compare = full_precision(_compare)
        maps = zip(
            context.modules[self.name],
            context.student_maps,
            context.teacher_maps,
            context.visible,
            strict=True,
        )
        found = [compare(student, teacher, visible, gates) for gates, student, teacher, visible in maps]
        return self.weighted(context, torch.stack(found[: self.config.levels]).sum(0))


class _StudentGates(nn.Module):
    """What trains on one level."""

    def __init__(self, student_channels: int, channels: int) -> None:
        super().__init__()
        hidden = max(1, channels // CHANNEL_REDUCTION)
        self.adapter = (
            nn.Conv2d(student_channels, channels, 1) if student_channels != channels else nn.Identity()
        )
        self.channel = nn.Sequential(
            nn.Linear(channels, hidden), nn.ReLU(), zeroed(nn.Linear(hidden, channels))
        )
        self.spatial = zeroed(nn.Conv2d(2, 1, SPATIAL_KERNEL, padding=SPATIAL_KERNEL // 2))

    def forward(self, maps: Tensor, visible: Tensor) -> Tensor:
        """Return the attended maps (B, C, H, W) of the student's."""
        return attended(self.adapter(maps), visible, self._channel_logits, self.spatial)

    def _channel_logits(self, pooled: Tensor) -> Tensor:
        """Return (B, C) the correction for two poolings (B, 2, C)."""
        corrections: Tensor = self.channel(pooled).sum(1)
        return corrections


def _compare(student: Tensor, teacher: Tensor, visible: Tensor, gates: _StudentGates) -> Tensor:
    return normalised_distance(gates(student, visible), attended(teacher, visible))


# ---- formulas --------------------------------------------------------------------------------------------


def attended(
    maps: Tensor,
    visible: Tensor,
    channel_correction: Correction | None = None,
    spatial_correction: Correction | None = None,
) -> Tensor:
    """Multiply maps by a gate for each channel and then by one for each cell: sigmoids of mean plus maximum.

    Args:
        maps: (B, C, H, W).
        visible: (B, 1, H, W) 1.0 in cells of the picture, 0.0 in its padding.
        channel_correction: takes means and maxima of channels (B, 2, C) and gives logits (B, C) to add; None: none.
        spatial_correction: takes those of cells (B, 2, H, W) and gives logits (B, 1, H, W) to add; None: none.

    Returns:
        (B, C, H, W), 0 in the padding.
    """
    pooled = torch.stack([cell_mean(maps, visible), _cell_maximum(maps, visible)], dim=1)
    logits = pooled.sum(1) + (channel_correction(pooled) if channel_correction else 0)
    maps = maps * visible * logits.sigmoid()[..., None, None]
    pooled = torch.stack([maps.mean(1), maps.amax(1)], dim=1)
    logits = pooled.sum(1, keepdim=True) + (spatial_correction(pooled) if spatial_correction else 0)
    return maps * logits.sigmoid()


def _cell_maximum(maps: Tensor, visible: Tensor) -> Tensor:
    """Return (B, C) the maximum over visible cells."""
    return maps.masked_fill(visible == 0, torch.finfo(maps.dtype).min).amax((2, 3))


def normalised_distance(student: Tensor, teacher: Tensor) -> Tensor:
    """Return (B,) the squared distance of maps (B, C, H, W) that are divided by their lengths, in [0, 4]."""
    return (unit(student.flatten(1)) - unit(teacher.flatten(1))).square().sum(1)
