"""How many epochs fit into the time of the demo."""

from __future__ import annotations

import pytest

from client.demo_budget import (
    Pace,
    Plan,
    every,
    fit,
    fit_student,
    seconds,
    student_seconds,
    teacher_seconds,
)

PACE = Pace(
    threads=2,
    start=4.0,
    teacher_step=0.5,
    student_step=0.3,
    teacher_picture=0.02,
    student_picture=0.01,
    steps=40,
    train=320,
    val=80,
)
WHOLE = Plan(8, 10)


def test_a_fast_machine_trains_all_epochs():
    assert fit(PACE.times(0.1), WHOLE, 300) == WHOLE


@pytest.mark.parametrize("factor", [0.5, 1, 2, 4])
def test_a_slow_machine_takes_the_most_epochs_that_fit(factor: float):
    pace = PACE.times(factor)
    plan = fit(pace, WHOLE, 270)
    assert 1 <= plan.student <= 10
    assert abs(plan.teacher - 0.8 * plan.student) <= 0.5, "in the recipe's proportions"
    if plan.student > 1:
        assert seconds(pace, plan) <= 270
    if plan != WHOLE:
        longer = Plan(max(1, round(0.8 * (plan.student + 1))), plan.student + 1)
        assert seconds(pace, longer) > 270, "one more epoch would not fit"


def test_less_time_never_means_more_epochs():
    plans = [fit(PACE, WHOLE, left) for left in range(600, -60, -20)]
    assert plans == sorted(plans, reverse=True)
    assert plans[0] == WHOLE
    assert plans[-1] == Plan(1, 1), "where nothing fits it is the least that shows everything"


def test_twice_as_slow_takes_twice_as_long_and_jobs_add_up():
    assert seconds(PACE.times(2), WHOLE) == pytest.approx(2 * seconds(PACE, WHOLE))
    assert seconds(PACE, WHOLE) == pytest.approx(teacher_seconds(PACE, 8) + student_seconds(PACE, 10))
    assert teacher_seconds(PACE, 8) > 8 * 40 * 0.5, "steps alone"
    assert student_seconds(PACE, 10) > 10 * 40 * 2 * 0.3, "student and control"


def test_what_was_learnt_from_the_teacher_shortens_the_student():
    left = student_seconds(PACE, 6)
    assert fit_student(PACE, 10, left) == 6
    assert fit_student(PACE, 4, left) == 4, "never more than planned"
    assert fit_student(PACE.times(2), 10, left) < 6
    assert fit_student(PACE, 10, -5) == 1


def test_a_pace_is_read_from_what_was_measured():
    run = {"step": 0.5, "picture": 0.02, "steps": 40}
    measured = {
        "threads": 2,
        "start": 4.0,
        "pictures": [320, 80],
        "runs": [run, {**run, "step": 0.3, "picture": 0.01}],
    }
    assert Pace.of(measured) == PACE


@pytest.mark.parametrize(
    ("usual", "epochs", "expected"), [(4, 8, 4), (5, 10, 5), (4, 3, 2), (4, 1, 1), (4, 100, 4)]
)
def test_a_short_training_is_evaluated_half_way(usual: int, epochs: int, expected: int):
    assert every(usual, epochs) == expected
