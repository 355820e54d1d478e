"""PFI: maps compared where the predictions of both models differ, or where they agree."""

import pytest
import torch

from gkd_core.distill.losses.pfi import imitation, mean_square

ALL, ZEROS = torch.ones(1, 1, 1, 2), torch.zeros(1, 2, 1, 2)
FEATURES = torch.tensor([[[[2.0, 0]], [[0.0, 0]]]])


def test_a_number_worked_out_by_hand() -> None:
    differ = mean_square(torch.tensor([[[1.0, 3], [0, 0]]]), torch.zeros(1, 2, 2)).view(1, 1, 1, 2)
    found = imitation(FEATURES, ZEROS, differ, ALL, "differ")
    assert found.tolist() == [5]
    assert 1.5 * found.tolist()[0] == pytest.approx(7.5)


def test_the_other_sign_turns_disagreement_down() -> None:
    differ = torch.tensor([[[[4.0, 0]]]])
    assert imitation(FEATURES, ZEROS, differ, ALL, "agree").tolist() == pytest.approx([2 / 5 / 2])
    assert imitation(FEATURES, ZEROS, 0 * differ, ALL, "agree").tolist() == [1]
    assert imitation(FEATURES, ZEROS, 0 * differ, ALL, "differ").tolist() == [0]


def test_the_weight_gets_no_gradient() -> None:
    differ = torch.ones(1, 1, 1, 2, requires_grad=True)
    student = FEATURES.clone().requires_grad_()
    imitation(student, ZEROS, differ, ALL, "differ").sum().backward()
    assert differ.grad is None
    assert student.grad is not None
