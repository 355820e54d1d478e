"""PKD: one minus the Pearson correlation of each channel."""

import pytest
import torch

from gkd_core.distill.losses import PkdLoss

ALL = torch.ones(1, 1, 1, 4)


def test_a_number_worked_out_by_hand() -> None:
    teacher, student = torch.tensor([[[[0.0, 1, 2, 3]]]]), torch.tensor([[[[0.0, 2, 1, 3]]]])
    assert torch.allclose(PkdLoss().compare(student, teacher, ALL), torch.tensor([0.2]))  # r is 0.8


def test_it_is_blind_to_scale_and_offset() -> None:
    teacher = torch.randn(2, 3, 4, 4)
    assert PkdLoss().compare(teacher * 3 + 5, teacher, torch.ones(2, 1, 4, 4)).abs().max() < 1e-6


def test_a_constant_channel_costs_half_and_has_a_finite_gradient() -> None:
    student = torch.ones(1, 1, 1, 4, requires_grad=True)
    loss = PkdLoss().compare(student, torch.tensor([[[[0.0, 1, 2, 3]]]]), ALL)
    loss.sum().backward()
    assert loss.item() == pytest.approx(0.5)
    assert student.grad is not None
    assert student.grad.isfinite().all()
