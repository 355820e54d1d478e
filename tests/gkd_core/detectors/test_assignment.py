"""Task-aligned assignment: identities, and cases that can be followed by hand."""

import pytest
import torch
from torch import Tensor

from gkd_core.detectors.assignment import Assignment, assign_aligned

POINTS = torch.cartesian_prod(torch.arange(0.0, 64, 8), torch.arange(0.0, 64, 8))
"""64 places of one level, 8 pixels apart."""
LABELS = torch.tensor([1, 2])
OBJECTS = torch.tensor([[4.0, 4, 28, 28], [36, 36, 60, 60]])


def assigned(
    scores: Tensor | None = None,
    boxes: Tensor | None = None,
    objects: Tensor = OBJECTS,
    labels: Tensor = LABELS,
    count: int = 4,
) -> Assignment:
    scores = torch.full((64, 3), 0.1) if scores is None else scores
    boxes = torch.cat([POINTS - 12, POINTS + 12], 1) if boxes is None else boxes
    return assign_aligned(scores, boxes, POINTS, objects, labels, reach=6, count=count)


def test_a_picture_without_objects_teaches_nobody() -> None:
    matched, quality = assigned(objects=torch.zeros(0, 4), labels=torch.zeros(0, dtype=torch.int64))
    assert (matched == -1).all()
    assert (quality == 0).all()


def test_places_learn_the_object_that_they_lie_in() -> None:
    matched, _ = assigned()
    for index, (left, top, right, bottom) in enumerate(OBJECTS.tolist()):
        x, y = POINTS[matched == index].T
        assert len(x) == 4
        assert ((x > left) & (x < right) & (y > top) & (y < bottom)).all()


def test_the_place_with_the_best_box_is_asked_for_just_that_overlap() -> None:
    boxes = torch.cat([POINTS - 12, POINTS + 12], 1)
    matched, quality = assigned(boxes=boxes)
    best = quality[matched == 0].argmax()
    assert POINTS[matched == 0][best].tolist() == [16, 16]  # the middle: its box is the object
    assert quality[matched == 0][best] == pytest.approx(1)
    assert ((quality > 0) == (matched >= 0)).all()


def test_of_two_places_with_equal_boxes_the_one_with_the_better_score_is_asked_for_more() -> None:
    boxes = OBJECTS[:1].expand(64, 4)
    scores = torch.full((64, 3), 0.1)
    sure = ((POINTS == 8).all(1)).nonzero().item()
    scores[sure, 1] = 0.4
    _, quality = assigned(scores, boxes, OBJECTS[:1], LABELS[:1])
    assert quality[sure] == pytest.approx(1)
    assert quality[quality > 0].min() == pytest.approx(0.5)  # (0.1 / 0.4) ** 0.5


def test_a_better_box_counts_for_more_than_a_better_score() -> None:
    scores, boxes = torch.full((64, 3), 0.04), torch.zeros(64, 4)
    middle, corner = (9 * side // 8 for side in (16, 8))  # rows of eight
    boxes[middle] = torch.tensor([4.0, 4, 28, 25])  # overlaps seven eighths
    boxes[corner] = torch.tensor([4.0, 4, 28, 16])  # a half
    scores[corner, 1] = 1.0
    _, quality = assigned(scores, boxes, OBJECTS[:1], LABELS[:1])
    assert quality[middle] == pytest.approx(7 / 8)
    assert quality[corner] == pytest.approx(7 / 8 * (1 / 0.04) ** 0.5 * (4 / 7) ** 6)


def test_a_place_goes_to_the_object_it_overlaps_more_even_if_it_takes_it_for_the_other() -> None:
    objects = torch.tensor([[4.0, 4, 28, 28], [4, 4, 44, 44]])
    boxes = torch.tensor([4.0, 4, 40, 40]).expand(64, 4)
    scores = torch.tensor([0.0, 0.99, 0.0001]).expand(64, 3)
    matched, _ = assigned(scores, boxes, objects, count=64)
    assert set(matched.tolist()) == {-1, 1}


def test_the_score_of_another_class_does_not_count() -> None:
    boxes = OBJECTS[:1].expand(64, 4)
    scores = torch.full((64, 3), 0.1)
    scores[(POINTS == 8).all(1), 2] = 0.9
    _, quality = assigned(scores, boxes, OBJECTS[:1], LABELS[:1])
    assert quality[quality > 0].tolist() == pytest.approx([1] * 4)


def test_a_place_that_two_objects_want_goes_to_the_one_it_overlaps_more() -> None:
    objects = torch.tensor([[4.0, 4, 28, 28], [4, 4, 44, 44]])
    boxes = torch.tensor([4.0, 4, 40, 40]).expand(64, 4)
    matched, quality = assigned(boxes=boxes, objects=objects, count=64)
    assert set(matched.tolist()) == {-1, 1}
    assert quality.max() == pytest.approx(36**2 / 40**2)


def test_an_object_between_the_places_still_has_one() -> None:
    objects = torch.tensor([[11.5, 11.5, 12.5, 12.5]])
    matched, _ = assigned(objects=objects, labels=LABELS[:1])
    assert (matched == 0).sum() == 4  # the corners of the cell, each 4 pixels away


def test_boxes_that_overlap_nothing_yet_are_assigned_all_the_same_and_asked_for_nothing() -> None:
    boxes = torch.cat([POINTS + 200, POINTS + 224], 1)
    matched, quality = assigned(boxes=boxes)
    assert (matched >= 0).sum() == 8
    assert (quality == 0).all()
    assert torch.isfinite(quality).all()


def test_the_order_of_the_objects_changes_only_their_numbers() -> None:
    generator = torch.Generator().manual_seed(0)
    boxes = torch.cat([POINTS - 12, POINTS + 12], 1) + 4 * torch.rand(64, 4, generator=generator)
    scores = torch.rand(64, 3, generator=generator)
    ahead, backwards = assigned(scores, boxes), assigned(scores, boxes, OBJECTS.flip(0), LABELS.flip(0))
    assert torch.equal(ahead.quality, backwards.quality)
    assert torch.equal(ahead.matched >= 0, backwards.matched >= 0)
    assert torch.equal(ahead.matched == 0, backwards.matched == 1)
