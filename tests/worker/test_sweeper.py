import time
from itertools import pairwise

from worker.sweeper import Repeated


def wait_until(condition, seconds=5.0):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it should have come to this by now"
        time.sleep(0.005)


def test_it_acts_at_once_and_again_and_again():
    times = []
    with Repeated(lambda: times.append(time.monotonic()), 0.05):
        wait_until(lambda: len(times) >= 3)
    assert min(later - earlier for earlier, later in pairwise(times)) >= 0.05


def test_one_that_fails_is_told_and_done_again(caplog):
    seen = []

    def sweep():
        seen.append(1)
        raise ConnectionError("the database is away")

    with Repeated(sweep, 0.01):
        wait_until(lambda: len(seen) >= 3)
    assert "cannot sweep: the database is away" in caplog.text


def test_leaving_does_not_wait_for_the_next_time():
    started = time.monotonic()
    with Repeated(lambda: None, 3600.0):
        pass
    assert time.monotonic() - started < 5


def test_it_can_be_hurried():
    times = []
    with Repeated(lambda: times.append(1), 3600.0) as repeated:
        wait_until(lambda: len(times) == 1)
        repeated.hurry()
        wait_until(lambda: len(times) == 2)
