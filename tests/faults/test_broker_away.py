"""A broker that hangs, or that answers with errors: jobs are accepted, workers wait, and both report it."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import redis

from jobs.job import State
from jobs.queue import JobQueue, make_app
from jobs.settings import Settings
from worker.tasks import WorkerThread

from ..api.conftest import Server, running, server  # noqa: F401 - pytest finds fixtures by their names here
from .conftest import RedisProcess, Service, wait_until

FOREVER_SECONDS = 60.0
"""Limit beyond which a call hangs: each wait for a broker ends after a second or two."""


@pytest.fixture
def broker(redis_process: RedisProcess) -> RedisProcess:
    """Return a running Redis."""
    redis_process.start()
    return redis_process


@pytest.fixture
def api(server: Server, tmp_path: Path, sqlite_url: str, draw: Any, broker: RedisProcess) -> Iterator[Any]:  # noqa: F811
    """Yield the API over a broker of its own."""
    draw(tmp_path / "data" / "discs")
    settings = Settings(home=tmp_path / "api", data_roots=(tmp_path / "data",), database_url=sqlite_url)
    yield from running(server, settings, broker_url=broker.url)


SPEC = {"kind": "train", "data": "discs", "train": {"epochs": 2, "image_size": 64}}


def ask(api: Any, path: str) -> int:
    """Post a spec and return the status."""
    return int(api.http.post(path, json=SPEC, timeout=FOREVER_SECONDS).status_code)


def test_a_broker_that_hangs_keeps_no_submission_and_no_validation(api, broker):
    api.submit(SPEC)  # a connection is there already
    broker.freeze()
    paths = ["/jobs"] * 16 + ["/jobs/validate"] * 4
    with ThreadPoolExecutor(len(paths)) as people:
        statuses = list(people.map(lambda path: ask(api, path), paths))
    assert statuses == [201] * 16 + [200] * 4
    assert len(api.jobs()) == 17


def test_nobody_waits_for_a_notification_longer_than_its_limit(api, monkeypatch):
    notified = threading.Event()
    monkeypatch.setattr(JobQueue, "notify", lambda *_: notified.wait(2 * FOREVER_SECONDS))
    try:
        assert ask(api, "/jobs") == 201
    finally:
        notified.set()


def test_readiness_names_a_broker_that_hangs_and_is_quick_about_it(api, broker):
    assert api.http.get("/readyz").status_code == 200
    broker.freeze()
    answer = api.http.get("/readyz", timeout=FOREVER_SECONDS)
    assert answer.status_code == 503
    parts = answer.json()["parts"]
    assert parts.pop("broker").startswith("not ready")
    assert set(parts.values()) == {"ready"}
    broker.thaw()
    wait_until(lambda: api.http.get("/readyz").status_code == 200)
    api.submit(SPEC)
    assert messages(broker) == 1


def messages(broker: RedisProcess) -> int:
    """Return the number of notifications that wait for a worker."""
    with closing(redis.Redis(port=broker.port)) as client:
        lists = [key for key in client.scan_iter() if client.type(key) == b"list"]
        return sum(client.llen(key) for key in lists)


def test_readiness_is_bounded_and_honest_whatever_part_hangs(api, monkeypatch):
    assert api.http.get("/readyz").status_code == 200
    goes_on = threading.Event()
    monkeypatch.setattr(api.artifacts, "ping", lambda: goes_on.wait(2 * FOREVER_SECONDS))
    try:
        for _ in range(3):
            answer = api.http.get("/readyz", timeout=FOREVER_SECONDS)
            assert answer.status_code == 503
            assert answer.json()["parts"]["artifacts"].startswith("not ready: no answer")
        looking = [thread for thread in threading.enumerate() if thread.name == "look at artifacts"]
        assert len(looking) == 1
    finally:
        goes_on.set()
    wait_until(lambda: api.http.get("/readyz").status_code == 200)


def patient(service: Service) -> Settings:
    """Return settings with a lease that lasts on a busy machine, and ends before the job does."""
    return service.settings.model_copy(update={"lease_seconds": 6.0})


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_jobs_run_on_while_the_broker_hangs_and_lost_notifications_are_made_good(
    service, plan, broker, monkeypatch
):
    monkeypatch.setattr("jobs.store.new_job.NOTIFY_AGAIN_SECONDS", 0.5)
    plan(epochs=24, seconds=0.3)
    with closing(make_app(broker.url)) as app, WorkerThread(patient(service), app) as worker:
        running = service.submit()
        JobQueue(app).notify(service.job(running))
        wait_until(lambda: service.job(running).progress)
        broker.freeze()
        later = service.submit()
        assert not JobQueue(app).notify(service.job(later))
        wait_until(lambda: service.job(running).state is State.SUCCEEDED)  # longer than a lease
        assert service.outcomes(running) == ["succeeded"]
        assert worker.is_listening()
        broker.thaw()
        wait_until(lambda: service.job(later).state is State.SUCCEEDED)


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_a_worker_ends_promptly_although_the_broker_hangs(service, broker):
    with closing(make_app(broker.url)) as app:
        with WorkerThread(patient(service), app):
            time.sleep(0.5)
            broker.freeze()
            time.sleep(0.5)
            asked = time.monotonic()
        assert time.monotonic() - asked < FOREVER_SECONDS


def out_of_memory(broker: RedisProcess) -> None:
    broker.configure(maxmemory_policy="noeviction", maxmemory=1)


def enough_memory(broker: RedisProcess) -> None:
    broker.configure(maxmemory=0)


def replica(broker: RedisProcess) -> None:
    broker.configure(replica_read_only="yes")
    command(broker, "REPLICAOF", "127.0.0.1", "1")


def master(broker: RedisProcess) -> None:
    command(broker, "REPLICAOF", "NO", "ONE")


def no_replica(broker: RedisProcess) -> None:
    broker.configure(min_replicas_to_write=1)


def no_replica_needed(broker: RedisProcess) -> None:
    broker.configure(min_replicas_to_write=0)


def command(broker: RedisProcess, *words: str) -> None:
    with closing(redis.Redis(port=broker.port)) as client:
        client.execute_command(*words)


TROUBLES = {
    "out of memory": (out_of_memory, enough_memory, "OOM|maxmemory"),
    "a read-only replica": (replica, master, "(?i)read.?only|replica"),
    "too few replicas": (no_replica, no_replica_needed, "(?i)replicas"),
}


@pytest.fixture(params=TROUBLES)
def trouble(request: pytest.FixtureRequest) -> Any:
    """Return how to make a Redis answer with errors, how to end that, and its error text."""
    return TROUBLES[request.param]


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
class TestABrokerThatAnswersWithErrors:
    def test_a_worker_waits_says_so_and_goes_on(self, service, plan, broker, trouble, caplog, monkeypatch):
        begin, end, _ = trouble
        monkeypatch.setattr("jobs.store.new_job.NOTIFY_AGAIN_SECONDS", 0.5)
        plan(epochs=8, seconds=0.2)
        with closing(make_app(broker.url)) as app, WorkerThread(patient(service), app) as worker:
            running = service.submit()
            JobQueue(app).notify(service.job(running))
            wait_until(lambda: service.job(running).progress)
            JobQueue(app).notify(service.job(service.submit()))  # waits in the queue when the errors begin
            begin(broker)
            waiting = service.submit()
            wait_until(lambda: service.job(running).state is State.SUCCEEDED)
            wait_until(lambda: "the broker refuses to work" in caplog.text)
            assert worker.is_listening()
            end(broker)
            wait_until(lambda: service.job(waiting).state is State.SUCCEEDED)
        assert service.outcomes(running) == service.outcomes(waiting) == ["succeeded"]

    def test_a_worker_can_start_meanwhile(self, service, plan, broker, trouble, caplog):
        begin, end, _ = trouble
        plan(epochs=1)
        begin(broker)
        job_id = service.submit()
        with closing(make_app(broker.url)) as app, WorkerThread(patient(service), app) as worker:
            wait_until(lambda: "the broker refuses to work" in caplog.text)
            time.sleep(1.0)
            assert worker.is_listening()
            assert len([each for each in caplog.records if "refuses" in each.getMessage()]) < 10
            end(broker)
            wait_until(lambda: service.job(job_id).state is State.SUCCEEDED)


def test_meanwhile_jobs_are_taken_in_and_readiness_says_what_is_wrong(api, broker, trouble, caplog):
    begin, end, _ = trouble
    begin(broker)
    with caplog.at_level(logging.WARNING):
        assert api.submit(SPEC)["state"] == "queued"
    assert "could not notify workers of job" in caplog.text
    answer = api.http.get("/readyz")
    assert answer.status_code == 503
    assert answer.json()["parts"]["broker"].startswith("not ready")
    end(broker)
    wait_until(lambda: api.http.get("/readyz").status_code == 200)
    assert messages(broker) == 0
    api.submit(SPEC)
    assert messages(broker) == 1
