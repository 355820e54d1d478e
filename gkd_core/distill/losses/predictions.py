"""What both models predict at the places from which the student learnt objects: class scores and boxes.

For losses that compare how well scores and boxes fit. Both models must be of one family, with the same anchors or
locations; boxes of a teacher whose anchors were rounded differently are decoded from the student's.

Shapes: M positives, C classes without background.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from gkd_core.detectors.detector import Detector
from gkd_core.distill.heads import decoded
from gkd_core.distill.losses.context import LossContext
from gkd_core.distill.losses.response import teacher_outputs_of_proposals
from gkd_core.distill.positives import is_two_stage, scores_of_places


class Predictions(NamedTuple):
    """Of one model at the student's positives."""

    scores: Tensor
    """(M, C) in 0..1."""
    boxes: Tensor
    """(M, 4) x1, y1, x2, y2 in pixels; of Faster R-CNN those for the class of the object."""


def of_student(context: LossContext) -> Predictions:
    """Return the student's predictions at its positives, with gradient."""
    positives, outputs = context.positives, context.student_scores
    columns = torch.arange(len(context.teacher_columns), device=context.teacher_columns.device)
    if is_two_stage(context.student):
        logits, deltas = (each[positives.place] for each in outputs)
        return _of_proposals(context.student, logits, deltas, columns, context)
    at = positives.image_index, positives.place
    rows = {name: each[at] for name, each in outputs.items()}
    return _of_places(context.student, rows, columns, context)


@torch.no_grad()
def of_teacher(context: LossContext) -> Predictions:
    """Return the teacher's predictions at the student's positives."""
    with torch.inference_mode():
        found = _teacher_rows(context)
    return Predictions(*(each.clone() for each in found))  # those of inference mode cannot meet gradients


def _teacher_rows(context: LossContext) -> Predictions:
    positives = context.positives
    if is_two_stage(context.teacher):
        outputs = teacher_outputs_of_proposals(context)
        return _of_proposals(context.teacher, *outputs, context.teacher_columns, context)
    at = positives.image_index, positives.place
    heads = context.heads
    rows = {name: each[at] for name, each in heads.teacher_regression.items()}
    rows["cls_logits"] = heads.teacher_logits[at]
    return _of_places(context.teacher, rows, context.teacher_columns, context)


# ---- decoding ----------------------------------------------------------------------------------------------


def _of_proposals(
    detector: Detector, logits: Tensor, deltas: Tensor, columns: Tensor, context: LossContext
) -> Predictions:
    """Return scores and boxes of the proposals.

    Args:
        detector: whose they are.
        logits: (M, its classes + 1).
        deltas: (M, 4 x (its classes + 1)).
        columns: (C + 1,) for background and each class of the data, its column.
        context: of the step.
    """
    positives = context.positives
    label = columns[context.instances.labels[positives.owner] + 1]
    own = deltas.unflatten(1, (-1, 4)).gather(1, label[:, None, None].expand(-1, 1, 4)).squeeze(1)
    boxes = detector.roi_heads.box_coder.decode_single(own, positives.boxes)
    return Predictions(logits.float().softmax(1)[:, columns[1:]], boxes)


def _of_places(
    detector: Detector, rows: dict[str, Tensor], columns: Tensor, context: LossContext
) -> Predictions:
    """Return scores and boxes of anchors or locations.

    Args:
        detector: whose they are.
        rows: what its head returned at the positives, (M, ...) each.
        columns: (C + 1,) for background and each class of the data, its column.
        context: of the step.
    """
    positives = context.positives
    scores = scores_of_places(rows, ranked=True).float().sigmoid()[:, columns[1:]]
    anchors = torch.stack(context.student.head.anchors)[positives.image_index, positives.place]
    return Predictions(scores, decoded(detector, rows["bbox_regression"], anchors))


# ---- what is asked of them -----------------------------------------------------------------------------------


def mean_by(index: Tensor, values: Tensor, count: int) -> Tensor:
    """Return (count,) the mean of the values (M,) of each index (M,); 0 where there are none."""
    sums = values.new_zeros(2, count).index_add(1, index, torch.stack([values, torch.ones_like(values)]))
    return sums[0] / sums[1].clamp_min(1)
