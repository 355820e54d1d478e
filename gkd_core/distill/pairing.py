"""What fits between a student and a teacher: whether their scores can be compared, and by which class names.

Asked once, when a distiller is built; its losses and its remarks follow from it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

from gkd_core.config import (
    DistillConfig,
    incomparable_scores,
    response_weight,
    settled_losses,
    zoomed_scores,
)
from gkd_core.detectors.detector import Detector
from gkd_core.distill.losses import Loss, MethodLoss, ResponseLoss
from gkd_core.distill.positives import architecture_of, is_two_stage
from gkd_core.errors import Problem, SpecError


class CommonLevels(NamedTuple):
    """The levels that both pyramids have, each once."""

    strides: tuple[int, ...]
    """L, pixels of the student's pictures per cell, finest first."""
    student: list[int]
    """Which of the student's maps each is."""
    teacher: list[int]
    """Which of the teacher's."""


def common_levels(student: Detector, teacher: Detector, zoom: int = 1) -> CommonLevels:
    """Match two pyramids by the size of their cells on the student's pictures, the first map with the first.

    Raises:
        SpecError: they have no level in common.
    """
    theirs = [stride / zoom for stride in teacher.strides]
    # once each: torchvision's MobileNet has two maps of stride 32, and levels are named by their strides
    strides = tuple(dict.fromkeys(stride for stride in student.strides if stride in theirs))
    if not strides:
        message = f"pyramid strides {student.strides} and {teacher.strides} have none in common"
        raise SpecError([Problem(loc=("student", "architecture"), message=message)])
    mine = [student.strides.index(stride) for stride in strides]
    return CommonLevels(strides, mine, [theirs.index(stride) for stride in strides])


def why_incomparable(student: Detector, teacher: Detector, zoom: int = 1) -> Problem | None:
    """Return why the scores of the two heads cannot be compared place by place."""
    if zoomed := zoomed_scores(zoom):
        return zoomed
    mine, theirs = architecture_of(student), architecture_of(teacher)
    anchors = None
    if mine == theirs and not is_two_stage(student) and (other := _other_places(student, teacher)):
        return other
    if mine == theirs == "retinanet":
        anchors = _finest_anchor(student), _finest_anchor(teacher)
    return incomparable_scores(mine, theirs, anchors)


def _other_places(student: Detector, teacher: Detector) -> Problem | None:
    """Return why two one-stage detectors of a family do not score the same places: other levels, or other anchors."""
    places = [
        f"{each.anchor_generator.num_anchors_per_location()} anchors on strides {tuple(each.strides)}"
        for each in (student, teacher)
    ]
    if places[0] == places[1]:
        return None
    message = f"the student scores {places[0]}, the teacher {places[1]}"
    return Problem(
        loc=("distill", "response", "weight"), message=message, hint="Leave the response loss out."
    )


def _finest_anchor(retinanet: Detector) -> float:
    """Return the finest anchor's side in pixels; the other levels follow by powers of two."""
    return float(retinanet.anchor_generator.sizes[0][0])


def with_settled_weights(
    losses: Sequence[Loss], student: Detector, config: DistillConfig, incomparable: Problem | None
) -> list[Loss]:
    """Return the losses with the weights that fit this pair.

    Raises:
        SpecError: a loss compares the heads, and they cannot be compared; or it does not fit the student.
    """
    listed = [loss.config for loss in losses if isinstance(loss, MethodLoss)]
    settled = iter(settled_losses(listed, architecture_of(student), incomparable))
    return [
        type(loss)(**next(settled).model_dump())
        if isinstance(loss, MethodLoss)
        else _with_settled_weight(loss, config, incomparable)
        for loss in losses
    ]


def _with_settled_weight(loss: Loss, config: DistillConfig, incomparable: Problem | None) -> Loss:
    """Return a loss of ours with the weight that fits this pair.

    Raises:
        SpecError: a response loss was asked for between heads that cannot be compared.
    """
    if not isinstance(loss, ResponseLoss):
        return loss
    response = config.response.model_copy(update={"weight": loss.weight})
    weight = response_weight(config.model_copy(update={"response": response}), incomparable)
    return replace(loss, weight=weight)


def remarks_on(losses: Sequence[Loss], incomparable: Problem | None) -> list[str]:
    """Return a remark that `auto` left the response loss out, and why."""
    auto = any(isinstance(loss, ResponseLoss) and loss.weight == "auto" for loss in losses)
    return [f"the response loss is left out: {incomparable.message}"] if auto and incomparable else []


def classes_of(detector: Detector) -> tuple[str, ...]:
    """Return the class names that a detector carries.

    Raises:
        SpecError: it carries none.
    """
    classes: tuple[str, ...] = getattr(detector, "classes", ())
    if not classes:
        message = f"this {type(detector).__name__} does not know the names of its classes"
        hint = "Build, load or wrap it with `gkd`, or give `teacher_columns`."
        raise SpecError([Problem(loc=("classes",), message=message, hint=hint)])
    return classes
