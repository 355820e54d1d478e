"""The job queue over a real Redis, in memory, and without a broker."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import pytest
from kombu.simple import SimpleQueue

from jobs.job import QUEUES, queue_for, queues_heard
from jobs.queue import TASK, JobQueue, make_app
from jobs.store.store import Store

NOBODY = "redis://127.0.0.1:1/0"


@pytest.fixture
def ask(sqlite_url: str, asker: Any) -> Iterator[Any]:
    with closing(Store(sqlite_url)) as store:
        yield asker(store)


@pytest.fixture(params=["memory", "redis"])
def broker_url(request: pytest.FixtureRequest) -> str:
    return "memory://" if request.param == "memory" else str(request.getfixturevalue("redis_url"))


@pytest.fixture
def app(broker_url: str) -> Iterator[Any]:
    with closing(make_app(broker_url)) as app:
        with app.connection_for_write() as connection:
            for queue in QUEUES:
                app.amqp.queues[queue](connection.default_channel).declare()
                app.amqp.queues[queue](connection.default_channel).purge()
        yield app


def heard(app: Any, queue: str) -> list[dict[str, Any]]:
    """Return the messages in a queue, in the order in which a worker gets them."""
    with app.connection_for_read() as connection:
        waiting = SimpleQueue(connection, app.amqp.queues[queue], no_ack=True)
        messages = []
        try:
            while True:
                messages.append(waiting.get(timeout=0.2))
        except waiting.Empty:
            return messages
        finally:
            waiting.close()


@pytest.mark.parametrize("needed", range(9))
def test_a_job_is_heard_by_workers_with_enough_gpus_only(needed: int) -> None:
    hearing = [gpus for gpus in range(17) if queue_for(needed) in queues_heard(gpus)]
    assert min(hearing) >= needed
    assert hearing == list(range(min(hearing), 17))
    assert max(hearing) >= 8


@pytest.mark.parametrize(
    ("gpus", "queues"),
    [
        (0, ["cpu"]),
        (1, ["cpu", "gpu"]),
        (3, ["cpu", "gpu", "gpu2"]),
        (8, ["cpu", "gpu", "gpu2", "gpu4", "gpu8"]),
    ],
)
def test_a_worker_hears_what_it_can_run(gpus: int, queues: list[str]) -> None:
    assert queues_heard(gpus) == queues


def test_a_job_of_three_gpus_is_notified_of_in_the_queue_of_four(app: Any, ask: Any) -> None:
    job = ask.submit(resources={"gpus": 3})
    JobQueue(app).notify(job)
    (message,) = heard(app, "gpu4")
    assert message.payload[0] == [job.id]


def test_a_notification_carries_a_job_id_and_nothing_else(app: Any, ask: Any) -> None:
    job = ask.submit()
    assert JobQueue(app).notify(job) is True
    (message,) = heard(app, "cpu")
    arguments, keywords, _ = message.payload
    assert (message.headers["task"], arguments, keywords) == (TASK, [job.id], {})
    assert "cells" not in json.dumps(message.payload)


def test_a_job_notifications_where_its_kind_of_worker_listens(app: Any, ask: Any) -> None:
    job = ask.submit(resources={"gpus": 1})
    JobQueue(app).notify(job)
    assert heard(app, "cpu") == []
    assert len(heard(app, "gpu")) == 1


def test_urgent_jobs_are_heard_first(app: Any, ask: Any) -> None:
    jobs = [ask.submit(priority=priority) for priority in (0, 5, 9, 5)]
    for job in jobs:
        JobQueue(app).notify(job)
    order = [message.payload[0][0] for message in heard(app, "cpu")]
    assert order == [jobs[2].id, jobs[1].id, jobs[3].id, jobs[0].id]


def test_a_broker_that_is_away_costs_a_moment_and_a_line_in_the_log(
    ask: Any, caplog: pytest.LogCaptureFixture
) -> None:
    job = ask.submit()
    started = time.monotonic()
    with closing(make_app(NOBODY)) as app, caplog.at_level(logging.WARNING):
        assert JobQueue(app).notify(job) is False
    assert time.monotonic() - started < 3
    assert f"could not notify workers of job {job.id}" in caplog.text


def test_a_ping_tells_whether_the_broker_answers(app: Any) -> None:
    JobQueue(app).ping()
    with (
        closing(make_app(NOBODY)) as nobody,
        pytest.raises(ConnectionError, match="the broker does not answer"),
    ):
        JobQueue(nobody).ping()


def test_workers_take_one_message_at_a_time_and_keep_no_results(app: Any, broker_url: str) -> None:
    on_redis = broker_url.startswith("redis")  # in memory Celery only warns that it cannot
    conf = app.conf
    assert (conf.worker_prefetch_multiplier, conf.worker_disable_prefetch) == (1, on_redis)
    assert (conf.task_acks_late, conf.result_backend, conf.broker_connection_max_retries) == (
        False,
        None,
        None,
    )
    assert (conf.task_serializer, conf.accept_content) == ("json", ["json"])
