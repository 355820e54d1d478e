"""Detectors that are torchvision's own to the last parameter, so that its published weights fit.

torchvision's builders make them, with everything that belongs to them: anchors of 32 to 512 pixels whatever the
picture's size (FCOS: one location per cell), thresholds of scores and of NMS, and the heads. Only what is not part of
a state dict is changed: coarse levels are computed in float32, and stages of the body can be frozen.
"""

from __future__ import annotations

from typing import Any

from torchvision.models.detection import (
    fasterrcnn_mobilenet_v3_large_fpn,
    fasterrcnn_resnet50_fpn,
    fasterrcnn_resnet50_fpn_v2,
    fcos_resnet50_fpn,
    retinanet_resnet50_fpn,
    retinanet_resnet50_fpn_v2,
)
from torchvision.ops.feature_pyramid_network import LastLevelP6P7

from gkd_core.config import DetectorConfig
from gkd_core.detectors.fpn import Backbone, CoarseLevels, CoarsestLevel
from gkd_core.detectors.norms import exchange_norms

_FINE, _COARSE, _COARSER = (4, 8, 16, 32, 64), (8, 16, 32, 64, 128), (32, 32, 64)

_BUILDERS: dict[tuple[str, str, str], tuple[Any, tuple[int, ...]]] = {
    ("torchvision", "retinanet", "resnet50"): (retinanet_resnet50_fpn, _COARSE),
    ("torchvision", "fcos", "resnet50"): (fcos_resnet50_fpn, _COARSE),
    ("torchvision", "faster_rcnn", "resnet50"): (fasterrcnn_resnet50_fpn, _FINE),
    ("torchvision", "faster_rcnn", "mobilenet_v3_large"): (fasterrcnn_mobilenet_v3_large_fpn, _COARSER),
    ("torchvision_v2", "retinanet", "resnet50"): (retinanet_resnet50_fpn_v2, _COARSE),
    ("torchvision_v2", "faster_rcnn", "resnet50"): (fasterrcnn_resnet50_fpn_v2, _FINE),
}
"""Builder of each layout, and the strides of its pyramid, finest first. torchvision takes two maps of MobileNet that
are both at stride 32, an inner one and the last."""


def build_as_torchvision(config: DetectorConfig, scores: int) -> tuple[Any, tuple[int, ...]]:
    """Build the detector of a torchvision builder, freshly initialised.

    Args:
        config: `norm` is `batch`, or `frozen` for the frozen norms that the weights of layout `torchvision` come
            with.
        scores: C + 1.

    Returns:
        The detector, and the strides of its pyramid.
    """
    builder, strides = _BUILDERS[config.layout, config.architecture, config.backbone]
    detector = builder(weights=None, weights_backbone=None, num_classes=scores)
    backbone = detector.backbone
    if config.norm == "frozen":
        exchange_norms(backbone, "frozen")
    extra = backbone.fpn.extra_blocks  # gains a method and no parameter, so it stays the object it is
    extra.__class__ = CoarseLevels if isinstance(extra, LastLevelP6P7) else CoarsestLevel
    detector.backbone = Backbone(backbone.body, backbone.fpn, backbone.out_channels, config.frozen_stages)
    return detector, strides
