"""What both models predict at the places from which the student learnt objects."""

import pytest
import torch

from gkd_core.distill.losses.boxes import paired_iou
from gkd_core.distill.losses.predictions import mean_by


def test_each_box_is_compared_with_its_own() -> None:
    boxes = torch.tensor([[0.0, 0, 2, 2], [0, 0, 2, 2], [5, 5, 6, 6]])
    others = torch.tensor([[0.0, 0, 2, 2], [1, 0, 3, 2], [0, 0, 1, 1]])
    assert torch.allclose(paired_iou(boxes, others), torch.tensor([1, 1 / 3, 0]))


def test_boxes_without_area_have_a_finite_gradient() -> None:
    boxes = torch.zeros(1, 4, requires_grad=True)
    paired_iou(boxes, torch.zeros(1, 4)).sum().backward()
    assert boxes.grad is not None
    assert boxes.grad.isfinite().all()


def test_what_has_no_rows_has_a_mean_of_zero() -> None:
    found = mean_by(torch.tensor([0, 2, 2]), torch.tensor([3.0, 1, 2]), 4)
    assert found.tolist() == pytest.approx([3, 0, 1.5, 0])
