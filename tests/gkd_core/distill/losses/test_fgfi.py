"""FGFI: imitate where anchors lie near objects."""

from typing import Any

import pytest
import torch
from torchvision.ops import box_iou

from gkd_core.distill.losses.fgfi import anchor_generator_of, best_overlaps, imitation, near_cells

ANCHORS = torch.tensor([[-8.0, -8, 8, 8], [-12, -4, 12, 4]])


def test_a_number_worked_out_by_hand() -> None:
    student = torch.tensor(
        [[[[1.0, 0, 7]], [[2.0, 2, 7]]]]
    )  # differences (1, 2), (0, 2), and a third cell outside
    errors, cells = imitation(
        student, torch.zeros(1, 2, 1, 3), torch.tensor([[[[1.0, 1, 0]]]]), torch.ones(1, 1, 1, 3)
    )
    assert errors / (2 * cells) == 1.125
    assert errors * 2 / (2 * cells) * 0.01 == pytest.approx(
        0.0225
    )  # as published: not divided by the channels


def test_overlaps_are_those_of_torchvision_with_every_anchor() -> None:
    boxes = torch.tensor([[3.0, 5, 20, 30], [0, 0, 6, 4]])
    found = best_overlaps(boxes, ANCHORS, 8, (4, 5))
    rows, columns = torch.meshgrid(torch.arange(4) * 8, torch.arange(5) * 8, indexing="ij")
    shifts = torch.stack([columns, rows, columns, rows], dim=-1).view(-1, 1, 4)
    expected = box_iou(boxes, (ANCHORS + shifts).view(-1, 4)).view(2, 4, 5, 2).amax(-1)
    torch.testing.assert_close(found, expected)


def test_cells_count_by_the_best_of_their_object() -> None:
    best = torch.tensor([[[0.2, 0.11, 0.1]], [[0.9, 0.4, 0.46]]])
    assert near_cells(best, 0.5).tolist() == [[[True, True, False]], [[True, False, True]]]


def test_a_box_that_no_anchor_overlaps_counts_nowhere() -> None:
    assert not near_cells(torch.zeros(1, 2, 2), 0.5).any()


def test_a_picture_without_objects_costs_nothing() -> None:
    parts = imitation(
        torch.ones(1, 1, 1, 2), torch.zeros(1, 1, 1, 2), torch.zeros(1, 1, 1, 2), torch.ones(1, 1, 1, 2)
    )
    assert parts.tolist() == [[0], [0]]


def test_fcos_has_no_anchors() -> None:
    fcos: Any = type("FCOS", (), {"anchor_generator": object()})()
    assert anchor_generator_of(fcos) is None
