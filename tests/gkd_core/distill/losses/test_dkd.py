"""DKD: the target against all others, and the others among themselves."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from gkd_core.distill.heads import RoiHeads
from gkd_core.distill.losses import DkdLoss
from gkd_core.distill.losses.dkd import others_divergence, target_divergence

TEACHER = torch.tensor([[0.5, 0.25, 0.25]]).log()
STUDENT = torch.tensor([[0.25, 0.5, 0.25]]).log()
FIRST = torch.tensor([0])


def a_context(student: Tensor, teacher: Tensor, labels: Tensor, numbers: list[int]) -> Any:
    rois = RoiHeads(None, None, student, [], [], torch.tensor([]))  # type: ignore[arg-type]
    boxes = [torch.zeros(number, 4) for number in numbers]
    vars(rois).update(teacher_scores=teacher, sampled=(boxes, labels))
    return SimpleNamespace(rois=rois, attenuation=1.0, of_the_whole=lambda mean, rows: mean)


def test_both_parts_worked_out_by_hand() -> None:
    assert target_divergence(STUDENT, TEACHER, FIRST).item() == pytest.approx(0.143841, abs=1e-6)
    assert others_divergence(STUDENT, TEACHER, FIRST).item() == pytest.approx(0.058892, abs=1e-6)
    loss = DkdLoss(weight=1)(a_context(STUDENT, TEACHER, FIRST, [1]))["distill_dkd"]
    assert loss.item() == pytest.approx(0.158564, abs=1e-6)


def test_with_the_teachers_rest_as_weight_both_add_up_to_the_plain_divergence() -> None:
    student, teacher = torch.randn(2, 7, 5)
    labels = torch.arange(7) % 5
    rest = 1 - teacher.softmax(1).gather(1, labels[:, None])[:, 0]
    parts = target_divergence(student, teacher, labels) + rest * others_divergence(student, teacher, labels)
    plain = F.kl_div(student.log_softmax(1), teacher.softmax(1), reduction="none").sum(1)
    torch.testing.assert_close(parts, plain)


def test_it_is_a_mean_over_the_proposals_of_each_picture() -> None:
    student, teacher = torch.cat([STUDENT, TEACHER, TEACHER, STUDENT]), TEACHER.repeat(4, 1)
    context = a_context(student, teacher, torch.zeros(4, dtype=torch.int64), [3, 1])
    assert DkdLoss(weight=1)(context)["distill_dkd"].item() == pytest.approx(0.158564 * 4 / 6, abs=1e-6)


def test_no_proposals_are_zero_with_a_gradient_path() -> None:
    student = torch.zeros(0, 3, requires_grad=True)
    loss = DkdLoss(weight=1)(a_context(student, torch.zeros(0, 3), torch.zeros(0, dtype=torch.int64), [0, 0]))
    loss["distill_dkd"].backward()
    assert loss["distill_dkd"] == 0


def test_certainty_is_no_infinity() -> None:
    student = torch.tensor([[200.0, -200, 0], [-200, 200, 0]], requires_grad=True)
    labels = torch.tensor([0, 0])
    loss = target_divergence(student, -student, labels) + others_divergence(student, -student, labels)
    loss.sum().backward()
    assert loss.isfinite().all()
    assert student.grad is not None
    assert student.grad.isfinite().all()


def test_a_temperature_keeps_the_size_of_the_gradient() -> None:
    found = [
        DkdLoss(weight=1, temperature=t)(a_context(STUDENT * t, TEACHER * t, FIRST, [1]))["distill_dkd"]
        for t in (1, 3)
    ]
    assert found[1].item() == pytest.approx(9 * found[0].item(), rel=1e-5)
