"""BCKD: binary cross entropy and GIoU, weighted by how far the models differ."""

from math import log
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from gkd_core.distill.heads import LEAST_POSITIVES, PlaceHeads
from gkd_core.distill.losses import BckdLoss
from gkd_core.distill.losses.bckd import binary_difference, disagreement

SURE = log(3)
"""The logit of 3/4."""


def a_context(positives: int = 20) -> Any:
    """Two places, the second in padding; the teacher is sure of the first, the student is not."""
    heads = PlaceHeads(None, None, {}, [], [], torch.tensor([0, 1]))  # type: ignore[arg-type]
    vars(heads).update(
        student_scores=torch.tensor([[[0.0], [5.0]]], requires_grad=True),
        teacher_scores=torch.tensor([[[SURE], [-5.0]]]),
        student_boxes=torch.tensor([[[0.0, 0, 2, 2], [0, 0, 9, 9]]], requires_grad=True),
        teacher_boxes=torch.tensor([[[1.0, 0, 3, 2], [0, 0, 1, 1]]]),
        visible=torch.tensor([[1.0, 0.0]]),
        matched=torch.ones(1, positives, dtype=torch.bool),
    )
    return SimpleNamespace(heads=heads, attenuation=1.0, of_the_whole=lambda mean, rows: mean)


def test_the_scores_of_a_place_worked_out_by_hand() -> None:
    found = binary_difference(torch.tensor([0.0]), torch.tensor([SURE]))
    assert found.item() == pytest.approx(0.173287, abs=1e-6)  # ln 2 / 4


def test_scores_and_boxes_are_divided_by_the_positives_of_the_picture() -> None:
    loss = BckdLoss(weight=1)(a_context())["distill_bckd"]
    assert loss.item() == pytest.approx((0.173287 + 0.666667) / 20, abs=1e-6)  # 2/3 x 1/4 x 4


def test_a_picture_without_objects_weighs_no_more_than_one_with_a_few() -> None:
    loss = BckdLoss(weight=1, boxes=0)(a_context(positives=0))["distill_bckd"]
    assert loss.item() == pytest.approx(0.173287 / LEAST_POSITIVES, abs=1e-6)


def test_boxes_teach_boxes_and_not_scores() -> None:
    only_scores, both = a_context(), a_context()
    BckdLoss(weight=1, boxes=0)(only_scores)["distill_bckd"].backward()
    BckdLoss(weight=1)(both)["distill_bckd"].backward()
    assert torch.equal(only_scores.heads.student_scores.grad, both.heads.student_scores.grad)
    assert both.heads.student_boxes.grad[0, 0].abs().sum() > 0
    assert both.heads.student_boxes.grad[0, 1].abs().sum() == 0


def test_agreement_has_a_finite_gradient() -> None:
    student = torch.tensor([60.0, -60, 0], requires_grad=True)
    binary_difference(student, student.detach()).backward()
    assert student.grad is not None
    assert student.grad.isfinite().all()
    assert disagreement(student, student) == 0
