"""Plain feature imitation (Romero et al. 2015, FitNets): what every other method has to beat."""

from __future__ import annotations

from torch import Tensor, nn

from gkd_core.config.losses import MseConfig
from gkd_core.distill.losses.method import FeatureLoss, Pair, masked_mean, one_by_one


class MseLoss(FeatureLoss[MseConfig]):
    """`distill_mse`: the student's maps, after a 1x1 convolution, are the teacher's."""

    config_class = MseConfig

    def modules(self, pair: Pair) -> nn.Module | None:
        """Return the convolutions, also between equal channels: a channel means nothing of itself."""
        return one_by_one(pair)

    def compare(self, student: Tensor, teacher: Tensor, visible: Tensor) -> Tensor:
        """Return (B,) the mean squared difference of each picture."""
        return masked_mean((student - teacher).square(), visible)
