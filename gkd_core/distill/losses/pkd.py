"""PKD (Cao et al., NeurIPS 2022): teacher and student agree up to the mean and the scale of each channel.

The published code standardises each channel over the cells of all pictures, with the unbiased deviation. Here each
picture is standardised by itself and without its padding, so that the loss does not depend on the batch; with the
biased deviation it is exactly one minus the correlation.
"""

from __future__ import annotations

import torch
from torch import Tensor

from gkd_core.config.losses import PkdConfig
from gkd_core.distill.losses.method import FeatureLoss, masked_mean

LEAST_VARIANCE = 1e-12
"""Below it a channel is constant, and becomes zeros."""


class PkdLoss(FeatureLoss[PkdConfig]):
    """`distill_pkd`: half the mean squared difference of standardised maps."""

    config_class = PkdConfig

    def compare(self, student: Tensor, teacher: Tensor, visible: Tensor) -> Tensor:
        """Return (B,) one minus the Pearson correlation, mean over channels, in [0, 2]."""
        return (
            masked_mean((standardised(student, visible) - standardised(teacher, visible)).square(), visible)
            / 2
        )


def standardised(maps: Tensor, visible: Tensor) -> Tensor:
    """Return maps (B, C, H, W) whose channels have mean 0 and variance 1 over the visible cells (B, 1, H, W)."""
    cells = visible.sum((2, 3), keepdim=True).clamp_min(1)
    centred = (maps - (maps * visible).sum((2, 3), keepdim=True) / cells) * visible
    variance = centred.square().sum((2, 3), keepdim=True) / cells
    return torch.where(variance > LEAST_VARIANCE, centred * variance.clamp_min(LEAST_VARIANCE).rsqrt(), 0.0)
