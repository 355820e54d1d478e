"""CWD: the KL divergence between softmaxes over cells."""

from math import log

import pytest
import torch

from gkd_core.distill.losses import CwdLoss

TEACHER, STUDENT = torch.tensor([[[[0.0, log(3)]]]]), torch.zeros(1, 1, 1, 2)
BOTH = torch.ones(1, 1, 1, 2)


def test_a_number_worked_out_by_hand() -> None:
    """Shares 1/4 and 3/4 against halves: 3/4 ln 3 - ln 2."""
    assert CwdLoss().compare(STUDENT, TEACHER, BOTH).item() == pytest.approx(0.130812, abs=1e-6)


def test_a_higher_temperature_divides_the_maps_and_multiplies_by_its_square() -> None:
    loss = CwdLoss(temperature=2).compare(STUDENT, TEACHER * 2, BOTH)
    assert loss.item() == pytest.approx(0.523248, abs=1e-6)


def test_it_is_a_mean_over_channels_and_keeps_pictures_apart() -> None:
    teacher = torch.cat([TEACHER, STUDENT], 1).repeat(2, 1, 1, 1)
    teacher[1] = 0
    found = CwdLoss().compare(torch.zeros(2, 2, 1, 2), teacher, BOTH.repeat(2, 1, 1, 1))
    assert found.tolist() == pytest.approx([0.130812 / 2, 0], abs=1e-6)


def test_padding_soaks_up_no_share() -> None:
    wide = torch.tensor([[[[0.0, log(3), 9.0]]]])
    student = torch.tensor([[[[0.0, 0.0, -7.0]]]], requires_grad=True)
    loss = CwdLoss().compare(student, wide, torch.tensor([[[[1.0, 1.0, 0.0]]]]))
    loss.sum().backward()
    assert loss.item() == pytest.approx(0.130812, abs=1e-6)
    assert student.grad is not None
    assert student.grad.flatten().tolist() == pytest.approx([0.25, -0.25, 0])  # q - p


def test_an_underflowing_share_is_no_infinity() -> None:
    student = torch.tensor([[[[0.0, 300.0]]]], requires_grad=True)
    loss = CwdLoss().compare(student, -student.detach(), BOTH)
    loss.sum().backward()
    assert loss.item() == pytest.approx(300)
    assert student.grad is not None
    assert student.grad.isfinite().all()
