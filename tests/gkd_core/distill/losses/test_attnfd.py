"""AttnFD: attended maps agree in direction."""

import pytest
import torch

from gkd_core.distill.losses import AttnFdLoss
from gkd_core.distill.losses.attnfd import attended, normalised_distance
from gkd_core.distill.losses.method import Pair

ALL = torch.ones(1, 1, 1, 2)


def test_a_number_worked_out_by_hand() -> None:
    teacher, student = torch.tensor([[[[3.0, 4]]]]), torch.tensor([[[[1.0, 0]]]])
    assert normalised_distance(student, teacher).item() == pytest.approx(
        0.8
    )  # (.6, .8) and (1, 0): .16 + .64


def test_each_picture_is_normalised_by_itself() -> None:
    teacher, student = torch.rand(1, 2, 1, 2), torch.rand(1, 2, 1, 2)
    alone = normalised_distance(student, teacher)
    beside = normalised_distance(torch.cat([student, student * 9]), torch.cat([teacher, teacher * 99]))
    assert torch.allclose(beside, alone.expand(2))


def test_gates_are_sigmoids_of_mean_plus_maximum() -> None:
    found = attended(torch.tensor([[[[1.0, 3]]]]), ALL)
    channel = torch.tensor([1.0, 3]) * torch.tensor(5.0).sigmoid()  # mean 2, maximum 3
    assert torch.allclose(found.flatten(), channel * (2 * channel).sigmoid())


def test_a_map_of_zeros_has_a_finite_gradient() -> None:
    student = torch.zeros(1, 2, 1, 2, requires_grad=True)
    normalised_distance(attended(student, ALL), torch.rand(1, 2, 1, 2)).sum().backward()
    assert student.grad is not None
    assert student.grad.isfinite().all()


def test_the_students_gates_start_as_the_teachers_and_learn() -> None:
    torch.manual_seed(0)
    gates = AttnFdLoss().modules(Pair(student_channels=64, teacher_channels=64, levels=1))[0]
    maps = torch.randn(1, 64, 3, 3)
    visible = torch.ones(1, 1, 3, 3)
    assert torch.equal(gates(maps, visible), attended(maps, visible))
    normalised_distance(gates(maps, visible), torch.randn(1, 64, 3, 3)).sum().backward()
    assert gates.channel[-1].weight.grad.abs().sum() > 0
    assert gates.spatial.weight.grad.abs().sum() > 0
