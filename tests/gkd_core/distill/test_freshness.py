"""How often the student's features of the prototypes are refreshed."""

import pytest

from gkd_core.config import PrototypesConfig
from gkd_core.distill.freshness import TURNED, first_interval

AUTO = PrototypesConfig()


def test_a_refresh_runs_at_most_as_many_pictures_as_the_steps_before_it_trained_on() -> None:
    interval = first_interval(100, pictures=90, batch_size=4, wanted=AUTO)
    assert (interval.last, interval.steps) == (100, 23)
    for _ in range(5):
        interval = interval.after(interval.last + interval.steps, cosine=-1.0, wanted=AUTO)
    assert interval.steps == 23


def test_it_is_due_once_its_steps_are_over() -> None:
    interval = first_interval(100, pictures=90, batch_size=4, wanted=AUTO)
    assert [step for step in range(100, 130) if interval.is_due(step)][:2] == [123, 124]


@pytest.mark.parametrize(
    ("cosine", "steps"), [(1 - TURNED, 100), (1.0, 200), (1 - TURNED * 1.25, 80), (0.0, 50), (0.95, 200)]
)
def test_features_that_turn_faster_are_refreshed_more_often(cosine: float, steps: int) -> None:
    interval = first_interval(0, pictures=10, batch_size=4, wanted=AUTO)._replace(steps=100)
    assert interval.after(100, cosine, AUTO) == (100, steps, interval.least)


def test_a_number_of_steps_stays() -> None:
    wanted = PrototypesConfig(refresh=5)
    interval = first_interval(0, pictures=1000, batch_size=1, wanted=wanted)
    assert interval.after(5, 0.0, wanted).steps == interval.steps == 5


def test_a_bank_costs_nothing_and_keeps_its_pace() -> None:
    wanted = PrototypesConfig(source="bank")
    interval = first_interval(0, pictures=40, batch_size=4, wanted=wanted)
    assert interval.after(10, 0.0, wanted).steps == interval.steps == 10


def test_nothing_is_refreshed_where_nobody_wants_it() -> None:
    interval = first_interval(0, pictures=10, batch_size=4, wanted=PrototypesConfig(refresh=None))
    assert not interval.is_due(10**6)
