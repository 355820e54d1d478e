"""What both models' heads say at the same places, for losses that compare scores or boxes.

`PlaceHeads` is for one-stage pairs of one family: class scores and boxes at each anchor or location. `RoiHeads` is for
two-stage pairs: class scores of the proposals that the student sampled. The teacher's heads run when a loss first asks,
and once for all losses; what they say carries no gradient.

Shapes: B pictures, A anchors or locations of a picture, C classes, R sampled proposals of the batch.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from gkd_core.compute.full_precision import full_precision
from gkd_core.compute.transfers import to_device
from gkd_core.detectors import fcos
from gkd_core.detectors.detector import Detector
from gkd_core.distill.grids import visible_cells
from gkd_core.distill.positives import has_centre_ness, scores_of_places

LEAST_POSITIVES = 10.0
"""A picture counts as having so many positives at least, about those of one object: else one without objects, whose
background is all that is left, would outweigh all others."""


@dataclass
class PlaceHeads:
    """Scores and boxes of two one-stage detectors at the A anchors or locations of each picture."""

    student: Detector
    """Has just computed its own losses, and remembers which places learnt which object."""
    teacher: Detector
    outputs: Mapping[str, Tensor]
    """Of the student's head."""
    pyramid: Sequence[Tensor]
    """All levels of the teacher."""
    sizes: Sequence[tuple[int, int]]
    """Height and width of each picture before padding."""
    columns: Tensor
    """(C + 1,) for background and each class of the data, its column in the teacher's scores."""

    # ---- class scores ------------------------------------------------------------------------------------

    @property
    def ranked(self) -> bool:
        """Return whether scores that rank boxes are compared: one model has a centre-ness and the other has not."""
        return has_centre_ness(self.student) != has_centre_ness(self.teacher)

    @cached_property
    def student_scores(self) -> Tensor:
        """(B, A, C) logits of the classes, without background."""
        return scores_of_places(dict(self.outputs), self.ranked)[..., 1:]

    @cached_property
    def teacher_scores(self) -> Tensor:
        """(B, A, C) the same of the teacher."""
        extra = self.teacher_regression if self.ranked else {}
        scores = scores_of_places({"cls_logits": self.teacher_logits, **extra}, self.ranked)
        return scores.index_select(-1, self.columns[1:])

    @cached_property
    def teacher_logits(self) -> Tensor:
        """(B, A, scores of the teacher) as its head gives them, an inference tensor."""
        with torch.inference_mode():
            logits: Tensor = self.teacher.head.classification_head(list(self.pyramid))
            return logits.float()

    # ---- boxes -------------------------------------------------------------------------------------------

    @cached_property
    def student_boxes(self) -> Tensor:
        """(B, A, 4) pixels, x1 y1 x2 y2."""
        return boxes_of_places(self.student, self.outputs["bbox_regression"], self.anchors)

    @cached_property
    def teacher_boxes(self) -> Tensor:
        """(B, A, 4) pixels, from the student's anchors: those of the teacher differ by rounding only."""
        return boxes_of_places(self.teacher, self.teacher_regression["bbox_regression"], self.anchors)

    @cached_property
    def teacher_regression(self) -> dict[str, Tensor]:
        """The rest of what the teacher's head gives, by the names that it has there; inference tensors."""
        with torch.inference_mode():
            found = self.teacher.head.regression_head(list(self.pyramid))
            parts = found if isinstance(found, tuple) else (found,)
            return {name: part.float() for name, part in zip(REGRESSION, parts, strict=False)}

    @property
    def anchors(self) -> Tensor:
        """Return (A, 4) pixels, the same in all pictures of a batch."""
        anchors: Tensor = self.student.head.anchors[0]
        return anchors

    # ---- which places count, and how many ----------------------------------------------------------------

    @cached_property
    def visible(self) -> Tensor:
        """(B, A) 1.0 at places of the picture, 0.0 at those in its padding."""
        shapes = [(level.shape[2], level.shape[3]) for level in self.pyramid]
        levels = zip(self.student.strides, shapes, strict=True)
        cells = torch.cat([visible_cells(self.sizes, *level).flatten(1) for level in levels], dim=1)
        places = cells.repeat_interleave(self.anchors_per_cell, dim=1)
        return to_device([places], self.pyramid[0].device)[0]

    @property
    def anchors_per_cell(self) -> int:
        """Return how many places a cell has; they follow one another."""
        cells = sum(level.shape[2] * level.shape[3] for level in self.pyramid)
        return int(self.outputs["cls_logits"].shape[1] // cells)

    @cached_property
    def matched(self) -> Tensor:
        """(B, A) bool, the places that learnt an object in this step."""
        return torch.stack(self.student.head.matched) >= 0

    def per_positive(self, values: Tensor) -> Tensor:
        """Return (B,) the sum of values (B, A) at visible places over the number of positives of each picture."""
        positives = self.matched.sum(1).clamp_min(LEAST_POSITIVES)
        return (values * self.visible).sum(1) / positives


REGRESSION = ("bbox_regression", "bbox_ctrness")
"""What regression heads return; torchvision's FCOS both."""


def boxes_of_places(detector: Detector, regression: Tensor, anchors: Tensor) -> Tensor:
    """Return the boxes (B, A, 4), x1 y1 x2 y2 in pixels, that a one-stage head predicts.

    Args:
        detector: whose head it is; decides what the regression means.
        regression: (B, A, ...) float32, as the head gives it.
        anchors: (A, 4) pixels.
    """
    boxes = decoded(detector, regression.flatten(0, 1), anchors.repeat(len(regression), 1))
    return boxes.view(*regression.shape[:2], 4)


@full_precision
def decoded(detector: Any, codes: Tensor, anchors: Tensor) -> Tensor:
    """Return the boxes (M, 4), x1 y1 x2 y2 in pixels, that a one-stage head's codes (M, ...) mean at anchors (M, 4)."""
    if isinstance(detector, fcos.FCOS):
        return fcos.decode(codes, *fcos.locations(anchors))
    coder = detector.box_coder  # torchvision's
    boxes: Tensor = (coder.decode if has_centre_ness(detector) else coder.decode_single)(codes, anchors)
    return boxes


# ---- proposals -------------------------------------------------------------------------------------------


@dataclass
class RoiHeads:
    """Class scores of two two-stage detectors for the R proposals that the student sampled."""

    student: Detector
    """Has just computed its own losses, and remembers its samples."""
    teacher: Detector
    student_scores: Tensor
    """(R, C + 1) logits, background first."""
    pyramid: Sequence[Tensor]
    """All levels of the teacher."""
    sizes: Sequence[tuple[int, int]]
    """Height and width of each picture before padding."""
    columns: Tensor
    """(C + 1,) for background and each class of the data, its column in the teacher's scores."""

    @cached_property
    def sampled(self) -> tuple[list[Tensor], Tensor]:
        """Proposals, B tensors (n, 4) in pixels, and the class (R,) that each was to learn, 0 for background."""
        proposals, _, labels = self.student.roi_heads.sampled
        return list(proposals), torch.cat(labels)

    @property
    def labels(self) -> Tensor:
        """Return (R,) the class that each proposal was to learn, 0 for background."""
        return self.sampled[1]

    @cached_property
    def teacher_scores(self) -> Tensor:
        """(R, C + 1) logits of the same proposals."""
        boxes, _ = self.sampled  # outside of the block: labels made inside could not be used with gradients
        with torch.inference_mode():
            scores, _ = roi_outputs(self.teacher, self.pyramid, self.sizes, boxes)
        return scores.index_select(1, self.columns)

    def of_pictures(self, values: Tensor) -> list[Tensor]:
        """Return the values (R, ...) of each of the B pictures."""
        return list(values.split([len(boxes) for boxes in self.sampled[0]]))

    def mean_of_pictures(self, values: Tensor) -> Tensor:
        """Return (B,) the mean of values (R,) over each picture's proposals, 0 where there are none."""
        return torch.stack([part.sum() / max(1, len(part)) for part in self.of_pictures(values)])


def roi_outputs(
    detector: Detector, pyramid: Sequence[Tensor], sizes: Sequence[tuple[int, int]], boxes: list[Tensor]
) -> tuple[Tensor, Tensor]:
    """Return what a box head says of boxes, B tensors (n, 4) in pixels: scores (R, K) and box codes (R, 4 x K)."""
    heads = detector.roi_heads
    named = OrderedDict((str(level), feature) for level, feature in enumerate(pyramid))
    scores, codes = heads.box_predictor(heads.box_head(heads.box_roi_pool(named, boxes, sizes)))
    return scores, codes
