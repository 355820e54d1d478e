"""The feature pyramid (FPN): merges the feature maps of a body, and adds levels that are coarser than the body's.

Shapes: L maps (B, C, H / stride, W / stride), finest first.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torchvision.ops import FeaturePyramidNetwork
from torchvision.ops.feature_pyramid_network import ExtraFPNBlock, LastLevelMaxPool, LastLevelP6P7

from gkd_core.config import DetectorConfig, FpnConfig
from gkd_core.detectors.backbones import build_body, first_stages
from gkd_core.detectors.norms import group_norm

MakeNorm = Callable[[int], nn.Module]

_FPN_NORM: dict[str, MakeNorm | None] = {
    "batch": nn.BatchNorm2d,
    "group": group_norm,
    "frozen": None,  # a pyramid that starts from scratch has no statistics worth freezing
}


class Backbone(nn.Module):
    """A body with its pyramid; names of parameters are those of torchvision's `BackboneWithFPN`."""

    def __init__(self, body: nn.Module, fpn: nn.Module, out_channels: int, frozen_stages: int = 0) -> None:
        """Join body and pyramid.

        Args:
            body: returns the maps by name, finest first.
            fpn: merges them.
            out_channels: C of the pyramid.
            frozen_stages: number of stages of the body that keep their weights and the statistics of their norms.
        """
        super().__init__()
        self.body = body
        self.fpn = fpn
        self.out_channels = out_channels
        self.frozen = first_stages(body, frozen_stages)
        for module in self._frozen_modules():
            module.requires_grad_(False)

    def forward(self, pictures: Tensor) -> dict[str, Tensor]:
        """Return the maps of the pyramid, by name, of images (B, 3, H, W)."""
        maps: dict[str, Tensor] = self.fpn(self.body(pictures))
        return maps

    def train(self, mode: bool = True) -> Backbone:
        """Set the mode; frozen stages stay in evaluation mode, or their batch norms would update their statistics."""
        super().train(mode)
        for module in self._frozen_modules():
            module.eval()
        return self

    def _frozen_modules(self) -> list[nn.Module]:
        return [self.body.get_submodule(name) for name in self.frozen]


def build_backbone(config: DetectorConfig) -> Backbone:
    """Build body and pyramid of a detector: strides 8 to 128, of Faster R-CNN 4 to 64."""
    two_stage = config.architecture == "faster_rcnn"
    strides = (4, 8, 16, 32) if two_stage else (8, 16, 32)
    body = build_body(config.backbone, config.backbone_width, config.norm, strides)
    extra = CoarsestLevel() if two_stage else CoarseLevels(config.fpn.channels, config.fpn.channels)
    fpn = Fpn(body.channels, config.fpn, extra, _FPN_NORM[config.norm])
    return Backbone(body.network, fpn, config.fpn.channels, config.frozen_stages)


class Fpn(FeaturePyramidNetwork):
    """torchvision's FPN with the channels, depth and kind of convolutions of the config."""

    def __init__(
        self, in_channels: Sequence[int], config: FpnConfig, extra: ExtraFPNBlock, norm: MakeNorm | None
    ) -> None:
        """Build the 1x1 (lateral) convolutions of the maps, and the convolutions that smooth the merged ones."""
        super().__init__(list(in_channels), config.channels, extra, norm)
        if config.depth > 1 or config.depthwise:
            self.layer_blocks = nn.ModuleList(_smoothing(config, norm) for _ in in_channels)
        if config.depthwise and isinstance(extra, CoarseLevels):
            extra.p6, extra.p7 = (separable(config.channels, config.channels, stride=2) for _ in range(2))


def _smoothing(config: FpnConfig, norm: MakeNorm | None) -> nn.Sequential:
    """Build `depth` times 3x3 convolution and norm, with a ReLU between them."""
    convolution = separable if config.depthwise else _full
    layers: list[nn.Module] = []
    for index in range(config.depth):
        layers += [nn.ReLU(inplace=True)] if index else []
        layers += [convolution(config.channels, config.channels, bias=norm is None)]
        layers += [norm(config.channels)] if norm else []
    return nn.Sequential(*layers)


def _full(in_channels: int, out_channels: int, bias: bool) -> nn.Conv2d:
    convolution = nn.Conv2d(in_channels, out_channels, 3, padding=1, bias=bias)
    nn.init.kaiming_uniform_(convolution.weight, a=1)  # torchvision's initialisation
    if convolution.bias is not None:
        nn.init.zeros_(convolution.bias)
    return convolution


def separable(in_channels: int, out_channels: int, stride: int = 1, bias: bool = True) -> nn.Sequential:
    """Build a depthwise-separable convolution: 3x3 for each channel by itself, then 1x1 (MobileNet, section 3.1).

    Without norm or activation between the two, as in EfficientDet.
    """
    alone = nn.Conv2d(in_channels, in_channels, 3, stride, padding=1, groups=in_channels, bias=False)
    mixing = nn.Conv2d(in_channels, out_channels, 1, bias=bias)
    for convolution in (alone, mixing):
        nn.init.kaiming_uniform_(convolution.weight, a=1)
    if mixing.bias is not None:
        nn.init.zeros_(mixing.bias)
    return nn.Sequential(alone, mixing)


class CoarsestLevel(LastLevelMaxPool):
    """Faster R-CNN's fifth level; the pyramid is returned in float32.

    Anchors take the type of the maps, and in bfloat16 a coordinate of 500 is rounded by 2 pixels.
    """

    def forward(
        self, pyramid: list[Tensor], backbone: list[Tensor], names: list[str]
    ) -> tuple[list[Tensor], list[str]]:
        """Return the pyramid in float32 with one more level."""
        levels: tuple[list[Tensor], list[str]] = super().forward(
            [level.float() for level in pyramid], backbone, names
        )
        return levels


class CoarseLevels(LastLevelP6P7):
    """P6 and P7, always in float32.

    On a CPU the bfloat16 gradient of a stride-2 convolution over a single cell, which is the size of P7 for a small
    image, is NaN (torch 2.11). The levels are too small to cost anything.
    """

    def forward(
        self, pyramid: list[Tensor], backbone: list[Tensor], names: list[str]
    ) -> tuple[list[Tensor], list[str]]:
        """Return the pyramid in float32 with two more levels."""
        with torch.autocast(pyramid[0].device.type, enabled=False):
            wide = [[level.float() for level in maps] for maps in (pyramid, backbone[-1:])]
            levels: tuple[list[Tensor], list[str]] = super().forward(*wide, names)
        return levels
