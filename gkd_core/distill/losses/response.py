"""Response loss: the student's class scores imitate the teacher's for the same proposals (RDM of the paper).

The default forms sum over classes, so that what a proposal weighs does not shrink as classes are added; the published
code takes the mean over classes (`*_reference`).

Shapes: N proposals, anchors or points.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from gkd_core.compute.full_precision import full_precision
from gkd_core.config import ResponseConfig
from gkd_core.distill.heads import roi_outputs
from gkd_core.distill.losses.context import LossContext
from gkd_core.distill.positives import has_centre_ness, is_two_stage, level_of_places, scores_of_places
from gkd_core.errors import checked

Divergence = Callable[[Tensor, Tensor, Tensor, float], Tensor]
"""(student's scores (N, C), teacher's, weights (N,), temperature) -> scalar."""
Compared = tuple[Tensor, Tensor, Tensor]
"""Scores of student and teacher (N, C) at the same places, and the level (N,) of each."""


@dataclass(frozen=True)
class ResponseLoss:
    """`distill_response`: teacher and student score the same places alike: matched anchors, or positive proposals."""

    weight: float | Literal["auto"] = "auto"
    """The distiller settles `auto` for its pair; see `config.ResponseConfig`."""
    temperature: float = 2.0
    robust: bool = True

    def __post_init__(self) -> None:
        checked(
            ResponseConfig,
            "distill",
            "response",
            weight=self.weight,
            temperature=self.temperature,
            robust=self.robust,
        )

    @property
    def active(self) -> bool:
        """Return whether it adds anything."""
        return bool(self.weight)

    def __call__(self, context: LossContext) -> dict[str, Tensor]:
        """Compare scores, with the divergence that fits what they mean.

        Raises:
            ValueError: `auto` was left for no distiller to settle.
        """
        if self.weight == "auto":
            raise ValueError("the weight of the response loss is `auto`, and no distiller has settled it")
        compare = _proposal_scores if is_two_stage(context.student) else _place_scores
        student, teacher, level = compare(context)
        owner = context.positives.owner
        weights = context.omega[level, owner] if self.robust else torch.ones_like(student[:, 0])
        found = _divergence(context)(student, teacher, weights, self.temperature)
        return {"distill_response": self.weight * context.of_the_whole(found, weights)}


def _divergence(context: LossContext) -> Divergence:
    """Return the formula that fits the meaning of the student's scores."""
    if is_two_stage(context.student):
        return response_softmax_reference if context.reference else response_softmax
    return response_sigmoid_reference if context.reference else response_sigmoid


# ---- scores at the same places ---------------------------------------------------------------------------


def _place_scores(context: LossContext) -> Compared:
    """Return scores (M, C) at the matched anchors or locations of one-stage detectors."""
    positives, teacher_columns = context.positives, context.teacher_columns
    at = positives.image_index, positives.place
    ranked = has_centre_ness(context.student) != has_centre_ness(context.teacher)
    scores = scores_of_places(context.student_scores, ranked)
    with torch.inference_mode():
        teacher = teacher_scores_of_places(context, ranked)[at][:, teacher_columns]
    levels = level_of_places(context.teacher_pyramid, scores.shape[1])
    return scores[at][:, 1:], teacher[:, 1:].clone(), levels[positives.place]


def teacher_scores_of_places(context: LossContext, ranked: bool) -> Tensor:
    """Return teacher scores (B, A, C + 1); boxes are only predicted where the scores need them."""
    heads = context.heads
    outputs = {"cls_logits": heads.teacher_logits} | (heads.teacher_regression if ranked else {})
    return scores_of_places(outputs, ranked)


def _proposal_scores(context: LossContext) -> Compared:
    """Return scores (M, C + 1) of the student's positive proposals; the level is that of their objects."""
    positives = context.positives
    with torch.inference_mode():
        teacher = _teacher_scores_of_proposals(context)
    levels = context.level[positives.owner]
    return context.student_scores[0][positives.place], teacher.clone(), levels


def _teacher_scores_of_proposals(context: LossContext) -> Tensor:
    """Return teacher scores (M, C + 1) of the student's positive proposals."""
    columns: Tensor = teacher_outputs_of_proposals(context)[0][:, context.teacher_columns]
    return columns


def teacher_outputs_of_proposals(context: LossContext) -> tuple[Tensor, Tensor]:
    """Return the teacher's scores and box codes of the student's M positive proposals, for all its classes."""
    proposals, _, labels = context.student.roi_heads.sampled
    chosen = [boxes[found > 0] for boxes, found in zip(proposals, labels, strict=True)]
    return roi_outputs(context.teacher, context.teacher_pyramid, context.sizes, chosen)


# ---- formulas --------------------------------------------------------------------------------------------


@full_precision
def response_softmax(student: Tensor, teacher: Tensor, weights: Tensor, temperature: float = 2.0) -> Tensor:
    """Return the KL divergence between softened softmax scores, mean over rows, times T^2: for two-stage heads.

    Args:
        student: (N, classes + 1) logits.
        teacher: (N, classes + 1) logits of the same proposals.
        weights: (N,) omega in [0, 1].
        temperature: T > 0.

    Returns:
        Scalar, at least 0; 0 when N is 0.
    """
    log_p = F.log_softmax(teacher.detach() / temperature, dim=1)
    log_q = F.log_softmax(student / temperature, dim=1)
    divergence = (log_p.exp() * (log_p - log_q)).sum(1)  # (N,)
    return _weighted(divergence, weights, temperature)


@full_precision
def response_sigmoid(student: Tensor, teacher: Tensor, weights: Tensor, temperature: float = 2.0) -> Tensor:
    """Return the KL divergence between softened binary scores, summed over classes, mean over rows, times T^2.

    For heads that judge each class by itself (sigmoid).

    Args:
        student: (N, classes) logits.
        teacher: (N, classes) logits of the same anchors or points.
        weights: (N,) omega in [0, 1].
        temperature: T > 0.

    Returns:
        Scalar, at least 0; 0 when N is 0.
    """
    soft_t, soft_s = teacher.detach() / temperature, student / temperature
    yes = soft_t.sigmoid() * (F.logsigmoid(soft_t) - F.logsigmoid(soft_s))
    no = (-soft_t).sigmoid() * (F.logsigmoid(-soft_t) - F.logsigmoid(-soft_s))
    return _weighted((yes + no).sum(1), weights, temperature)


def response_softmax_reference(
    student: Tensor, teacher: Tensor, weights: Tensor, temperature: float = 2.0
) -> Tensor:
    """Return `response_softmax` divided by the number of its columns: the published code."""
    return response_softmax(student, teacher, weights, temperature) / student.shape[1]


def response_sigmoid_reference(
    student: Tensor, teacher: Tensor, weights: Tensor, temperature: float = 2.0
) -> Tensor:
    """Return `response_sigmoid` divided by the number of classes, as the published code averages its softmax."""
    return response_sigmoid(student, teacher, weights, temperature) / student.shape[1]


def _weighted(divergence: Tensor, weights: Tensor, temperature: float) -> Tensor:
    """Return the mean over all rows, also those of weight 0, times T^2, which keeps the gradient's size at any T."""
    return temperature**2 * (weights.detach() * divergence).sum() / max(1, len(divergence))
