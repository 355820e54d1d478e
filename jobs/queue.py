"""The job queue: Celery queues that carry job ids and nothing else.

A notification may be lost or duplicated. If it is lost, the next sweep sends another one; if it is duplicated,
the second claim fails.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from queue import PriorityQueue
from typing import Any

from celery import Celery
from kombu.transport import memory

from jobs.job import QUEUES, Job, Notification

log = logging.getLogger(__name__)

TASK = "gkd.run_job"
"""Name of the only task; its argument is a job id. The task is sent by name, so that senders need not import
the worker."""

_BROKER_SECONDS = 2.0
"""Timeout for connecting to a broker and for each of its answers: the job is safe in the database, the
sender need not wait. Listening for notifications is not limited by it."""

_FIRST = "cpu"
"""The queue of jobs that need no GPU."""

_LOOK_UP_SECONDS = 0.2
"""Polling interval of a worker in the same process; Celery would wait for 2 s."""


def make_app(broker_url: str) -> Celery:
    """Return the Celery app, for senders and workers.

    Args:
        broker_url: `redis://...`, or `memory://` within one process.
    """
    in_memory = broker_url.startswith("memory")
    app = Celery("gkd", broker=broker_url, set_as_current=False)
    app.conf.update(
        task_serializer="json",
        accept_content=["json"],
        result_backend=None,
        task_ignore_result=True,
        task_acks_late=False,  # the store knows what runs; a late acknowledgement would only deliver twice
        worker_prefetch_multiplier=1,
        worker_disable_prefetch=not in_memory,  # a job that waits behind a long one is free for other workers
        # Applies to late acknowledgement only; but without it a worker warns at each lost connection.
        worker_cancel_long_running_tasks_on_connection_loss=True,
        broker_connection_retry_on_startup=True,
        broker_connection_max_retries=None,
        broker_channel_error_retry=True,  # an error from the broker ends no worker, as an outage does not
        worker_enable_remote_control=False,  # workers are not controlled through the broker
        task_queues={name: {} for name in QUEUES},
        task_default_queue=_FIRST,
        task_create_missing_queues=False,
        broker_transport="jobs.queue:OrderedMemory" if in_memory else None,
        broker_transport_options=_IN_MEMORY if in_memory else _ON_REDIS,
    )
    return app


_IN_MEMORY = {
    "polling_interval": 0.1
}  # seconds until a notification within the process is received; 1 by default
_ON_REDIS = {
    "priority_steps": list(range(10)),
    "queue_order_strategy": "priority",
    "socket_connect_timeout": _BROKER_SECONDS,
    "socket_timeout": _BROKER_SECONDS,
    "socket_keepalive": True,
    "max_retries": 1,  # of a sender; workers retry for ever
    "interval_start": 0.1,
}


class _OrderedChannel(memory.Channel):
    """An in-memory channel with priorities, which Kombu's own lacks.

    0 goes first, as on Redis, equals in order of arrival.
    """

    queues: dict[str, PriorityQueue[Any]] = {}  # noqa: RUF012 - shared by all channels, as in Kombu's own
    _arrivals = count()

    def _new_queue(self, queue: str, **kwargs: Any) -> None:
        self._queue_for(queue)

    def _queue_for(self, queue: str) -> PriorityQueue[Any]:
        return self.queues.setdefault(queue, PriorityQueue())

    def _put(self, queue: str, message: Any, **kwargs: Any) -> None:
        priority = message["properties"].get("priority") or 0
        self._queue_for(queue).put((priority, next(self._arrivals), message))

    def _get(self, queue: str, timeout: float | None = None) -> Any:
        return self._queue_for(queue).get(block=False)[-1]


class OrderedMemory(memory.Transport):
    """`memory://` with priorities."""

    Channel = _OrderedChannel

    def drain_events(self, connection: Any, timeout: float | None = None, **_: Any) -> None:
        """Wait for a notification for a short time: between two waits a worker checks whether it is to stop."""
        stretch = None if timeout is None else min(timeout, _LOOK_UP_SECONDS)
        super().drain_events(connection, timeout=stretch)  # type: ignore[no-untyped-call]


class BrokerRefuses(ConnectionError):
    """The broker answers with an error: it is out of memory, a read-only replica, or still loading its data."""

    def __init__(self, cause: Exception) -> None:
        self.message = f"the broker answers with an error: {cause}"
        super().__init__(self.message)


class JobQueue:
    """The job queue, which notifies workers of jobs.

    Args:
        app: Of `make_app`.
    """

    def __init__(self, app: Celery) -> None:
        self.app = app

    def notify(self, job: Job | Notification) -> bool:
        """Notify the workers of a job. Never raises: the job is in the store already.

        Returns:
            False if the broker is unavailable; a sweep notifies again later.
        """
        try:
            self.app.send_task(
                TASK,
                args=[job.id],
                queue=job.queue,
                priority=9 - job.priority,
                retry=False,
                ignore_result=True,
            )
        except Exception as error:  # the errors of brokers have no common base class
            log.warning("could not notify workers of job %s: %s; a sweep will", job.id, error)
            return False
        return True

    def silent(self) -> tuple[str, ...]:
        """Return the queues in which no notification waits: each was received, or lost.

        Empty if the broker is unavailable.
        """
        try:
            with self._channel() as channel:
                return tuple(name for name in QUEUES if not channel.queue_declare(queue=name).message_count)
        except Exception as error:  # as above
            log.debug("cannot look for notifications: %s", error)
            return ()

    def ping(self) -> None:
        """Check that the broker answers, and accepts what a notification writes.

        Raises:
            BrokerRefuses: It answers with an error.
            ConnectionError: It does not answer.
        """
        try:
            with self._channel() as channel:
                self.app.amqp.queues[_FIRST](
                    channel
                ).declare()  # as every notification does before it is sent
        except self._refusals() as error:
            raise BrokerRefuses(error) from error
        except Exception as error:  # as above
            raise ConnectionError(f"the broker does not answer: {error}") from error

    @contextmanager
    def _channel(self) -> Iterator[Any]:
        """Open a new connection: a pooled one may be from before the broker went away, and stay broken."""
        with self.app.connection_for_write(connect_timeout=_BROKER_SECONDS) as connection:
            connection.ensure_connection(max_retries=1, interval_start=0.1, timeout=_BROKER_SECONDS)
            yield connection.default_channel

    def _refusals(self) -> tuple[type[Exception], ...]:
        errors: tuple[type[Exception], ...] = self.app.connection_for_write().channel_errors
        return errors
