"""CWD (Shu et al., ICCV 2021): each channel of a map says where something is, as a distribution over the cells.

The published code takes the softmax over all cells of the padded batch; here those of the padding have no part in it,
so that the loss of a picture does not depend on the batch. Its reduction is ours: sum over cells, mean over channels
and pictures, times T^2.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from gkd_core.config.losses import CwdConfig
from gkd_core.distill.losses.method import FeatureLoss


class CwdLoss(FeatureLoss[CwdConfig]):
    """`distill_cwd`: the channels of both are large in the same cells."""

    config_class = CwdConfig

    def compare(self, student: Tensor, teacher: Tensor, visible: Tensor) -> Tensor:
        """Return (B,) the KL divergence from teacher to student, mean over channels, times T^2."""
        temperature = self.config.temperature
        log_p, log_q = (log_shares(maps / temperature, visible) for maps in (teacher, student))
        divergence = (log_p.exp() * (log_p - log_q)).sum(2)  # (B, C)
        return temperature**2 * divergence.mean(1)


def log_shares(maps: Tensor, visible: Tensor) -> Tensor:
    """Return (B, C, H x W) the logarithm of each channel's softmax over the visible cells.

    Cells of padding have a very low, finite value: their share is 0, and 0 times it is no NaN.
    """
    lowest = torch.finfo(maps.dtype).min / 2
    return F.log_softmax(torch.where(visible > 0, maps, lowest).flatten(2), dim=2)
