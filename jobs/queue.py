"""The doorbell: a Celery queue that carries job ids and nothing else.

A ring may be lost or doubled. Lost, the next sweep rings again; doubled, the second claim finds nothing to do.
"""

from __future__ import annotations

import logging
from typing import Any

from celery import Celery

from jobs.job import Job

log = logging.getLogger(__name__)

TASK = "gkd.run_job"
"""Name of the one task; its argument is a job id. Known by name, so that who rings need not import workers."""

QUEUES = ("cpu", "gpu")
"""By what a worker must have."""

_BROKER_SECONDS = 2.0
"""Patience with a broker that is away: the job is safe in the database, the sender need not wait."""


def make_app(broker_url: str) -> Celery:
    """The Celery app, for those who ring and those who work.

    Args:
        broker_url: `redis://...`, or `memory://` within one process.
    """
    app = Celery("gkd", broker=broker_url, set_as_current=False)
    app.conf.update(
        task_serializer="json",
        accept_content=["json"],
        result_backend=None,
        task_ignore_result=True,
        task_acks_late=False,  # the store knows what runs; a late acknowledgement would only deliver twice
        worker_prefetch_multiplier=1,
        worker_disable_prefetch=True,  # a job that waits behind a long one is free for other workers
        broker_connection_retry_on_startup=True,
        broker_connection_max_retries=None,
        worker_enable_remote_control=False,  # nobody steers workers through the broker
        task_queues={name: {} for name in QUEUES},
        task_default_queue=QUEUES[0],
        task_create_missing_queues=False,
        broker_transport_options=_transport_options(broker_url),
    )
    return app


def _transport_options(broker_url: str) -> dict[str, Any]:
    if not broker_url.startswith(("redis", "rediss")):
        return {}
    return {
        "priority_steps": list(range(10)),
        "queue_order_strategy": "priority",
        "socket_connect_timeout": _BROKER_SECONDS,
        "socket_keepalive": True,
        "max_retries": 1,  # of a sender; workers go on trying for ever
        "interval_start": 0.1,
    }


class Doorbell:
    """Rings for jobs.

    Args:
        app: What `make_app` made.
    """

    def __init__(self, app: Celery) -> None:
        self.app = app

    def ring(self, job: Job) -> bool:
        """Tell the workers that a job is there. Never raises: the job is in the store already.

        Returns:
            False when the broker is away; a sweep rings again later.
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
        except Exception as error:  # what a broker can raise has no common root
            log.warning("could not ring for job %s: %s; a sweep will", job.id, error)
            return False
        return True

    def ping(self) -> None:
        """Find out whether the broker answers.

        Raises:
            ConnectionError: it does not.
        """
        try:
            with self.app.connection_for_write(connect_timeout=_BROKER_SECONDS) as connection:
                connection.ensure_connection(max_retries=1, interval_start=0.1, timeout=_BROKER_SECONDS)
        except Exception as error:  # as above
            raise ConnectionError(f"the broker does not answer: {error}") from error
