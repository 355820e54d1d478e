"""FCOS (Tian et al. 2019) with task-aligned assignment, quality focal loss and distribution focal loss.

From FCOS: the locations, one per cell of each level, and the two towers that all levels share; torchvision's class
runs the forward pass. Different are the assignment (`assignment.py`, instead of fixed sizes per level and centre
sampling), the quality focal loss (instead of centre-ness: the score estimates the quality of the box), and the
distribution focal loss (each side of a box is a distribution); both Li et al. 2020.

Shapes: B images, A locations of an image, C classes and background.
"""

from __future__ import annotations

from itertools import accumulate

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models import detection
from torchvision.models.detection._utils import _topk_min
from torchvision.models.detection.fcos import FCOSClassificationHead
from torchvision.ops import batched_nms, clip_boxes_to_image, generalized_box_iou_loss

from gkd_core.compute.transfers import to_device
from gkd_core.detectors.assignment import Assignment, assign_aligned

Targets = list[dict[str, Tensor]]

BINS = 16
"""A side lies 0 to 15 strides from its location, as in GFL: with strides of 8 to 128 up to 1920 pixels."""
START = 0.3
"""Slope of the initial distribution: its mean is about three strides, near to most objects; a flat one has 7.5."""
PLACES = 10
"""Locations per object at most (YOLOv8; TOOD has 13)."""
REACH = 0.75
"""Strides of the finest level around an object's centre in which at least one location lies: half a diagonal."""
WEIGHTS = {"classification": 2.0, "bbox_regression": 4.0, "bbox_distribution": 1.0}
"""Quality focal loss to box loss as 1 to 2, as in GFL and TOOD."""


class AlignedHead(nn.Module):
    """FCOS's head without centre-ness; it stores which location was assigned which object."""

    matched: list[Tensor]
    """B tensors (A,): which object of its image each location was assigned in the last step, -1 for none."""
    anchors: list[Tensor]
    """B tensors (A, 4): the squares, as wide as their strides, whose centres are the locations."""
    quality: Tensor
    """The summed quality of the last step, by which its losses are divided."""

    def __init__(self, channels: int, scores: int) -> None:
        """Build the heads for maps that have passed the towers.

        Args:
            channels: of the towers.
            scores: C, with background, whose score is never trained.
        """
        super().__init__()
        self.classification_head = FCOSClassificationHead(channels, 1, scores, num_convs=0)
        self.regression_head = _BoxHead(channels)

    def forward(self, maps: list[Tensor]) -> dict[str, Tensor]:
        """Return class scores (B, A, C) and sides (B, A, 4 x bins), both as logits."""
        return {"cls_logits": self.classification_head(maps), "bbox_regression": self.regression_head(maps)}


class _BoxHead(nn.Module):
    """Predicts a distribution for each of the four distances to the sides."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Sequential()
        self.bbox_reg = nn.Conv2d(channels, 4 * BINS, 3, padding=1)
        nn.init.normal_(self.bbox_reg.weight, std=0.01)
        self.bbox_reg.bias = nn.Parameter(-START * torch.arange(BINS).repeat(4))

    def forward(self, maps: list[Tensor]) -> Tensor:
        sides = [self.bbox_reg(self.conv(level)) for level in maps]
        return torch.cat([level.flatten(2).transpose(1, 2) for level in sides], dim=1)


class FCOS(detection.FCOS):
    """torchvision's FCOS with task-aligned assignment, other losses and a score that rates the box."""

    def compute_loss(
        self, targets: Targets, head_outputs: dict[str, Tensor], anchors: list[Tensor], per_level: list[int]
    ) -> dict[str, Tensor]:
        """Assign objects to locations and compute the losses, all divided by the summed quality of the batch."""
        logits, sides = head_outputs["cls_logits"], head_outputs["bbox_regression"]
        points, strides = locations(anchors[0])
        boxes = decode(sides, points, strides)
        found = self._assign(logits.detach().sigmoid(), boxes.detach(), points, strides.min(), targets)
        quality = torch.stack([assignment.quality for assignment in found])  # (B, A)
        self.head.matched, self.head.anchors = [assignment.matched for assignment in found], anchors
        self.head.quality = quality.sum()
        matched = torch.stack(self.head.matched)  # (B, A)
        picture, place = (matched >= 0).nonzero(as_tuple=True)  # the only synchronisation with the device
        owner = _object_offsets(targets, matched.device)[picture] + matched[picture, place]
        objects = torch.cat([target["boxes"] for target in targets])[owner]
        labels = torch.cat([target["labels"] for target in targets])[owner]
        wanted_scores = torch.zeros_like(logits)
        wanted_scores[picture, place, labels] = quality[picture, place].to(logits.dtype)
        share = quality[picture, place] / self.head.quality.clamp(min=1)
        wanted_sides = distances(objects, points[place], strides[place])
        scores = quality_focal_loss(logits, wanted_scores)
        parts = {
            "classification": scores.sum() / self.head.quality.clamp(min=1),
            "bbox_regression": (share * generalized_box_iou_loss(boxes[picture, place], objects)).sum(),
            "bbox_distribution": (share * distribution_focal_loss(sides[picture, place], wanted_sides)).sum(),
        }
        return {name: WEIGHTS[name] * loss for name, loss in parts.items()}

    def _assign(
        self, scores: Tensor, boxes: Tensor, points: Tensor, stride: Tensor, targets: Targets
    ) -> list[Assignment]:
        return [
            assign_aligned(
                score, box, points, target["boxes"], target["labels"], reach=REACH * stride, count=PLACES
            )
            for score, box, target in zip(scores, boxes, targets, strict=True)
        ]

    def postprocess_detections(
        self,
        head_outputs: dict[str, list[Tensor]],
        anchors: list[list[Tensor]],
        image_shapes: list[tuple[int, int]],
    ) -> list[dict[str, Tensor]]:
        """Return the best candidates of all levels together after class-wise NMS."""
        scores = torch.cat(head_outputs["cls_logits"], dim=1).sigmoid()
        boxes = decode(torch.cat(head_outputs["bbox_regression"], dim=1), *locations(torch.cat(anchors[0])))
        return [self._detections(scores[i], boxes[i], shape) for i, shape in enumerate(image_shapes)]

    def _detections(self, scores: Tensor, boxes: Tensor, shape: tuple[int, int]) -> dict[str, Tensor]:
        classes = scores.shape[1] - 1  # the first column is background, which is never trained
        flat = scores[:, 1:].flatten()
        likely = torch.where(flat > self.score_thresh)[0]
        best, order = flat[likely].topk(_topk_min(likely, self.topk_candidates, 0))
        index = likely[order]
        place = torch.div(index, classes, rounding_mode="floor")
        boxes, labels = clip_boxes_to_image(boxes[place], shape), index % classes + 1
        keep = batched_nms(boxes, best, labels, self.nms_thresh)[: self.detections_per_img]
        return {"boxes": boxes[keep], "scores": best[keep], "labels": labels[keep]}


