"""DIST: rows and columns of probabilities correlate with the teacher's."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from gkd_core.distill.heads import RoiHeads
from gkd_core.distill.losses import DistLoss
from gkd_core.distill.losses.dist import uncorrelated

TEACHER = torch.tensor([[[0.75, 0.25], [0.25, 0.75]]])
STUDENT = torch.tensor([[[0.6, 0.4], [0.6, 0.4]]])
ALL = torch.ones(1, 2, 2)


def test_both_terms_worked_out_by_hand() -> None:
    """Rows correlate by 1 and -1; the student's columns are constant, which correlates by 0."""
    assert uncorrelated(STUDENT, TEACHER, ALL, 2).item() == pytest.approx(1)
    assert uncorrelated(STUDENT, TEACHER, ALL, 1).item() == pytest.approx(1)


def test_proposals_are_compared_by_their_softmax() -> None:
    rois = RoiHeads(None, None, STUDENT[0].log(), [], [], torch.tensor([]))  # type: ignore[arg-type]
    vars(rois).update(
        teacher_scores=TEACHER[0].log(), sampled=([torch.zeros(2, 4)], torch.zeros(2, dtype=torch.int64))
    )
    student = SimpleNamespace(roi_heads=None)
    context: Any = SimpleNamespace(
        student=student, rois=rois, attenuation=1, of_the_whole=lambda mean, rows: mean
    )
    assert DistLoss(weight=1)(context)["distill_dist"].item() == pytest.approx(2)
    assert DistLoss(weight=1, columns=0)(context)["distill_dist"].item() == pytest.approx(1)


def test_it_is_blind_to_scale_and_offset() -> None:
    teacher = torch.rand(2, 6, 4)
    shown = torch.ones_like(teacher)
    for along in (1, 2):
        assert uncorrelated(teacher * 0.2 + 0.1, teacher, shown, along).abs().max() < 1e-5


def test_it_is_the_correlation_of_the_library_over_the_entries_that_are_shown() -> None:
    student, teacher = torch.rand(2, 1, 8, 3)
    shown = torch.ones(1, 8, 3)
    shown[:, 5:] = 0
    pairs = zip(student[0, :5].T, teacher[0, :5].T, strict=True)
    expected = 1 - torch.stack([torch.corrcoef(torch.stack(pair))[0, 1] for pair in pairs]).mean()
    torch.testing.assert_close(uncorrelated(student, teacher, shown, 1)[0], expected)


def test_where_the_teacher_is_constant_nothing_is_asked() -> None:
    student = torch.rand(1, 3, 1, requires_grad=True)
    loss = uncorrelated(student, torch.rand(1, 3, 1), torch.ones(1, 3, 1), 2)  # one class: rows of one entry
    loss.sum().backward()
    assert loss.item() == 0
    assert student.grad is not None
    assert student.grad.abs().sum() == 0


def test_a_constant_student_has_a_finite_gradient() -> None:
    student = torch.full((1, 2, 2), 0.5, requires_grad=True)
    loss = uncorrelated(student, TEACHER, ALL, 2)
    loss.sum().backward()
    assert loss.item() == pytest.approx(1)
    assert student.grad is not None
    assert student.grad.isfinite().all()
