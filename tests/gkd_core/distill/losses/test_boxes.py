"""Distances between boxes."""

import torch
from torchvision.ops import generalized_box_iou_loss

from gkd_core.distill.losses.boxes import giou_distance


def some(seed: int) -> torch.Tensor:
    corners = torch.rand(40, 2, 2, generator=torch.Generator().manual_seed(seed)) * 50
    return corners.sort(dim=1).values.flatten(1)


def test_it_is_the_giou_loss_of_torchvision() -> None:
    torch.testing.assert_close(giou_distance(some(0), some(1)), generalized_box_iou_loss(some(0), some(1)))


def test_a_number_worked_out_by_hand() -> None:
    found = giou_distance(torch.tensor([0.0, 0, 2, 2]), torch.tensor([1.0, 0, 3, 2]))
    torch.testing.assert_close(found, torch.tensor(2 / 3))  # overlap 2, union and hull 6


def test_boxes_without_area_have_a_finite_gradient() -> None:
    boxes = torch.tensor([[3.0, 3, 3, 3], [0, 0, 0, 5]], requires_grad=True)
    giou_distance(boxes, torch.tensor([[3.0, 3, 3, 3], [9, 9, 9, 9]])).sum().backward()
    assert boxes.grad is not None
    assert boxes.grad.isfinite().all()


def test_it_needs_no_value_on_the_way() -> None:
    assert giou_distance(some(0).to("meta"), some(1).to("meta")).shape == (40,)
