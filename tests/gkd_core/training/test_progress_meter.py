"""The estimate of the time that is left, with a clock that the test sets."""

from __future__ import annotations

import pytest

from gkd_core.training.progress_meter import ProgressMeter


class Hand:
    """A meter whose clock stands still until it is moved."""

    def __init__(self) -> None:
        self.seconds = 1000.0

    def __call__(self) -> float:
        return self.seconds


@pytest.fixture
def hand() -> Hand:
    return Hand()


def test_what_is_left_takes_as_long_as_what_was_measured(hand: Hand) -> None:
    meter = ProgressMeter(hand)
    meter.start(0.0)
    assert meter.snapshot(0.0)[2] is None
    hand.seconds += 30
    assert meter.snapshot(0.25)[2] == pytest.approx(90)
    hand.seconds += 30
    assert meter.snapshot(1.0)[2] == 0


def test_what_was_done_before_is_not_measured(hand: Hand) -> None:
    meter = ProgressMeter(hand)
    meter.start(0.5)
    hand.seconds += 10
    assert meter.snapshot(0.75)[2] == pytest.approx(10)


def test_what_follows_counts_by_its_own_cost(hand: Hand) -> None:
    meter = ProgressMeter(hand)
    meter.start(0.0)
    hand.seconds += 100
    assert meter.snapshot(0.5, later=0.6)[2] == pytest.approx(100 + 0.6 * 200)


def test_the_next_training_is_measured_by_itself(hand: Hand) -> None:
    meter = ProgressMeter(hand)
    meter.start(0.0)
    hand.seconds += 1000
    meter.snapshot(1.0, later=0.6)
    meter.start(0.0)
    hand.seconds += 10
    assert meter.snapshot(0.1)[2] == pytest.approx(90)
