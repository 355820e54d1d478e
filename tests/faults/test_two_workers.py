"""Two worker processes on one Redis and one PostgreSQL."""

import os
import signal
import subprocess
import sys
import time
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path

import psutil
import pytest

from jobs.job import State
from jobs.presence import WorkerState
from jobs.queue import JobQueue, make_app

from .conftest import ROOT, wait_until

WORK = Path(__file__).with_name("work.py")
VISIBILITY_SECONDS = 5
LONG_SECONDS = 30.0
"""Redis redelivers messages that were not acknowledged in time; consumers ask for them every 10 s."""

pytestmark = pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)


@contextmanager
def a_worker(service, redis_url, **settings):
    env = os.environ | service.environment() | {"GKD_BROKER_URL": redis_url, "GKD_SWEEP_SECONDS": "600"}
    env |= {"GKD_GPUS": "0", **settings}
    process = subprocess.Popen([sys.executable, str(WORK), str(VISIBILITY_SECONDS)], env=env, cwd=ROOT)
    try:
        yield process
    finally:
        process.terminate()
        assert process.wait(30) in (0, -signal.SIGKILL)  # the latter where a test killed it


@pytest.fixture
def notify(service, redis_url):
    with closing(make_app(redis_url)) as app:
        yield lambda job_id: JobQueue(app).notify(service.job(job_id))


def test_a_job_longer_than_the_brokers_patience_runs_once_and_short_ones_do_not_wait_for_it(
    service, plan, redis_url, notify
):
    plan(as_asked=True, seconds=0.1)
    long = service.submit(epochs=int(LONG_SECONDS / 0.1))
    with ExitStack() as stack:
        for _ in range(2):
            stack.enter_context(a_worker(service, redis_url))
        wait_until(lambda: len(service.store.workers.list_workers()) == 2, 60)
        notify(long)
        wait_until(lambda: service.job(long).progress, 30)
        for _ in range(3):
            short = service.submit(epochs=1)
            notify(short)
            wait_until(lambda short=short: service.job(short).state is State.SUCCEEDED, 30)
            assert service.job(long).state is State.RUNNING
        wait_until(lambda: service.job(long).state is not State.RUNNING, 120)
    job = service.job(long)
    assert (job.state, service.outcomes(long)) == (State.SUCCEEDED, ["succeeded"])
    assert (job.finished_at - job.started_at).total_seconds() > max(10, VISIBILITY_SECONDS)
    assert service.epochs(long) == list(range(1, int(LONG_SECONDS / 0.1) + 1))


def test_a_worker_that_is_asked_to_end_gives_its_job_to_the_other_within_the_grace_time(
    service, plan, redis_url, notify
):
    plan(as_asked=True, seconds=0.1)
    job_id = service.submit(epochs=600)
    with a_worker(service, redis_url) as first:
        wait_until(lambda: service.job(job_id).progress, 60)
        with a_worker(service, redis_url):
            wait_until(lambda: len(service.store.workers.list_workers()) == 2, 60)
            done = service.job(job_id).progress["epoch"]
            asked = time.monotonic()
            first.send_signal(signal.SIGTERM)
            assert first.wait(30) == 0
            assert time.monotonic() - asked < 2 * service.settings.stop_seconds + 5
            wait_until(lambda: service.job(job_id).attempt == 2 and service.job(job_id).progress, 30)
            [left] = service.store.workers.list_workers()
            assert (left.state, left.job_id) == (WorkerState.BUSY, job_id)
            wait_until(lambda: service.job(job_id).progress["epoch"] > done + 1, 30)
            service.store.submission.cancel_requested(job_id)
            wait_until(lambda: service.job(job_id).state is State.CANCELLED, 30)
    assert service.outcomes(job_id) == ["requeued", "cancelled"]
    assert service.epochs(job_id) == sorted(set(service.epochs(job_id)))


def test_a_killed_workers_job_is_taken_back_when_it_starts_again_and_not_only_when_its_lease_ends(
    service, plan, redis_url
):
    plan(as_asked=True, seconds=0.1)
    job_id = service.submit(epochs=600)
    with a_worker(service, redis_url, GKD_LEASE_SECONDS="3600") as first:
        wait_until(lambda: service.job(job_id).progress, 60)
        first.kill()
    with a_worker(service, redis_url):
        wait_until(
            lambda: service.job(job_id).attempt == 2 and service.job(job_id).state is State.RUNNING, 30
        )
        assert len(service.store.workers.list_workers()) == 1
        service.store.submission.cancel_requested(job_id)
        wait_until(lambda: service.job(job_id).state is State.CANCELLED, 30)
    assert service.outcomes(job_id) == ["lost", "cancelled"]


def test_a_cancelled_jobs_process_is_gone_though_it_hears_nothing(service, plan, redis_url):
    plan(epochs=5000, deaf=True, child=True)
    job_id = service.submit()
    with a_worker(service, redis_url) as worker:
        wait_until(lambda: service.job(job_id).progress, 60)
        engines = psutil.Process(worker.pid).children(recursive=True)
        service.store.submission.cancel_requested(job_id)
        asked = time.monotonic()
        wait_until(lambda: service.job(job_id).state is State.CANCELLED, 30)
        most = 2 * service.settings.stop_seconds + service.settings.renew_seconds
        assert time.monotonic() - asked < most + 5
        assert not [each for each in engines if each.is_running() and each.status() != psutil.STATUS_ZOMBIE]
