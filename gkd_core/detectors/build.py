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

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.models.detection import FasterRCNN, RetinaNet
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.faster_rcnn import FastRCNNConvFCHead, FastRCNNPredictor
from torchvision.models.detection.fcos import FCOSHead
from torchvision.models.detection.retinanet import RetinaNetHead
from torchvision.models.detection.roi_heads import RoIHeads
from torchvision.models.detection.rpn import RPNHead
from torchvision.models.detection.transform import GeneralizedRCNNTransform
from torchvision.ops import MultiScaleRoIAlign
from torchvision.ops.poolers import initLevelMapper

from gkd_core.config import Architecture, DetectorConfig
from gkd_core.detectors.detector import Detector, Targets
from gkd_core.detectors.fcos import FCOS, AlignedHead
from gkd_core.detectors.fpn import Backbone, build_backbone, separable
from gkd_core.detectors.norms import group_norm
from gkd_core.detectors.torchvision_layout import build_as_torchvision
from gkd_core.detectors.training_forward import train_without_waiting

STRIDES = {
    "retinanet": (8, 16, 32, 64, 128),
    "fcos": (8, 16, 32, 64, 128),
    "faster_rcnn": (4, 8, 16, 32, 64),
}
"""Pixels per cell of each pyramid level, finest first."""

CELLS_PER_BOX = {"retinanet": 4.0, "fcos": 4.0, "faster_rcnn": 14.0}
"""A box belongs to the level on which it is at least this many cells wide: four strides is RetinaNet's anchor and
the published FCOS's lower bound, 14 follows from FPN's canonical 224 pixels on stride 16 (Lin et al. 2017, eq. 1)."""


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
    return finish(detector, config.architecture, config.mean, config.std, strides)


def finish(
    detector: Detector,
    architecture: Architecture,
    mean: Sequence[float],
    std: Sequence[float],
    strides: tuple[int, ...],
) -> Detector:
    """Add what all layouts have in common, none of it seen in a state dict.

    Args:
        detector: gains it, and stays the object that it is.
        architecture: its family.
        mean: of each channel, taken off pixels in 0..1.
        std: of each channel, what they are divided by.
        strides: pixels per cell of each level, finest first; its backbone calls the levels 0, 1, 2 and so on.
    """
    detector.transform = _Normalize(0, 0, list(mean), list(std))
    pool = getattr(getattr(detector, "roi_heads", None), "box_roi_pool", None)
    if isinstance(pool, MultiScaleRoIAlign):
        _fix_scales(pool, strides)
    _remember(detector)
    train_without_waiting(detector)
    for predictor in _predictors(detector):
        if _in_float32 not in predictor._forward_hooks.values():
            predictor.register_forward_hook(_in_float32)
    detector.strides, detector.architecture = strides, architecture
    detector.cells_per_box = CELLS_PER_BOX[architecture]
    return detector


_KEPT = {"image_mean": "mean", "image_std": "std"}
"""Torchvision's names, and those of the tensors that hold the same."""


class _Normalize(GeneralizedRCNNTransform):
    """torchvision's own transform less its resizing: pictures arrive resized, this normalises and pads."""

    mean: Tensor
    std: Tensor
    least: tuple[int, int] = (0, 0)
    """Height and width in pixels that batches are padded to at least; see `padded_to`."""

    def __setattr__(self, name: str, value: Any) -> None:
        super().__setattr__(name, value)
        if name in _KEPT:
            # where the detector is: torchvision sends both to the device for every picture, and waits for it
            kept = torch.tensor(value)[:, None, None]
            self.register_buffer(_KEPT[name], self._beside(kept), persistent=False)

    def _beside(self, tensor: Tensor) -> Tensor:
        return next((tensor.to(buffer.device) for buffer in self.buffers()), tensor)

    def normalize(self, image: Tensor) -> Tensor:
        return (image - self.mean) / self.std

    def resize(self, image: Tensor, target: dict[str, Tensor] | None = None) -> tuple[Tensor, Any]:
        return image, target

    def max_by_axis(self, the_list: list[list[int]]) -> list[int]:  # the size that torchvision pads to
        largest: list[int] = super().max_by_axis([*the_list, [0, *self.least]])
        return largest


@contextmanager
def padded_to(height: int, width: int, *detectors: Detector) -> Iterator[None]:
    """Let detectors pad batches to at least this size, in pixels, while the block runs.

    Of a batch that several processes share each pads its pictures as if it had all of them: the places that padding
    adds count in the losses.
    """
    for detector in detectors:
        detector.transform.least = (height, width)
    try:
        yield
    finally:
        for detector in detectors:
            detector.transform.least = (0, 0)


def _fix_scales(pool: MultiScaleRoIAlign, strides: Sequence[int]) -> None:
    """Set the strides on which boxes are pooled: those of the levels that the pool names by their numbers.

    Otherwise the pool infers them from the first batch, padded or not, and keeps them.
    """
    used = [strides[int(name)] for name in pool.featmap_names]
    pool.scales = [1 / stride for stride in used]
    least, most = (int(math.log2(stride)) for stride in (used[0], used[-1]))
    pool.map_levels = initLevelMapper(least, most, pool.canonical_scale, pool.canonical_level)


def _predictors(detector: Detector) -> list[nn.Module]:
    """Return the modules whose outputs become scores and boxes."""
    if hasattr(detector, "roi_heads"):
        return [detector.rpn.head, detector.roi_heads.box_predictor]
    return [detector.head]


def _in_float32(_module: nn.Module, _inputs: Any, output: Any) -> Any:
    """Convert a head's outputs to float32 (a forward hook).

    Under autocast, boxes would else be rounded to whole pixels.
    """
    if isinstance(output, Tensor):
        return output.float()
    if isinstance(output, dict):
        return {name: _in_float32(_module, _inputs, value) for name, value in output.items()}
    return type(output)(_in_float32(_module, _inputs, value) for value in output)


# ---- heads that remember ---------------------------------------------------------------------------------


class _RemembersMatches:
    """Keeps the last assignment of targets.

    It is B tensors (A,), index of the matched target, below 0 for none; and the B x (A, 4) anchors that it is about.
    """

    matched: list[Tensor]
    anchors: list[Tensor]

    def compute_loss(
        self, targets: Targets, head_outputs: dict[str, Tensor], anchors: list[Tensor], matched: list[Tensor]
    ) -> dict[str, Tensor]:
        self.matched, self.anchors = matched, anchors
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


_REMEMBERING: dict[type[nn.Module], type[nn.Module]] = {
    RetinaNetHead: _RememberingRetinaNetHead,
    FCOSHead: _RememberingFCOSHead,
    RoIHeads: _RememberingRoIHeads,
}


def _remember(detector: Detector) -> None:
    """Let the head that assigns keep its last assignment. It only gains a method, so it stays the object it is."""
    head = detector.roi_heads if hasattr(detector, "roi_heads") else detector.head
    head.__class__ = _REMEMBERING.get(type(head), type(head))


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
