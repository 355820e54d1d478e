"""The detectors: torchvision's RetinaNet, Faster R-CNN and FCOS, built so that they train from scratch.

torchvision's contract holds: a list of pictures and targets in, a dict of named losses out; labels run from 1
(0 is background) in all three families, so that the last dimension of every score is `classes + 1`.
What differs from torchvision's own builders: normalisation that learns, in backbone, FPN and heads; FPN
channels, head depth and head width are free; anchors fit the picture size; the pictures come resized.

Shapes: B images, A anchors (or locations) of a picture, C classes, L levels.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.models import resnet
from torchvision.models.detection import FCOS, FasterRCNN, RetinaNet
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.backbone_utils import BackboneWithFPN
from torchvision.models.detection.faster_rcnn import FastRCNNConvFCHead, FastRCNNPredictor
from torchvision.models.detection.fcos import FCOSHead
from torchvision.models.detection.retinanet import RetinaNetHead
from torchvision.models.detection.roi_heads import RoIHeads
from torchvision.models.detection.rpn import RPNHead
from torchvision.models.detection.transform import GeneralizedRCNNTransform
from torchvision.ops import FrozenBatchNorm2d, MultiScaleRoIAlign
from torchvision.ops.feature_pyramid_network import LastLevelMaxPool, LastLevelP6P7
from torchvision.ops.poolers import initLevelMapper

from gkd_core.config import DetectorConfig

Targets = list[dict[str, Tensor]]

STRIDES = {
    "retinanet": (8, 16, 32, 64, 128),
    "fcos": (8, 16, 32, 64, 128),
    "faster_rcnn": (4, 8, 16, 32, 64),
}
"""Pixels per cell of each pyramid level, finest first."""

IMAGE_MEAN, IMAGE_STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
"""Of ImageNet, in 0..1 RGB, as torchvision's published weights expect."""

CELLS_PER_BOX = {"retinanet": 4.0, "fcos": 4.0, "faster_rcnn": 14.0}
"""A box belongs to the level on which it is at least this many cells wide: four strides is RetinaNet's anchor
and FCOS's lower bound, 14 follows from FPN's canonical 224 pixels on stride 16 (Lin et al. 2017, eq. 1)."""


Detector = Any
"""A `RetinaNet`, `FCOS` or `FasterRCNN` of torchvision with two attributes more: `strides`, those of its pyramid,
and `cells_per_box`. `Any`, because torch types every attribute of a module as "tensor or module"."""


def build_detector(config: DetectorConfig, num_classes: int, image_size: int) -> Detector:
    """A freshly initialised detector.

    Args:
        config: architecture, backbone, widths and norms; `weights` is not read here.
        num_classes: C, without background.
        image_size: longer side of the pictures, in pixels; decides the anchors.
    """
    backbone = _backbone(config)
    build = {"retinanet": _retinanet, "faster_rcnn": _faster_rcnn, "fcos": _fcos}[config.architecture]
    detector = build(config, backbone, num_classes + 1, image_size)
    detector.transform = _Normalize(0, 0, IMAGE_MEAN, IMAGE_STD)
    for predictor in _predictors(detector):
        predictor.register_forward_hook(_in_float32)
    detector.strides = STRIDES[config.architecture]
    detector.cells_per_box = CELLS_PER_BOX[config.architecture]
    return detector


def _predictors(detector: Detector) -> list[nn.Module]:
    """The modules whose outputs become scores and boxes."""
    if hasattr(detector, "roi_heads"):
        return [detector.rpn.head, detector.roi_heads.box_predictor]
    return [detector.head]


def _in_float32(_module: nn.Module, _inputs: Any, output: Any) -> Any:
    """A forward hook: what a head says is float32, also under autocast, or boxes would be rounded to whole pixels."""
    if isinstance(output, Tensor):
        return output.float()
    if isinstance(output, dict):
        return {name: _in_float32(_module, _inputs, value) for name, value in output.items()}
    return type(output)(_in_float32(_module, _inputs, value) for value in output)


# ---- backbone and pyramid --------------------------------------------------------------------------------


