"""Notifications that come once, come twice, or are lost; a whole worker, over a real Redis and in one process."""

import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import closing

import pytest
import redis

from gkd_core.run_dir import RunDir
from jobs.job import State
from jobs.presence import WorkerState
from jobs.queue import JobQueue, make_app
from worker.home import HomeInUse
from worker.slots import take_slot
from worker.tasks import WorkerThread

from .conftest import ROOT, wait_until


@pytest.fixture(params=["memory", "redis"])
def either_app(request):
    url = "memory://" if request.param == "memory" else request.getfixturevalue("redis_url")
    with closing(make_app(url)) as app:
        yield app


@pytest.fixture
def app(redis_url):
    with closing(make_app(redis_url)) as app:
        yield app


def in_state(service, job_id, *states):
    return lambda: service.job(job_id).state in states


def no_more_sweeps(service):
    """Switch sweeps off after the one at the start, so that later claims are due to notifications."""
    return service.settings.model_copy(update={"sweep_seconds": 3600.0})


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
class TestOnSqlite:
    def test_a_notification_runs_the_job(self, service, plan, either_app):
        app = either_app
        plan(epochs=1)
        with WorkerThread(no_more_sweeps(service), app):
            job_id = service.submit()
            assert JobQueue(app).notify(service.job(job_id))
            wait_until(in_state(service, job_id, State.SUCCEEDED))

    def test_a_doubled_notification_is_harmless(self, service, plan, app):
        plan(epochs=1)
        with WorkerThread(no_more_sweeps(service), app):
            job_ids = [service.submit(), service.submit()]
            for job_id in job_ids * 3:
                JobQueue(app).notify(service.job(job_id))
            for job_id in job_ids:
                wait_until(in_state(service, job_id, State.SUCCEEDED))
        assert [service.outcomes(job_id) for job_id in job_ids] == [["succeeded"], ["succeeded"]]

    def test_a_job_for_which_nobody_rang_is_found_by_the_sweep_at_the_start(self, service, plan, app):
        plan(epochs=1)
        job_id = service.submit()
        with WorkerThread(no_more_sweeps(service), app):
            wait_until(in_state(service, job_id, State.SUCCEEDED))

    def test_a_worker_that_ends_gives_its_job_back_and_the_next_one_finishes_it(
        self, service, plan, either_app
    ):
        app = either_app
        plan(epochs=500)
        job_id = service.submit()
        JobQueue(app).notify(service.job(job_id))
        with WorkerThread(no_more_sweeps(service), app):
            wait_until(lambda: service.job(job_id).progress)
        assert service.job(job_id).state is State.QUEUED
        plan(epochs=service.epochs(job_id)[-1] + 1)
        with WorkerThread(no_more_sweeps(service), app):
            wait_until(in_state(service, job_id, State.SUCCEEDED))
        assert service.outcomes(job_id) == ["requeued", "succeeded"]

    def test_a_job_that_waits_starts_when_the_other_has_succeeded(self, service, plan, app):
        plan(epochs=1)
        first = service.submit()
        second = service.submit(waits_for=first)
        with WorkerThread(no_more_sweeps(service), app):
            wait_until(in_state(service, second, State.SUCCEEDED))
        assert service.job(second).started_at >= service.job(first).finished_at

    def test_an_idle_worker_ends_within_a_second_or_so(self, service, either_app):
        worker = WorkerThread(no_more_sweeps(service), either_app)
        with worker:
            time.sleep(0.5)  # it is listening now
            asked = time.monotonic()
        assert time.monotonic() - asked < 1.5

    def test_a_home_has_one_worker_of_its_own(self, service, app):
        with (
            WorkerThread(service.settings, app),
            pytest.raises(HomeInUse, match=rf"process {os.getpid()}"),
            WorkerThread(service.settings, app),
        ):
            pass

    def test_what_an_earlier_worker_of_this_home_held_is_taken_back_at_once(self, service, plan, app):
        plan(epochs=1)
        job_id = service.submit()
        settings = service.settings.model_copy(update={"lease_seconds": 3600.0})
        worker = WorkerThread(settings, app)
        service.store.commands.claim(job_id, worker.name)
        with worker:
            assert service.job(job_id).state is State.QUEUED
        assert service.outcomes(job_id)[0] == "lost"

    def test_a_worker_tidies_when_it_starts(self, service, app):
        job_id = service.submit()
        service.store.submission.cancel_requested(job_id)
        run_dir = RunDir(service.settings.runs / job_id)
        run_dir.checkpoints.mkdir(parents=True)
        (run_dir.checkpoints / "model-000000001.pt").touch()
        with WorkerThread(no_more_sweeps(service), app):
            wait_until(lambda: not any(run_dir.checkpoints.iterdir()))

    def test_gpu_jobs_are_for_workers_with_gpus_and_go_first_there(self, service, app):
        def queues(**settings):
            return WorkerThread(service.settings.model_copy(update=settings), app).queues

        assert queues(gpus=0) == ["cpu"]
        assert queues(gpus=1) == ["gpu", "cpu"]
        assert queues(gpus=("2", "3", "5")) == ["gpu2", "gpu", "cpu"]
        assert queues(gpus=1, queues=("gpu",)) == ["gpu"]

    def test_a_worker_is_seen_while_it_lives_with_what_it_runs(self, service, plan, app):
        plan(epochs=500)
        with WorkerThread(no_more_sweeps(service), app) as worker:
            wait_until(lambda: service.store.workers.list_workers())
            [seen] = service.store.workers.list_workers()
            assert (seen.name, seen.state, seen.queues) == (worker.name, WorkerState.IDLE, ("cpu",))
            job_id = service.submit()
            JobQueue(app).notify(service.job(job_id))
            wait_until(lambda: service.store.workers.list_workers()[0].job_id == job_id)
        assert service.store.workers.list_workers() == ()

    def test_a_worker_that_ends_is_seen_draining_until_its_job_is_saved(self, service, plan, app):
        plan(epochs=500, deaf=True)
        job_id = service.submit()
        seen = []
        with WorkerThread(no_more_sweeps(service), app):
            wait_until(lambda: service.job(job_id).progress)
            looking = threading.Thread(target=lambda: seen.extend(draining(service)))
            looking.start()
        looking.join()
        assert [each.job_id for each in seen] == [job_id]

    def test_what_a_killed_worker_of_this_place_held_is_taken_back_at_once(self, service, plan, app):
        plan(epochs=1)
        job_id = service.submit()
        settings = service.settings.model_copy(update={"lease_seconds": 3600.0})
        with take_slot(settings.home) as dead:
            service.store.commands.claim(job_id, dead.name)
            kept = (settings.home / "workers").glob("*")
            left = {path: path.read_text() for path in kept}
        for path, text in left.items():  # as after SIGKILL
            path.write_text(text)
        with take_slot(settings.home) as slot, WorkerThread(no_more_sweeps(service), app, slot=slot):
            wait_until(in_state(service, job_id, State.SUCCEEDED))
        assert service.outcomes(job_id) == ["lost", "succeeded"]

    def test_a_worker_whose_loop_stands_still_says_so(self, service, app, monkeypatch):
        monkeypatch.setattr("worker.tasks._ASK_SECONDS", 1.5)
        monkeypatch.setattr("worker.tasks._STUCK_SECONDS", 3.0)
        with WorkerThread(no_more_sweeps(service), app) as worker:
            for _ in range(10):
                time.sleep(0.3)
                assert worker.is_listening()
            go_on = threading.Event()
            worker._listening._controller.timer.call_after(0, go_on.wait, (30,))
            try:
                wait_until(lambda: not worker.is_listening())
            finally:
                go_on.set()


