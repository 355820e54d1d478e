import time

from worker.sweeper import Sweeper


def test_it_sweeps_everything_at_once_and_then_what_is_due():
    seen = []
    with Sweeper(lambda *, only_due: seen.append(only_due), 0.05):
        time.sleep(0.3)
    assert seen[:3] == [False, True, True]


def test_a_sweep_that_fails_is_followed_by_another(caplog):
    seen = []

    def sweep(*, only_due):
        seen.append(only_due)
        raise ConnectionError("the database is away")

    with Sweeper(sweep, 0.05):
        time.sleep(0.3)
    assert seen[:3] == [False, False, False]
    assert "the database is away" in caplog.text


def test_leaving_does_not_wait_for_the_next_sweep():
    started = time.monotonic()
    with Sweeper(lambda *, only_due: None, 3600.0):
        pass
    assert time.monotonic() - started < 5