def group_norm(channels: int) -> nn.GroupNorm:
    """Group norm for any multiple of 8 channels: at most 32 groups of at least 4."""
    return nn.GroupNorm(math.gcd(32, channels // 4), channels)


_BACKBONE_NORM: dict[str, Callable[[int], nn.Module]] = {
    "batch": nn.BatchNorm2d,
    "group": group_norm,
    "frozen": FrozenBatchNorm2d,
}
_FPN_NORM: dict[str, Callable[[int], nn.Module] | None] = {
    "batch": nn.BatchNorm2d,
    "group": group_norm,
    "frozen": None,  # frozen statistics of a pyramid that starts from scratch would be noise
}


def _backbone(config: DetectorConfig) -> BackboneWithFPN:
    body = build_resnet(config.backbone, config.backbone_width, _BACKBONE_NORM[config.norm])
    width = body.inplanes // 8
    two_stage = config.architecture == "faster_rcnn"
    layers = (1, 2, 3, 4) if two_stage else (2, 3, 4)
    channels = config.fpn.channels
    return BackboneWithFPN(
        body,
        return_layers={f"layer{layer}": str(level) for level, layer in enumerate(layers)},
        in_channels_list=[width * 2 ** (layer - 1) for layer in layers],
        out_channels=channels,
        extra_blocks=_CoarsestLevel() if two_stage else _CoarseLevels(channels, channels),
        norm_layer=_FPN_NORM[config.norm],
    )


_RESNETS: dict[str, tuple[Any, list[int]]] = {
    "resnet18": (resnet.BasicBlock, [2, 2, 2, 2]),
    "resnet34": (resnet.BasicBlock, [3, 4, 6, 3]),
    "resnet50": (resnet.Bottleneck, [3, 4, 6, 3]),
    "resnet101": (resnet.Bottleneck, [3, 4, 23, 3]),
}


def build_resnet(name: str, width: float, norm: Callable[[int], nn.Module]) -> resnet.ResNet:
    """A torchvision ResNet whose every layer has `width` times the usual channels, rounded to multiples of 8."""
    block, depths = _RESNETS[name]
    body = resnet.ResNet(block, depths, norm_layer=norm)
    if width == 1:
        return body
    channels = [max(8, round(planes * width / 8) * 8) for planes in (64, 128, 256, 512)]
    body.inplanes = channels[0]
    body.conv1 = nn.Conv2d(3, channels[0], 7, stride=2, padding=3, bias=False)
    body.bn1 = norm(channels[0])
    for index, (planes, depth) in enumerate(zip(channels, depths, strict=True)):
        layer = body._make_layer(block, planes, depth, stride=1 if index == 0 else 2)
        setattr(body, f"layer{index + 1}", layer)
    for module in body.modules():
        if isinstance(module, nn.Conv2d):  # as torchvision starts its own
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
    return body


class _CoarsestLevel(LastLevelMaxPool):
    """Faster R-CNN's fifth level; the pyramid leaves in float32, because anchors take the type of the maps, and in
    bfloat16 a coordinate of 500 is rounded by 2 pixels."""

    def forward(
        self, pyramid: list[Tensor], backbone: list[Tensor], names: list[str]
    ) -> tuple[list[Tensor], list[str]]:
        return super().forward([level.float() for level in pyramid], backbone, names)


class _CoarseLevels(LastLevelP6P7):
    """P6 and P7, always in float32: on a CPU the bfloat16 gradient of a stride-2 convolution over a single cell,
    which is what P7 sees of a small picture, is NaN (torch 2.11). The levels are too small to cost anything."""

    def forward(
        self, pyramid: list[Tensor], backbone: list[Tensor], names: list[str]
    ) -> tuple[list[Tensor], list[str]]:
        with torch.autocast(pyramid[0].device.type, enabled=False):
            return super().forward([level.float() for level in pyramid], backbone, names)


# ---- heads -----------------------------------------------------------------------------------------------


def _tower(in_channels: int, width: int, depth: int) -> nn.Sequential:
    """`depth` times 3x3 convolution, group norm, ReLU. Statistics differ between levels, so no batch norm."""
    layers: list[nn.Module] = []
    for index in range(depth):
        convolution = nn.Conv2d(in_channels if index == 0 else width, width, 3, padding=1, bias=False)
        nn.init.normal_(convolution.weight, std=0.01)
        layers += [convolution, group_norm(width), nn.ReLU(inplace=True)]
    return nn.Sequential(*layers)


def _set_towers(head: RetinaNetHead | FCOSHead, config: DetectorConfig) -> None:
    """Give a torchvision head, built for `width` input channels, towers of the wanted depth."""
    width = config.head.width or config.fpn.channels
    branches: list[Any] = [head.classification_head, head.regression_head]
    for branch in branches:
        branch.conv = _tower(config.fpn.channels, width, config.head.depth)


class _RemembersMatches:
    """Keeps the last assignment (B tensors (A,): index of the matched target, below 0 for none)."""

    matched: list[Tensor]

    def compute_loss(
        self, targets: Targets, head_outputs: dict[str, Tensor], anchors: list[Tensor], matched: list[Tensor]
    ) -> dict[str, Tensor]:
        self.matched = matched
        losses: dict[str, Tensor] = super().compute_loss(targets, head_outputs, anchors, matched)  # type: ignore[misc]
        return losses


class _RememberingRetinaNetHead(_RemembersMatches, RetinaNetHead):
    """RetinaNet's head."""


class _RememberingFCOSHead(_RemembersMatches, FCOSHead):
    """FCOS's head."""


class _RememberingRoIHeads(RoIHeads):
    """Keeps the last training samples: `sampled` = (proposals, matched target, labels), each B tensors."""

    sampled: tuple[list[Tensor], list[Tensor], list[Tensor]]

    def select_training_samples(self, proposals: list[Tensor], targets: Targets) -> tuple[list[Tensor], ...]:
        proposals, matched, labels, regression = super().select_training_samples(proposals, targets)
        self.sampled = (proposals, matched, labels)
        return proposals, matched, labels, regression


# ---- the three families ----------------------------------------------------------------------------------


def anchor_sizes(strides: tuple[int, ...], image_size: int) -> list[float]:
    """Anchor side per level, in pixels.

    The papers' 32 to 512 were made for 800 pixels; they shrink with the picture, but never under two strides,
    where neighbouring anchors would leave holes between them.
    """
    scale = image_size / 800
    return [max(32 * 2**level * scale, 2 * stride) for level, stride in enumerate(strides)]


class _Normalize(GeneralizedRCNNTransform):
    """torchvision's own transform less its resizing: pictures arrive resized, this normalises and pads."""

    def resize(self, image: Tensor, target: dict[str, Tensor] | None = None) -> tuple[Tensor, Any]:
        return image, target


def _retinanet(config: DetectorConfig, backbone: BackboneWithFPN, scores: int, image_size: int) -> RetinaNet:
    sizes = anchor_sizes(STRIDES["retinanet"], image_size)
    octaves = tuple(tuple(size * 2 ** (third / 3) for third in range(3)) for size in sizes)
    anchors = AnchorGenerator(octaves, ((0.5, 1.0, 2.0),) * len(octaves))
    head = _RememberingRetinaNetHead(
        config.head.width or config.fpn.channels, anchors.num_anchors_per_location()[0], scores
    )
    _set_towers(head, config)
    return RetinaNet(backbone, num_classes=scores, anchor_generator=anchors, head=head)


def _fcos(config: DetectorConfig, backbone: BackboneWithFPN, scores: int, image_size: int) -> FCOS:
    # FCOS has no anchors to fit: its one size per level is the stride and places the locations
    head = _RememberingFCOSHead(config.head.width or config.fpn.channels, 1, scores, num_convs=0)
    _set_towers(head, config)
    # torchvision passes distances through a ReLU. From its zero start they can all fall below it, where no gradient
    # brings them back and the box loss stays at 1; so boxes start four strides wide
    nn.init.constant_(head.regression_head.bbox_reg.bias, 2.0)
    return FCOS(backbone, num_classes=scores, head=head, nms_thresh=0.6)


def _faster_rcnn(
    config: DetectorConfig, backbone: BackboneWithFPN, scores: int, image_size: int
) -> FasterRCNN:
    channels, width = config.fpn.channels, config.head.width or config.fpn.channels
    sizes = anchor_sizes(STRIDES["faster_rcnn"], image_size)
    anchors = AnchorGenerator(tuple((size,) for size in sizes), ((0.5, 1.0, 2.0),) * len(sizes))
    pool = MultiScaleRoIAlign(["0", "1", "2", "3"], output_size=7, sampling_ratio=2)
    # left alone it guesses the strides from the first batch, padded or not, and keeps the guess for good
    pool.scales = [1 / stride for stride in STRIDES["faster_rcnn"][:4]]
    pool.map_levels = initLevelMapper(k_min=2, k_max=5)
    box_head = FastRCNNConvFCHead((channels, 7, 7), [width] * config.head.depth, [4 * width], group_norm)
    predictor = FastRCNNPredictor(4 * width, scores)
    detector = FasterRCNN(
        backbone,
        rpn_anchor_generator=anchors,
        rpn_head=RPNHead(channels, anchors.num_anchors_per_location()[0]),
        box_roi_pool=pool,
        box_head=box_head,
        box_predictor=predictor,
    )
    detector.roi_heads = _RememberingRoIHeads(
        pool,
        box_head,
        predictor,
        fg_iou_thresh=0.5,
        bg_iou_thresh=0.5,
        batch_size_per_image=512,
        positive_fraction=0.25,
        bbox_reg_weights=None,
        score_thresh=0.05,
        nms_thresh=0.5,
        detections_per_img=100,
    )
    return detector


# ---- what the rest of the engine asks of a detector ------------------------------------------------------


def pyramid(detector: Detector, pictures: list[Tensor]) -> tuple[list[Tensor], list[tuple[int, int]]]:
    """Normalise, pad and run the backbone with its FPN.

    Args:
        pictures: B float tensors (3, H, W) in 0..1, resized.

    Returns:
        L maps (B, C, H / stride, W / stride), finest first, and the B picture sizes (height, width).
    """
    batch, _ = detector.transform(pictures)
    return list(detector.backbone(batch.tensors).values()), batch.image_sizes


def count_parameters(detector: Detector) -> int:
    """Number of parameters, buffers not counted."""
    return sum(parameter.numel() for parameter in detector.parameters())


@torch.no_grad()
def detect(detector: Detector, pictures: list[Tensor]) -> list[dict[str, Tensor]]:
    """Boxes (N, 4) in pixels of the given pictures, labels (N,) from 1 and scores (N,), one dict a picture."""
    detections: list[dict[str, Tensor]] = detector.eval()(pictures)
    return detections
