"""Disks that fill up are noticed before they are full."""

import shutil
from collections import namedtuple

import pytest

from gkd_core.run_dir import RunDir
from jobs.job import State

from .conftest import no_engine_runs, wait_until

pytestmark = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)

Usage = namedtuple("Usage", "total used free")
NONE, PLENTY = 1_200_000_000, 10**12


@pytest.fixture
def free(monkeypatch):
    """Set how many bytes are free."""

    def set_free(size):
        monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(10**13, 0, size))

    return set_free


@pytest.fixture(autouse=True)
def _do_not_keep_notifications(monkeypatch):
    monkeypatch.setattr("worker.runner._NO_ROOM_SECONDS", 0.01)


def test_without_room_nothing_is_begun_and_the_job_says_why(service, plan, free):
    plan(epochs=1)
    free(NONE)
    job_id = service.submit()
    runner = service.runner()
    with service.begun(job_id, runner):
        wait_until(lambda: "1.2 GB free on" in service.job(job_id).reason)
        job = service.job(job_id)
        assert (job.state, job.attempts) == (State.QUEUED, ())
        assert "2.1 GB needed" in job.reason
        free(PLENTY)
    runner.sweep()
    assert "free on" not in service.job(job_id).reason
    runner.run(job_id)
    assert service.job(job_id).state is State.SUCCEEDED


def test_a_job_that_needs_more_room_than_others_does_not_keep_them(service, plan, free):
    plan(epochs=1)
    free(5_000_000_000)
    large, small = service.submit(), service.submit()
    run_dir = RunDir(service.settings.runs / large)
    run_dir.checkpoints.mkdir(parents=True)
    with (run_dir.checkpoints / "model-000000042.pt").open("wb") as file:
        file.truncate(3_000_000_000)  # a sparse file: it takes no block of the disk
    runner = service.runner()
    runner.run(large)
    assert "5.0 GB free on" in service.job(large).reason
    runner.run(small)
    assert service.outcomes(small) == ["succeeded"]


def test_a_running_job_is_paused_before_the_disk_is_full_and_goes_on_when_there_is_room(service, plan, free):
    plan(epochs=500)
    job_id = service.submit()
    with service.running(job_id) as runner:
        free(NONE)
        wait_until(lambda: service.job(job_id).state is State.PAUSED)
    job = service.job(job_id)
    assert job.reason.startswith("paused: 1.2 GB free on")
    assert no_engine_runs()
    runner.sweep()
    assert service.job(job_id).state is State.PAUSED
    done = service.epochs(job_id)[-1]
    plan(epochs=done + 1)
    free(PLENTY)
    runner.sweep()
    runner.run(job_id)
    assert service.job(job_id).state is State.SUCCEEDED
    assert service.outcomes(job_id) == ["paused", "succeeded"]
    assert service.epochs(job_id) == list(range(1, done + 2))


def test_a_disk_that_fills_between_two_looks_costs_no_attempt(service, plan, free, monkeypatch):
    plan(epochs=3, seconds=1.5, fail_for_room=2)
    job_id = service.submit()
    monkeypatch.setattr("worker.job_run.JobRun._check_disk_space", lambda self: None)
    with service.running(job_id):
        free(NONE)
    job = service.job(job_id)
    assert (job.state, service.outcomes(job_id)) == (State.PAUSED, ["paused"])
    assert job.reason.startswith("paused: 1.2 GB free on")


def test_a_cancel_that_comes_while_a_job_is_paused_for_room_counts(service, plan, free, monkeypatch):
    plan(epochs=500)
    job_id = service.submit()
    pause = service.store.commands.pause

    def be_late(ticket, **words):
        service.store.submission.cancel_requested(job_id)
        pause(ticket, **words)

    monkeypatch.setattr(service.store.commands, "pause", be_late)
    with service.running(job_id):
        free(NONE)
    assert service.job(job_id).state is State.CANCELLED
