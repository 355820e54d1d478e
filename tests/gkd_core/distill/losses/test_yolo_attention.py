"""Attention distillation of YOLOv5, a stand-in: attended maps, where the teacher responds."""

import pytest
import torch

from gkd_core.distill.losses import YoloAttentionLoss
from gkd_core.distill.losses.method import Pair
from gkd_core.distill.losses.yolo_attention import responding, response_imitation

ALL = torch.ones(1, 1, 1, 2)
TEACHER = torch.tensor([[[[-2.0, 0]]]])


def test_a_number_worked_out_by_hand() -> None:
    """Power 2: the responding cell costs 4 / 2, the other 1 / 2 of which a tenth counts."""
    student = torch.tensor([[[[0.0, 1]]]])
    assert response_imitation(student, TEACHER, ALL, 0.1).item() == pytest.approx(2.05)


def test_the_mean_response_is_that_of_the_picture_without_padding() -> None:
    teacher = torch.tensor([[[[3.0, 1, 100]]]])
    assert responding(teacher, torch.tensor([[[[1.0, 1, 0]]]])).flatten().tolist() == [1, 0, 0]


def test_a_teacher_of_zeros_has_a_finite_gradient() -> None:
    student = torch.ones(1, 1, 1, 2, requires_grad=True)
    response_imitation(student, torch.zeros(1, 1, 1, 2), ALL, 0.1).sum().backward()
    assert student.grad is not None
    assert student.grad.isfinite().all()


def test_gates_start_open() -> None:
    torch.manual_seed(0)
    pair = Pair(student_channels=2, teacher_channels=4, levels=1)
    attention = YoloAttentionLoss().modules(pair)[0]
    maps = torch.randn(1, 2, 1, 2)
    assert torch.allclose(attention(maps, ALL), attention.adapter(maps))
