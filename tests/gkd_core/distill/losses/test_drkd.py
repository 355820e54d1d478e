"""DRKD: to which objects of its picture each object is akin."""

import math

import pytest
import torch

from gkd_core.distill.grids import Slots
from gkd_core.distill.losses.drkd import akin, relations

TWO = Slots.of(torch.tensor([0, 0]), 1, 2)


def test_a_number_worked_out_by_hand() -> None:
    teacher, temperature = torch.eye(2), 1 / math.log(3)  # product with itself ln 3, with the other 0
    assert akin(teacher[None], torch.ones(1, 2, 1), temperature)[0, 0].tolist() == pytest.approx([0.75, 0.25])
    found = relations(torch.zeros(2, 3), teacher, torch.ones(2), TWO, temperature)
    assert found.tolist() == pytest.approx([0.25])


def test_objects_of_other_pictures_are_no_kin() -> None:
    student, teacher = torch.randn(3, 4), torch.randn(3, 4)
    slots = Slots.of(torch.tensor([0, 0, 1]), 2, 2)
    both = relations(student, teacher, torch.ones(3), slots, 0.5)
    alone = relations(student[:2], teacher[:2], torch.ones(2), TWO, 0.5)
    assert both.tolist() == pytest.approx([float(alone), 0.0])


def test_an_object_without_weight_has_no_relations_to_learn() -> None:
    found = relations(torch.zeros(2, 3), torch.eye(2), torch.tensor([1.0, 0]), TWO, 1 / math.log(3))
    assert found.tolist() == pytest.approx([0.125])


def test_the_length_of_features_counts_nothing() -> None:
    features = torch.randn(2, 4)
    assert relations(features * torch.tensor([[3.0], [7]]), features, torch.ones(2), TWO, 0.5) < 1e-10
