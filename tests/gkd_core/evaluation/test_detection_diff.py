"""When the detections of two runs of one detector agree."""

from __future__ import annotations

import torch

from gkd_core.evaluation.detection_diff import Agreement, Found, Limits, Tolerance, compare

LIMITS = Limits(score=0.05, overlap=0.5, most=5)
TOLERANCE = Tolerance(box=0.5, score=1e-3)
BOX = (10.0, 10.0, 50.0, 50.0)


def found(*each: tuple[tuple[float, ...], int, float]) -> Found:
    boxes, labels, scores = zip(*each, strict=True) if each else ((), (), ())
    return {
        "boxes": torch.tensor(boxes).reshape(-1, 4),
        "labels": torch.tensor(labels, dtype=torch.int64),
        "scores": torch.tensor(scores),
    }


def moved(by: float) -> tuple[float, ...]:
    return tuple(value + by for value in BOX)


def compared(first: Found, second: Found) -> Agreement:
    """Compare in both orders, check that the results agree but for words, and return one."""
    answer, turned = compare(first, second, LIMITS, TOLERANCE), compare(second, first, LIMITS, TOLERANCE)
    assert answer._replace(alone=()) == turned._replace(alone=())
    assert len(answer.alone) == len(turned.alone)
    return answer


def test_the_order_does_not_matter() -> None:
    one, other = (BOX, 1, 0.9), ((60.0, 60.0, 90.0, 90.0), 2, 0.8)
    assert compared(found(one, other), found(other, one)) == Agreement(2, 0, 0, 0, ())


def test_differences_of_partners_are_measured() -> None:
    answer = compared(found((BOX, 1, 0.9)), found((moved(3), 1, 0.8)))
    assert (answer.pairs, answer.box, round(answer.score, 6), answer.alone) == (1, 3, 0.1, ())


def test_empty_boxes_have_partners_too() -> None:
    empty = (10.0, 30.0, 50.0, 30.0)
    assert compared(found((empty, 1, 0.9)), found((empty, 1, 0.9))).pairs == 1


def test_two_boxes_near_each_other_keep_their_own_partners() -> None:
    """Match each box with the nearest: before suppression, two of a class may overlap by up to the threshold."""
    near = (10.0, 10.0, 50.0, 32.0)  # overlaps BOX by 0.55
    answer = compare(
        found((BOX, 1, 0.9), (near, 1, 0.7)), found((near, 1, 0.7), (BOX, 1, 0.9)), LIMITS, TOLERANCE
    )
    assert answer == Agreement(2, 0, 0, 0, ())


def test_another_class_is_no_partner() -> None:
    answer = compared(found((BOX, 1, 0.9)), found((BOX, 2, 0.9)))
    assert answer.pairs == 0
    assert len(answer.alone) == 2
    assert "label 1 at 10.0, 10.0, 50.0, 50.0 with score 0.9000" in answer.alone


def test_what_only_one_finds_is_a_difference() -> None:
    answer = compared(found((BOX, 1, 0.9), (moved(100), 1, 0.5)), found((BOX, 1, 0.9)))
    assert (answer.pairs, answer.decided_otherwise, len(answer.alone)) == (1, 0, 1)


def test_rounding_decides_at_the_threshold_of_scores() -> None:
    answer = compared(found((BOX, 1, 0.9), (moved(100), 1, 0.0505)), found((BOX, 1, 0.9)))
    assert (answer.decided_otherwise, answer.alone) == (1, ())


def test_rounding_decides_who_is_last_in_a_full_list() -> None:
    full = [(moved(100 * at), 1, 0.9) for at in range(4)]
    first, second = found(*full, (moved(500), 1, 0.3)), found(*full, (moved(600), 1, 0.3))
    answer = compared(first, second)
    assert (answer.pairs, answer.decided_otherwise, answer.alone) == (4, 2, ())


def test_rounding_decides_between_boxes_that_suppress_each_other() -> None:
    rival = (10.0, 10.0, 50.0, 36.0)  # overlaps BOX by 0.65
    answer = compared(found((BOX, 1, 0.7)), found((rival, 1, 0.7001)))
    assert (answer.pairs, answer.decided_otherwise, answer.alone) == (0, 2, ())
    sure = compared(found((BOX, 1, 0.7)), found((rival, 1, 0.75)))  # the score decided which was better
    assert (sure.pairs, sure.box) == (1, 14)


def test_rounding_decides_whether_a_box_overlaps_too_much() -> None:
    half = (10.0, 10.0, 50.0, 30.1)
    answer = compared(found((BOX, 1, 0.9), (half, 1, 0.6)), found((BOX, 1, 0.9)))
    assert (answer.pairs, answer.decided_otherwise, answer.alone) == (1, 1, ())


def test_nothing_agrees_with_nothing() -> None:
    assert compared(found(), found()) == Agreement(0, 0, 0, 0, ())
