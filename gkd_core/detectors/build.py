"""The detectors: torchvision's RetinaNet, Faster R-CNN and FCOS, built so that they train from scratch.

torchvision's contract holds: a list of pictures and targets in, a dict of named losses out; labels run from 1
(0 is background) in all three families, so that the last dimension of every score is `classes + 1`.
What differs from torchvision's own builders: normalisation that learns, in backbone, FPN and heads; FPN
channels, head depth and head width are free; anchors fit the picture size; FCOS assigns and scores by quality
(`fcos.py`); the pictures come resized.
The layouts `torchvision` and `torchvision_v2` differ only in the last point (`torchvision_layout.py`).

Shapes: B images, A anchors (or locations) of a picture, C classes, L levels.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torchvision.models.detection import FasterRCNN, RetinaNet
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.faster_rcnn import FastRCNNConvFCHead, FastRCNNPredictor
from torchvision.models.detection.retinanet import RetinaNetHead
from torchvision.models.detection.rpn import RPNHead

from gkd_core.config import DetectorConfig
from gkd_core.detectors.adapt import adapt
from gkd_core.detectors.detector import Detector
from gkd_core.detectors.fcos import FCOS, AlignedHead
from gkd_core.detectors.fpn import Backbone, build_backbone, separable
from gkd_core.detectors.norms import group_norm
from gkd_core.detectors.torchvision_layout import build_as_torchvision

STRIDES = {
    "retinanet": (8, 16, 32, 64, 128),
    "fcos": (8, 16, 32, 64, 128),
    "faster_rcnn": (4, 8, 16, 32, 64),
}
"""Pixels per cell of each pyramid level, finest first."""


def build_detector(config: DetectorConfig, num_classes: int, image_size: int) -> Detector:
    """Return a freshly initialised detector.

    Args:
        config: layout, architecture, backbone, widths and norms; `weights` is not read here.
        num_classes: C, without background.
        image_size: longer side of the pictures, in pixels; decides the anchors of layout `gkd`.

    Raises:
        SpecError: the backbone is one of timm's, and timm cannot give it.
    """
    if config.layout == "gkd":
        build = {"retinanet": _retinanet, "faster_rcnn": _faster_rcnn, "fcos": _fcos}[config.architecture]
        detector = build(config, build_backbone(config), num_classes + 1, image_size)
        strides: tuple[int, ...] = STRIDES[config.architecture]
    else:
        detector, strides = build_as_torchvision(config, num_classes + 1)
    if hasattr(detector, "roi_heads"):  # the coarsest level is the RPN's alone
        detector.roi_heads.box_roi_pool.featmap_names = [str(level) for level in range(len(strides) - 1)]
    return adapt(detector, config.architecture, config.mean, config.std, strides)


# ---- towers ----------------------------------------------------------------------------------------------


def _tower(in_channels: int, width: int, config: DetectorConfig) -> nn.Sequential:
    """`depth` times 3x3 convolution, group norm, ReLU. Statistics differ between levels, so no batch norm."""
    layers: list[nn.Module] = []
    for index in range(config.head.depth):
        channels = in_channels if index == 0 else width
        layers += [_tower_convolution(channels, width, config), group_norm(width), nn.ReLU(inplace=True)]
    return nn.Sequential(*layers)


def _tower_convolution(in_channels: int, width: int, config: DetectorConfig) -> nn.Module:
    if config.head.depthwise:
        return separable(in_channels, width, bias=False)
    convolution = nn.Conv2d(in_channels, width, 3, padding=1, bias=False)
    nn.init.normal_(convolution.weight, std=0.01)
    return convolution


def _set_towers(head: RetinaNetHead | AlignedHead, config: DetectorConfig) -> None:
    """Give a head, built for `width` input channels, towers of the wanted depth."""
    branches: list[Any] = [head.classification_head, head.regression_head]
    for branch in branches:
        branch.conv = _tower(config.fpn.channels, _head_width(config), config)


def _head_width(config: DetectorConfig) -> int:
    return config.head.width or config.fpn.channels


# ---- the three families ----------------------------------------------------------------------------------


def anchor_sizes(strides: tuple[int, ...], image_size: int) -> list[float]:
    """Anchor side per level, in pixels.

    The papers' 32 to 512 were made for 800 pixels; they shrink with the picture, but never under two strides,
    where neighbouring anchors would leave holes between them.
    """
    scale = image_size / 800
    return [max(32 * 2**level * scale, 2 * stride) for level, stride in enumerate(strides)]


def _retinanet(config: DetectorConfig, backbone: Backbone, scores: int, image_size: int) -> RetinaNet:
    sizes = anchor_sizes(STRIDES["retinanet"], image_size)
    octaves = tuple(tuple(size * 2 ** (third / 3) for third in range(3)) for size in sizes)
    anchors = AnchorGenerator(octaves, ((0.5, 1.0, 2.0),) * len(octaves))
    head = RetinaNetHead(_head_width(config), anchors.num_anchors_per_location()[0], scores)
    _set_towers(head, config)
    return RetinaNet(backbone, num_classes=scores, anchor_generator=anchors, head=head)


def _fcos(config: DetectorConfig, backbone: Backbone, scores: int, image_size: int) -> FCOS:
    # FCOS has no anchors to fit: its one size per level is the stride and places the locations
    head = AlignedHead(_head_width(config), scores)
    _set_towers(head, config)
    return FCOS(backbone, num_classes=scores, head=head, score_thresh=0.05, nms_thresh=0.65)


def _faster_rcnn(config: DetectorConfig, backbone: Backbone, scores: int, image_size: int) -> FasterRCNN:
    sizes = anchor_sizes(STRIDES["faster_rcnn"], image_size)
    anchors = AnchorGenerator(tuple((size,) for size in sizes), ((0.5, 1.0, 2.0),) * len(sizes))
    box_head, predictor = _box_head(config), FastRCNNPredictor(4 * _head_width(config), scores)
    return FasterRCNN(
        backbone,
        rpn_anchor_generator=anchors,
        rpn_head=_rpn_head(config, anchors.num_anchors_per_location()[0]),
        box_head=box_head,
        box_predictor=predictor,
    )


def _rpn_head(config: DetectorConfig, anchors: int) -> RPNHead:
    channels = config.fpn.channels
    head = RPNHead(channels, anchors)
    if config.head.depthwise:
        head.conv = nn.Sequential(separable(channels, channels), nn.ReLU(inplace=True))
    return head


def _box_head(config: DetectorConfig) -> FastRCNNConvFCHead:
    channels, width, depth = config.fpn.channels, _head_width(config), config.head.depth
    head = FastRCNNConvFCHead((channels, 7, 7), [width] * depth, [4 * width], group_norm)
    if config.head.depthwise:
        for index in range(depth):
            head[index][0] = separable(channels if index == 0 else width, width, bias=False)
    return head


# ---- what the rest of the engine asks of a detector ------------------------------------------------------


def pyramid(detector: Detector, pictures: list[Tensor]) -> tuple[list[Tensor], list[tuple[int, int]]]:
    """Normalise, pad and run the backbone with its FPN.

    Args:
        detector: whose transform and backbone run.
        pictures: B float tensors (3, H, W) in 0..1, resized.

    Returns:
        L maps (B, C, H / stride, W / stride), finest first, and the B picture sizes (height, width).
    """
    batch, _ = detector.transform(pictures)
    return list(detector.backbone(batch.tensors).values()), batch.image_sizes


def count_parameters(detector: Detector) -> int:
    """Return the number of parameters, buffers not counted."""
    return sum(parameter.numel() for parameter in detector.parameters())


@torch.no_grad()
def detect(detector: Detector, pictures: list[Tensor]) -> list[dict[str, Tensor]]:
    """Return boxes (N, 4) in pixels of the given pictures, labels (N,) from 1 and scores (N,), one dict a picture."""
    detections: list[dict[str, Tensor]] = detector.eval()(pictures)
    return detections
