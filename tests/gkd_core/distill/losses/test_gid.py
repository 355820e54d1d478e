"""GID: distances between the objects of a batch, relative to their mean."""

import pytest
import torch

from gkd_core.distill.losses.gid import relation, relative_distances

TEACHER, STUDENT = torch.tensor([[0.0], [1], [3]]), torch.tensor([[0.0], [1], [2]])


def test_a_number_worked_out_by_hand() -> None:
    found = relation(STUDENT, TEACHER, torch.ones(3))
    assert float(found) == pytest.approx(0.0208333, abs=1e-6)
    assert 40 * float(found) == pytest.approx(0.833333, abs=1e-5)


def test_only_proportions_count() -> None:
    features = torch.randn(5, 4)
    assert relation(features * 3 + 1, features, torch.ones(5)) < 1e-10


def test_an_object_without_weight_takes_its_pairs_with_it() -> None:
    assert relation(STUDENT, TEACHER, torch.tensor([1.0, 1, 0])) == pytest.approx(2 / 32 / 6)


@pytest.mark.parametrize("count", [0, 1, 2])
def test_fewer_than_three_objects_have_no_proportions(count: int) -> None:
    student = torch.randn(count, 4, requires_grad=True)
    found = relation(student, torch.randn(count, 4), torch.ones(count))
    found.backward()
    assert found == 0


def test_equal_objects_have_a_finite_gradient() -> None:
    student = torch.ones(3, 4, requires_grad=True)
    relation(student, torch.randn(3, 4), torch.ones(3)).backward()
    assert student.grad is not None
    assert student.grad.isfinite().all()
    assert relative_distances(torch.ones(3, 4)).sum() == 0
