"""What workers do with the store: claim, renew, record, and the ends of an attempt.

Every write but a claim names a ticket. Where the ticket no longer holds, `StaleTicket` is raised and nothing was
written.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

from sqlalchemy import Connection, delete, func, insert, select, update

from gkd_core.errors import Failure
from gkd_core.events import Evaluation, Event, Progress, Report
from jobs.errors import StaleTicket
from jobs.job import Artifact, Desired, Job, State, Ticket
from jobs.metrics import QUEUE_SECONDS, STALE_WRITES
from jobs.store.attempts import BrokenOff, cancel, end, fail, give_back, hold, was_taken_back, write
from jobs.store.counters import tally
from jobs.store.database import now
from jobs.store.queue_reasons import is_ready
from jobs.store.quotas import has_share, lock_share, next_in_share
from jobs.store.reading import Reading, read_job
from jobs.store.tables import artifacts, attempts, jobs, waits
from jobs.store.transitions import is_in, is_job, move, write_event

_PAUSED = "paused on request"


class Claim(NamedTuple):
    """A job that is now the worker's."""

    ticket: Ticket
    job: Job
    offset: int
    """Bytes of events.jsonl that are already recorded."""
    tenant: str
    """Whose it is."""


class WorkerCommands(Reading):
    """The verbs of workers."""

    lease_seconds: float
    max_attempts: int

    def claim(self, job_id: str, worker: str) -> Claim | None:
        """Take a queued job. Of many who try at once, one gets it.

        Args:
            job_id: The job that a worker was notified of.
            worker: Who asks; the same name after a restart may `release` what it held.

        Returns:
            None when there is nothing to do: the job is not there or not queued, waits for another one, or its
            tenant has its share running.
        """
        with self.database.write() as connection:
            lock_share(connection, job_id)
            row = move(
                connection,
                State.RUNNING,
                is_job(job_id),
                is_ready(),
                has_share(),
                reason=f"running on {worker}",
                attempt=jobs.c.attempt + 1,
                desired=Desired.RUN.value,
                saved=False,
                worker=worker,
                lease_until=now() + self.lease_seconds,
                started_at=func.coalesce(jobs.c.started_at, now()),
            )
            if row is None:
                return None
            begun = {"job_id": job_id, "attempt": row.attempt, "worker": worker, "started_at": now()}
            begins = insert(attempts).values(begun).returning(attempts.c.started_at)
            waited = connection.scalars(begins).one() - row.queued_at
            tally(connection, QUEUE_SECONDS, row.queue, size=waited)
            job = read_job(connection, job_id)
            return Claim(Ticket(job_id, row.attempt), job, row.event_offset, row.tenant)

    @contextmanager
    def _under_ticket(self, verb: str) -> Iterator[Connection]:
        """A transaction that writes; one that is refused because the job was taken back only counts that.

        A lease may be renewed once more at the moment when its holder ends the attempt: that is no news. Every verb
        looks at its ticket before it writes anything, so there is nothing to undo. A transaction of its own for the
        count could wait for others, and with it whoever ends an engine for the stale ticket.
        """
        stale: StaleTicket | None = None
        with self.database.write() as connection:
            try:
                yield connection
            except StaleTicket as error:
                if was_taken_back(connection, error.ticket):
                    tally(connection, STALE_WRITES, verb)
                stale = error
        if stale is not None:
            raise stale

    def next_of_tenant(self, job_id: str) -> tuple[str, ...]:
        """Jobs of the same tenant that may run now that this one does not any more, where the tenant has a share.

        Returns:
            Ids, of each queue as many as there is room for, first in line first: notify workers of them. Empty for a
            tenant without a share: its jobs were never held back.
        """
        with self.database.read() as connection:
            return next_in_share(connection, job_id, is_ready())

    def renew(self, ticket: Ticket) -> Desired:
        """Give a sign of life: the lease runs for its full time again.

        Returns:
            What is wanted of the job.

        Raises:
            StaleTicket: the job is somebody else's, or has ended.
        """
        with self._under_ticket("renew") as connection:
            row = write(connection, ticket, {"lease_until": now() + self.lease_seconds})
            return Desired(row.desired)

    def record(self, ticket: Ticket, event: Event, offset: int, artifact: Artifact | None = None) -> Desired:
        """Keep an event, what it says about the job, and the file that it publishes, all or nothing.

        The offset goes with it, so that after a crash the next attempt reads on exactly where this one ended.
        Recording an event again right after it was recorded (because the answer got lost) does nothing.

        Args:
            ticket: The claim.
            event: What the engine wrote.
            offset: Bytes of events.jsonl up to the end of the event.
            artifact: The file that it names, once it lies among the artifacts.

        Returns:
            What is wanted of the job.

        Raises:
            StaleTicket: the job is somebody else's, or has ended.
        """
        body = json.loads(event.model_dump_json())  # NaN, which JSON does not know, becomes null
        with self._under_ticket("record") as connection:
            row = hold(connection, ticket)
            if row.event_offset == offset:
                return Desired(row.desired)
            counted = {"event_count": jobs.c.event_count + 1, "event_offset": offset}
            row = write(connection, ticket, counted | _learnt(event, body))
            write_event(connection, row, event.kind, body)
            if artifact is not None:
                _publish(connection, ticket.job_id, artifact)
            return Desired(row.desired)

    def succeed(self, ticket: Ticket) -> tuple[str, ...]:
        """End a job well.

        Returns:
            Ids of the jobs that waited for it and are ready now: notify workers of them.

        Raises:
            StaleTicket: the job is somebody else's, or has ended.
        """
        waiting = select(waits.c.job_id).where(waits.c.waits_for == ticket.job_id)
        with self._under_ticket("succeed") as connection:
            end(connection, ticket, State.SUCCEEDED, "succeeded")
            ready = select(jobs.c.id).where(jobs.c.id.in_(waiting), is_in(State.QUEUED), is_ready())
            return tuple(connection.scalars(ready.order_by(jobs.c.number)))

    def fail(self, ticket: Ticket, failure: Failure, log_tail: str = "") -> tuple[str, ...]:
        """End a job badly, and with it the jobs that wait for its model.

        Args:
            ticket: The claim.
            failure: What went wrong.
            log_tail: The end of the log, for those who cannot reach the run directory.

        Returns:
            Ids of the waiting jobs that failed with it.

        Raises:
            StaleTicket: the job is somebody else's, or has ended.
        """
        with self._under_ticket("fail") as connection:
            return fail(connection, ticket, failure, log_tail)

    def cancel(self, ticket: Ticket) -> None:
        """End a job that was asked to cancel, once its engine has stopped.

        Raises:
            StaleTicket: the job is somebody else's, or has ended.
        """
        with self._under_ticket("cancel") as connection:
            cancel(connection, ticket)

    def pause(
        self, ticket: Ticket, *, reason: str = _PAUSED, needs_free: int | None = None
    ) -> tuple[str, ...]:
        """Put a job aside, once its engine has stopped. What somebody asked for meanwhile counts more.

        Args:
            ticket: The claim.
            reason: Why, in words.
            needs_free: Bytes: with so much space it goes on by itself (`make_use_of_room`). None: people asked for
                this, and resume it.

        Returns:
            Ids of jobs to notify workers of: this one, where the request to pause was taken back while its engine
            stopped.

        Raises:
            StaleTicket: the job is somebody else's, or has ended.
        """
        with self._under_ticket("pause") as connection:
            row = hold(connection, ticket)
            if row.desired == Desired.CANCEL.value:
                cancel(connection, ticket)
                return ()
            if row.desired == Desired.RUN.value and needs_free is None:
                end(connection, ticket, State.QUEUED, "no longer asked to pause", outcome="requeued")
                return (ticket.job_id,)
            if row.desired == Desired.PAUSE.value:
                reason, needs_free = _PAUSED, None
            end(connection, ticket, State.PAUSED, reason, outcome="paused", needs_free=needs_free)
            return ()

    def hold_back(self, job_id: str, reason: str, *, needs_free: int) -> bool:
        """Say of a queued job why a worker that could run it does not; forgotten once there is so much space.

        Returns:
            Whether it is queued.
        """
        values = {"reason": reason, "needs_free": needs_free}
        told = update(jobs).where(is_job(job_id), is_in(State.QUEUED)).values(values)
        with self.database.write() as connection:
            return connection.execute(told).rowcount == 1

    def requeue(
        self,
        ticket: Ticket,
        reason: str,
        *,
        failure: Failure | None = None,
        config: dict[str, Any] | None = None,
        log_tail: str = "",
    ) -> State:
        """Give a job back unfinished. A request to cancel or pause that is still open is carried out instead.

        Args:
            ticket: The claim.
            reason: Why, in words.
            failure: What broke the attempt off. One of infrastructure counts: after `max_attempts` attempts in a
                row that broke off and saved nothing, the job fails with it.
            config: The engine's config from now on; None leaves it as it is.
            log_tail: The end of the log, kept if the job fails.

        Returns:
            Where the job is now.

        Raises:
            StaleTicket: the job is somebody else's, or has ended.
        """
        attempt = BrokenOff("requeued", reason, failure, log_tail)
        with self._under_ticket("requeue") as connection:
            row = hold(connection, ticket)
            if config is not None:
                write(connection, ticket, {"resolved": config})
            return give_back(connection, row, attempt, self.max_attempts)


def _learnt(event: Event, body: dict[str, Any]) -> dict[str, Any]:
    """What an event says about the job as a whole."""
    if isinstance(event, Progress):
        return {"progress": body} | ({"saved": True, "fruitless": 0} if event.saved else {})
    if isinstance(event, Evaluation):
        return {"evaluation": body}
    return {"report": body} if isinstance(event, Report) else {}


def _publish(connection: Connection, job_id: str, artifact: Artifact) -> None:
    """A name stands for the newest file: the best checkpoint so far replaces the one before."""
    connection.execute(
        delete(artifacts).where(artifacts.c.job_id == job_id, artifacts.c.name == artifact.name)
    )
    values = artifact.model_dump(include={"name", "size", "sha256"})
    metrics = {name: value for name, value in artifact.metrics.items() if math.isfinite(value)}
    connection.execute(insert(artifacts).values(job_id=job_id, created_at=now(), metrics=metrics, **values))
