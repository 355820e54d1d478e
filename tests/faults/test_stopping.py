"""Jobs that are paused or cancelled."""

import time

import pytest

from jobs.job import State

from .conftest import no_engine_runs, wait_until

pytestmark = pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)


def test_a_running_job_is_cancelled(service, plan):
    plan(epochs=500)
    job_id = service.submit()
    with service.running(job_id):
        service.store.submission.cancel_requested(job_id)
    assert service.job(job_id).state is State.CANCELLED
    assert no_engine_runs()


def test_a_paused_job_goes_on_from_its_checkpoint(service, plan):
    plan(epochs=500)
    job_id = service.submit()
    with service.running(job_id):
        service.store.submission.pause_requested(job_id)
    assert service.job(job_id).state is State.PAUSED
    assert no_engine_runs()
    done = service.epochs(job_id)[-1]
    plan(epochs=done + 2)
    service.store.submission.resume(job_id)
    service.runner().run(job_id)
    assert service.job(job_id).state is State.SUCCEEDED
    assert service.outcomes(job_id) == ["paused", "succeeded"]
    assert service.epochs(job_id) == list(range(1, done + 3))


def test_a_pause_that_is_taken_back_while_the_engine_stops_is_no_failure(service, plan):
    plan(epochs=5000, deaf=True)
    job_id = service.submit()
    control = service.settings.runs / job_id / "control.json"
    with service.running(job_id):
        service.store.submission.pause_requested(job_id)
        wait_until(lambda: "stop" in control.read_text())
        service.store.submission.resume(job_id)
    job = service.job(job_id)
    assert (job.state, job.attempts[0].outcome) == (State.QUEUED, "requeued")
    assert job.attempts[0].message == "what its engine was stopped for has passed"
    assert no_engine_runs()


def test_a_worker_that_shuts_down_gives_its_job_back_after_a_checkpoint(service, plan):
    plan(epochs=500)
    job_id = service.submit()
    with service.running(job_id) as runner:
        assert runner.stop_all()
    job = service.job(job_id)
    assert job.state is State.QUEUED
    assert job.attempts[0].message == "the worker is shutting down"
    checkpoint = service.settings.runs / job_id / "checkpoints" / "state.json"
    assert int(checkpoint.read_text()) == service.epochs(job_id)[-1]


def test_a_worker_that_shuts_down_takes_no_other_job(service, plan):
    plan(epochs=1)
    runner = service.runner()
    assert runner.stop_all()
    job_id = service.submit()
    runner.run(job_id)
    assert service.job(job_id).state is State.QUEUED


def test_a_job_whose_engine_does_not_listen_is_cancelled_all_the_same(service, plan):
    plan(epochs=5000, deaf=True, child=True)
    job_id = service.submit()
    with service.running(job_id):
        service.store.submission.cancel_requested(job_id)
        asked = time.monotonic()
    assert service.job(job_id).state is State.CANCELLED
    assert time.monotonic() - asked < 4 * service.settings.stop_seconds
    assert no_engine_runs()


@pytest.mark.parametrize("wanted", ["cancel", "pause"])
def test_a_job_that_ends_before_it_hears_of_the_request_has_ended(service, plan, wanted):
    plan(epochs=3, seconds=0.3, deaf=True)
    job_id = service.submit()
    with service.running(job_id):
        getattr(service.store.submission, f"{wanted}_requested")(job_id)
    assert service.job(job_id).state is State.SUCCEEDED
