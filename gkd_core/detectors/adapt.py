"""What every detector of the engine gains, wherever it comes from: built here, loaded from a file, or wrapped.

Normalisation without resizing, scores and boxes in float32, heads that keep their last assignment of targets, and
the strides of the pyramid. Weights and state dict stay as they are.

Shapes: B images, A anchors (or locations) of a picture.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.models.detection.fcos import FCOSHead
from torchvision.models.detection.retinanet import RetinaNetHead
from torchvision.models.detection.roi_heads import RoIHeads
from torchvision.models.detection.transform import GeneralizedRCNNTransform
from torchvision.ops import MultiScaleRoIAlign
from torchvision.ops.poolers import initLevelMapper

from gkd_core.config import Architecture
from gkd_core.detectors.detector import Detector, Targets
from gkd_core.detectors.training_forward import train_without_waiting

CELLS_PER_BOX = {"retinanet": 4.0, "fcos": 4.0, "faster_rcnn": 14.0}
"""A box belongs to the level on which it is at least this many cells wide: four strides is RetinaNet's anchor and
the published FCOS's lower bound, 14 follows from FPN's canonical 224 pixels on stride 16 (Lin et al. 2017, eq. 1)."""


def adapt(
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


def padded_size(detector: Detector, pictures: Sequence[Tensor]) -> tuple[int, int]:
    """Return height and width, in pixels, to which a detector pads a batch of pictures (3, H, W)."""
    divisor = detector.transform.size_divisible
    sides = zip(*(picture.shape[1:] for picture in pictures), strict=True)
    largest = [max(*side, least) for side, least in zip(sides, detector.transform.least, strict=True)]
    height, width = (divisor * -(-side // divisor) for side in largest)
    return height, width


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
