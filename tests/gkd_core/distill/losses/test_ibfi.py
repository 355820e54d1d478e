"""IBFI and GRI, a stand-in: imitation where the teacher's scores and boxes disagree."""

import pytest
import torch

from gkd_core.distill.losses.ibfi import imitation, inconsistency, level_relations
from gkd_core.distill.losses.predictions import Predictions

ALL = torch.ones(1, 1, 1, 2)
OBJECT = torch.tensor([[0.0, 0, 2, 2]])


def test_inconsistency_is_the_difference_of_score_and_overlap() -> None:
    predictions = Predictions(torch.tensor([[0.9, 0.75]]), torch.tensor([[0.0, 0, 2, 1]]))  # IoU 1/2
    assert inconsistency(predictions, torch.tensor([1]), OBJECT).item() == pytest.approx(0.25)


def test_a_number_worked_out_by_hand() -> None:
    """Power 2; squared differences 4 in the object, of weight 1.5, and 16 outside: 1.5 * 4 / 4 and 16 / 4."""
    teacher, student = torch.tensor([[[[2.0, 0]]]]), torch.tensor([[[[0.0, 4]]]])
    mask = torch.tensor([[[[1.5, 0]]]])
    assert imitation(student, teacher, mask, ALL, 1, 0.25).item() == pytest.approx(1.5 + 1)


def test_a_picture_without_objects_is_background() -> None:
    teacher, student = torch.tensor([[[[2.0, 0]]]]), torch.zeros(1, 1, 1, 2, requires_grad=True)
    loss = imitation(student, teacher, torch.zeros(1, 1, 1, 2), ALL, 1, 1)
    assert loss.item() == pytest.approx(0.5)
    loss.sum().backward()
    assert student.grad is not None
    assert student.grad.isfinite().all()


def test_relations_are_cosines_between_levels_without_padding() -> None:
    fine = torch.tensor([[[[1.0, 99]], [[0.0, -7]]]])
    coarse = torch.tensor([[[[2.0]], [[2.0]]]])
    found = level_relations([fine, coarse], [torch.tensor([[[[1.0, 0]]]]), torch.ones(1, 1, 1, 1)])
    assert torch.allclose(found[0], torch.tensor([[1, 0.5**0.5], [0.5**0.5, 1]]))