def draining(service):
    """Return the worker's row, once it says that it takes no more jobs."""
    deadline = time.monotonic() + 15
    while time.monotonic() < deadline:
        if found := [
            each for each in service.store.workers.list_workers() if each.state is WorkerState.DRAINING
        ]:
            return found
        time.sleep(0.02)
    return []


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_a_redis_that_goes_and_comes_back_ends_no_job_and_is_listened_to_again(service, plan, redis_process):
    url = redis_process.url
    redis_process.start()
    plan(epochs=6, seconds=0.2)
    with closing(make_app(url)) as app, WorkerThread(no_more_sweeps(service), app) as worker:
        running = service.submit()
        JobQueue(app).notify(service.job(running))
        wait_until(lambda: service.job(running).progress)
        redis_process.kill()
        assert not JobQueue(app).notify(service.job(running))
        wait_until(in_state(service, running, State.SUCCEEDED))
        redis_process.start()
        later = service.submit()
        wait_until(lambda: JobQueue(app).notify(service.job(later)))
        wait_until(in_state(service, later, State.SUCCEEDED), seconds=30)
        assert worker.is_listening()
    assert service.outcomes(running) == ["succeeded"]


@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
def test_a_notification_that_redis_lost_costs_a_delay(service, plan, app, redis_url, monkeypatch):
    monkeypatch.setattr("jobs.store.new_job.NOTIFY_AGAIN_SECONDS", 0.5)
    plan(epochs=1)
    with closing(redis.Redis.from_url(redis_url)) as client, WorkerThread(service.settings, app):
        job_id = service.submit()  # its notification is lost, too
        client.flushdb()
        wait_until(in_state(service, job_id, State.SUCCEEDED))


@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
def test_notifications_that_redis_lost_long_after_they_were_sent_cost_one_sweep(
    service, plan, app, redis_url
):
    plan(epochs=5, seconds=0.2)
    with closing(redis.Redis.from_url(redis_url)) as client, WorkerThread(service.settings, app):
        running = service.submit()
        wait_until(lambda: service.job(running).progress)
        waiting = service.submit()
        assert waiting in service.store.recovery.sweep()  # so that it is not due for a while
        client.flushall()
        wait_until(in_state(service, waiting, State.SUCCEEDED), seconds=12)


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_queues_without_a_notification_are_known(either_app, service):
    assert "cpu" in JobQueue(either_app).silent()
    JobQueue(either_app).notify(service.job(service.submit()))
    assert "cpu" not in JobQueue(either_app).silent()
    assert "gpu" in JobQueue(either_app).silent()


WORK = "from jobs.settings import Settings; from worker.tasks import work; work(Settings())"


@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_sigterm_and_ctrl_c_save_the_job_and_give_it_back(service, plan, app, redis_url, number):
    plan(epochs=500)
    job_id = service.submit()
    env = os.environ | service.environment() | {"GKD_BROKER_URL": redis_url}
    JobQueue(app).notify(service.job(job_id))
    with subprocess.Popen([sys.executable, "-c", WORK], env=env, cwd=ROOT) as worker:
        try:
            wait_until(lambda: service.job(job_id).progress)
            worker.send_signal(number)
            assert worker.wait(15) == 0
        finally:
            worker.kill()
    assert service.job(job_id).state is State.QUEUED
    assert service.outcomes(job_id) == ["requeued"]
    assert service.epochs(job_id)
