"""torchvision's detectors with a training forward that does not synchronise with the GPU before the network has run.

torchvision checks the boxes of every image before the backbone, which blocks until the GPU has finished all earlier
work; in distillation that is the teacher's forward. On a GPU the check is left out here: the boxes come from the
loader, which lets none without area through. In evaluation mode nothing differs.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torchvision.models import detection

from gkd_core.detectors import fcos
from gkd_core.detectors.predict import Predicts

Images = list[Tensor]
Targets = list[dict[str, Tensor]]


class _DoesNotWait(Predicts):
    """Uses the forward of torchvision, unless it would synchronise."""

    training: bool

    def forward(self, images: Images, targets: Targets | None = None) -> Any:
        """Return what torchvision's forward returns: named losses in training, detections in evaluation mode."""
        if self.training and targets and targets[0]["boxes"].device.type != "cpu":
            return self._losses(images, targets)
        return super().forward(images, targets)  # type: ignore[misc]

    def _losses(self, images: Images, targets: Targets) -> dict[str, Tensor]:
        raise NotImplementedError


class RetinaNet(_DoesNotWait, detection.RetinaNet):
    """RetinaNet."""

    def _losses(self, images: Images, targets: Targets) -> dict[str, Tensor]:
        batch, targets = self.transform(images, targets)
        maps = list(self.backbone(batch.tensors).values())
        losses: dict[str, Tensor] = self.compute_loss(
            targets, self.head(maps), self.anchor_generator(batch, maps)
        )
        return losses


class _DoesNotWaitAsFCOS(_DoesNotWait):
    def _losses(self: Any, images: Images, targets: Targets) -> dict[str, Tensor]:
        batch, targets = self.transform(images, targets)
        maps = list(self.backbone(batch.tensors).values())
        cells = [level.shape[2] * level.shape[3] for level in maps]
        anchors = self.anchor_generator(batch, maps)
        losses: dict[str, Tensor] = self.compute_loss(targets, self.head(maps), anchors, cells)
        return losses


class FCOS(_DoesNotWaitAsFCOS, fcos.FCOS):
    """Our FCOS."""


class _FCOS(_DoesNotWaitAsFCOS, detection.FCOS):
    """torchvision's FCOS."""


_FCOS.__name__ = "FCOS"  # detectors are recognised by the names of their classes


class FasterRCNN(_DoesNotWait, detection.FasterRCNN):
    """Faster R-CNN."""

    def _losses(self, images: Images, targets: Targets) -> dict[str, Tensor]:
        batch, targets = self.transform(images, targets)
        maps = self.backbone(batch.tensors)
        proposals, of_proposals = self.rpn(batch, maps, targets)
        _, of_regions = self.roi_heads(maps, proposals, batch.image_sizes, targets)
        return {**of_regions, **of_proposals}


_TRAINED_AS: dict[type[torch.nn.Module], type[torch.nn.Module]] = {
    detection.RetinaNet: RetinaNet,
    detection.FasterRCNN: FasterRCNN,
    detection.FCOS: _FCOS,
    fcos.FCOS: FCOS,
}


def train_without_waiting(detector: Any) -> None:
    """Give a detector this forward. It only gains a method, so it stays the same object."""
    detector.__class__ = _TRAINED_AS[type(detector)]
