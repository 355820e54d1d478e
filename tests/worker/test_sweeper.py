import time
from itertools import pairwise

from jobs.artifacts import open_artifacts
from jobs.queue import Doorbell, make_app
from jobs.settings import Settings
from worker.runner import Runner
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


class FakeStore:
    """Gives a turn to who asks first, and notes sweeps."""

    def __init__(self):
        self.taken, self.sweeps, self.folds = set(), [], 0

    def ping(self):
        pass

    def take_turn(self, what, seconds):
        was_free = what not in self.taken
        self.taken.add(what)
        return was_free

    def sweep(self, *, only_due=False, silent=()):
        self.sweeps.append(only_due)
        return ()

    def fold_counts(self):
        self.folds += 1

    def make_use_of_room(self, free):
        return ()


def test_workers_sweep_in_turn_and_one_of_those_that_start_together_rings_for_all(tmp_path):
    store = FakeStore()
    settings = Settings(home=tmp_path, data_roots=(tmp_path,))
    doorbell, artifacts = Doorbell(make_app("memory://")), open_artifacts(settings.artifacts_url)
    runners = [Runner(store, artifacts, doorbell, settings, name) for name in ("ada", "bob", "cyd")]
    for runner in runners:
        runner.sweep()
    assert store.sweeps == [False, True, True], "each looks at once, one of them at everything"
    store.sweeps.clear()
    for runner in runners:
        runner.sweep()
    assert store.sweeps == [True]
    assert store.folds == 1, "and puts the counts together"