# ---- locations and sides ---------------------------------------------------------------------------------


def locations(anchors: Tensor) -> tuple[Tensor, Tensor]:
    """Return the centres (A, 2) and strides (A,) of FCOS's anchors (A, 4), squares as wide as their stride."""
    return (anchors[:, :2] + anchors[:, 2:]) / 2, anchors[:, 2] - anchors[:, 0]


def _object_offsets(targets: Targets, device: torch.device) -> Tensor:
    """Return (B,) int64, how many objects the images before each one have together."""
    numbers = [len(target["labels"]) for target in targets]
    return to_device([torch.tensor([0, *accumulate(numbers[:-1])])], device)[0]


def decode(sides: Tensor, points: Tensor, strides: Tensor) -> Tensor:
    """Return the boxes (..., A, 4), x1 y1 x2 y2 in pixels, that predicted sides stand for.

    They are the means of the distributions (..., A, 4 x bins), given as logits.
    """
    bins = torch.arange(BINS, dtype=sides.dtype, device=sides.device)
    # a sum and no matrix product, which autocast would compute in bfloat16: boxes would be rounded
    mean = (sides.unflatten(-1, (4, BINS)).softmax(-1) * bins).sum(-1) * strides[:, None]
    return torch.cat([points - mean[..., :2], points + mean[..., 2:]], dim=-1)


def distances(boxes: Tensor, points: Tensor, strides: Tensor) -> Tensor:
    """Return (M, 4) the distances in strides of a location to the sides of its box (M, 4).

    In this order: left, top, right, bottom.
    """
    return torch.cat([points - boxes[:, :2], boxes[:, 2:] - points], dim=1) / strides[:, None]


# ---- losses ----------------------------------------------------------------------------------------------


def quality_focal_loss(logits: Tensor, wanted: Tensor) -> Tensor:
    """Compute the quality focal loss (GFL, Li et al. 2020, eq. 5).

    Cross entropy with a target score in 0..1 instead of a hard label, times the squared error.

    Args:
        logits: any shape.
        wanted: same shape, target of the sigmoid.
    """
    entropy = F.binary_cross_entropy_with_logits(logits, wanted, reduction="none")
    return entropy * (logits.sigmoid() - wanted).square()


def distribution_focal_loss(sides: Tensor, wanted: Tensor) -> Tensor:
    """Compute the distribution focal loss (GFL, eq. 6).

    Cross entropy with the two bins next to a distance, weighted so that their mean is the distance.

    Args:
        sides: (M, 4 x bins) logits.
        wanted: (M, 4) distances in strides; clamped to the range of the bins.

    Returns:
        (M,), mean over the four sides.
    """
    wanted = wanted.clamp(0, BINS - 1 - 1e-3)
    lower = wanted.long()
    share = wanted - lower
    log = sides.unflatten(-1, (4, BINS)).log_softmax(-1)
    at_lower, at_upper = (log.gather(-1, index.unsqueeze(-1)).squeeze(-1) for index in (lower, lower + 1))
    loss: Tensor = -((1 - share) * at_lower + share * at_upper).mean(-1)
    return loss
