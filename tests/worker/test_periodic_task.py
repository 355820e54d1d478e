"""Tasks that a worker repeats, and how workers take turns at sweeps."""

import threading
import time
from itertools import pairwise

import pytest
from sqlalchemy import select, update

from jobs.artifacts import open_artifacts
from jobs.queue import JobQueue, make_app
from jobs.settings import Settings
from jobs.store.database import now
from jobs.store.tables import turns
from worker.periodic_task import PeriodicTask
from worker.runner import Runner


def wait_until(condition, seconds=5.0):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it should have come to this by now"
        time.sleep(0.005)


def test_it_acts_at_once_and_again_and_again():
    times = []
    with PeriodicTask(lambda: times.append(time.monotonic()), 0.05):
        wait_until(lambda: len(times) >= 3)
    assert min(later - earlier for earlier, later in pairwise(times)) >= 0.05


def test_one_that_fails_is_told_and_done_again(caplog):
    seen = []

    def sweep():
        seen.append(1)
        raise ConnectionError("the database is away")

    with PeriodicTask(sweep, 0.01):
        wait_until(lambda: len(seen) >= 3)
    assert "cannot sweep: the database is away" in caplog.text


def test_leaving_does_not_wait_for_the_next_time():
    started = time.monotonic()
    with PeriodicTask(lambda: None, 3600.0):
        pass
    assert time.monotonic() - started < 5


def test_leaving_does_not_wait_for_what_hangs(monkeypatch, caplog):
    monkeypatch.setattr("worker.periodic_task.ENDING_SECONDS", 0.05)
    begun, hangs = threading.Event(), threading.Event()

    def tidy():
        begun.set()
        hangs.wait(60)

    with PeriodicTask(tidy, 3600.0) as repeated:
        assert begun.wait(30)
    assert "cannot wait until the worker has done its tidy" in caplog.text
    hangs.set()
    repeated._thread.join(30)
    assert not repeated._thread.is_alive()


def test_it_can_be_hurried():
    times = []
    with PeriodicTask(lambda: times.append(1), 3600.0) as repeated:
        wait_until(lambda: len(times) == 1)
        repeated.hurry()
        wait_until(lambda: len(times) == 2)


class FakeStore:
    """Gives a turn to the first caller, and records sweeps."""

    def __init__(self):
        self.taken, self.sweeps, self.folds = set(), [], 0
        self.recovery = self.metrics = self.workers = self

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

    def waits_for_room(self, free):
        return False


@pytest.fixture
def start(tmp_path, monkeypatch):
    """Return a function that starts a worker, and returns whether its first sweep notified of all jobs in front."""
    settings = Settings(home=tmp_path, data_roots=(tmp_path,), free_bytes=0)
    job_queue, artifacts = JobQueue(make_app("memory://")), open_artifacts(settings.artifacts_url)

    def start(store, name):
        sweeps = []
        monkeypatch.setattr(
            store.recovery, "sweep", lambda *, only_due, silent=(): sweeps.append(not only_due) or ()
        )
        Runner(store, artifacts, job_queue, settings, name).sweep()
        [rang_for_all] = sweeps
        return rang_for_all

    return start


def clock(store):
    with store.database.read() as connection:
        return connection.scalar(select(now()))


def test_of_workers_that_start_within_five_seconds_one_notifies_of_all(store, start):
    before = clock(store)
    assert start(store, "ada")
    assert not start(store, "bob")
    with store.database.write() as connection:
        until = connection.scalar(select(turns.c.taken_until).where(turns.c.what == "first sweep"))
        assert before + 5.0 <= until <= clock(store) + 5.0
        connection.execute(update(turns).values(taken_until=now()))  # they are over
    assert start(store, "cyd"), (
        "its notifications may be needed: others that notification for all are long done"
    )
    assert not start(store, "dan")


def test_workers_sweep_in_turn_and_one_of_those_that_start_together_notifies_of_all(tmp_path):
    store = FakeStore()
    settings = Settings(home=tmp_path, data_roots=(tmp_path,))
    job_queue, artifacts = JobQueue(make_app("memory://")), open_artifacts(settings.artifacts_url)
    runners = [Runner(store, artifacts, job_queue, settings, name) for name in ("ada", "bob", "cyd")]
    for runner in runners:
        runner.sweep()
    assert store.sweeps == [False, True, True], "each looks at once, one of them at everything"
    store.sweeps.clear()
    for runner in runners:
        runner.sweep()
    assert store.sweeps == [True]
    assert store.folds == 1, "and puts the counts together"
