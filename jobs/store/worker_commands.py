"""Commands of workers: claim, renew, record, and the ways to end an attempt.

Every write but a claim names a ticket. If the ticket is no longer valid, `StaleTicket` is raised and nothing
was written.
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
from jobs.store.database import Database, now
from jobs.store.leases import LeasePolicy
from jobs.store.queue_reasons import is_ready
from jobs.store.quotas import has_share, lock_share, next_in_share
from jobs.store.reading import read_job
from jobs.store.tables import artifacts, attempts, jobs, waits
from jobs.store.transitions import is_in, is_job, move, write_event

_PAUSED = "paused on request"


class Claim(NamedTuple):
    """A job that the worker has claimed."""

    ticket: Ticket
    job: Job
    offset: int
    """Bytes of events.jsonl that are already recorded."""
    tenant: str
    """Owner of the job."""


class WorkerCommands:
    """Methods of workers."""

    def __init__(self, database: Database, policy: LeasePolicy) -> None:
        self.database = database
        self.policy = policy

    def claim(self, job_id: str, worker: str) -> Claim | None:
        """Claim a queued job. Of several workers that try at once, one gets it.

        Args:
            job_id: The job that a worker was notified of.
            worker: Name of the worker; under the same name it may `release` its jobs after a restart.

        Returns:
            The claim; None if there is nothing to do: the job does not exist, is not queued, waits for another
            one, or its tenant has reached its limit of running jobs.
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
                lease_until=now() + self.policy.lease_seconds,
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
        """Open a transaction that writes; if it is refused because the job was taken back, only count that.

        A lease may be renewed once more at the moment when its holder ends the attempt; that is not counted.
        Every method checks its ticket before it writes anything, so there is nothing to undo. A separate
        transaction for the counter could block on others, and with it the code that stops an engine because of
        the stale ticket.
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
        """Return jobs of the same tenant that may start now that this one has ended.

        Returns:
            Ids, of each queue as many as may start, in queue order: notify workers of them. Empty for a tenant
            without a limit on running jobs: its jobs were never held back.
        """
        with self.database.read() as connection:
            return next_in_share(connection, job_id, is_ready())

    def renew(self, ticket: Ticket) -> Desired:
        """Renew the lease of a job to its full length.

        Returns:
            What is wanted of the job.

        Raises:
            StaleTicket: another worker has the job, or it has ended.
        """
        with self._under_ticket("renew") as connection:
            row = write(connection, ticket, {"lease_until": now() + self.policy.lease_seconds})
            return Desired(row.desired)

    def record(self, ticket: Ticket, event: Event, offset: int, artifact: Artifact | None = None) -> Desired:
        """Record an event, what it changes about the job, and the file that it publishes, atomically.

        The offset is written in the same transaction, so that after a crash the next attempt reads on exactly
        where this one ended. Recording an event again right after it was recorded (because the answer was lost)
        does nothing.

        Args:
            ticket: The claim.
            event: The event that the engine wrote.
            offset: Bytes of events.jsonl up to the end of the event.
            artifact: The file that it names, once it is stored as an artifact.

        Returns:
            What is wanted of the job.

        Raises:
            StaleTicket: another worker has the job, or it has ended.
        """
        body = json.loads(event.model_dump_json())  # NaN, which JSON does not allow, becomes null
        with self._under_ticket("record") as connection:
            row = hold(connection, ticket)
            if row.event_offset == offset:
                return Desired(row.desired)
            counted = {"event_count": jobs.c.event_count + 1, "event_offset": offset}
            row = write(connection, ticket, counted | _changed_columns(event, body))
            write_event(connection, row, event.kind, body)
            if artifact is not None:
                _publish(connection, ticket.job_id, artifact)
            return Desired(row.desired)

    def succeed(self, ticket: Ticket) -> tuple[str, ...]:
        """End a job as succeeded.

        Returns:
            Ids of the jobs that waited for it and are ready now: notify workers of them.

        Raises:
            StaleTicket: another worker has the job, or it has ended.
        """
        waiting = select(waits.c.job_id).where(waits.c.waits_for == ticket.job_id)
        with self._under_ticket("succeed") as connection:
            end(connection, ticket, State.SUCCEEDED, "succeeded")
            ready = select(jobs.c.id).where(jobs.c.id.in_(waiting), is_in(State.QUEUED), is_ready())
            return tuple(connection.scalars(ready.order_by(jobs.c.number)))

    def fail(self, ticket: Ticket, failure: Failure, log_tail: str = "") -> tuple[str, ...]:
        """Fail a job, and with it the jobs that wait for its model.

        Args:
            ticket: The claim.
            failure: The failure.
            log_tail: The end of the log, for clients that cannot read the run directory.

        Returns:
            Ids of the waiting jobs that failed with it.

        Raises:
            StaleTicket: another worker has the job, or it has ended.
        """
        with self._under_ticket("fail") as connection:
            return fail(connection, ticket, failure, log_tail)

    def cancel(self, ticket: Ticket) -> None:
        """Cancel a job as requested, once its engine has stopped.

        Raises:
            StaleTicket: another worker has the job, or it has ended.
        """
        with self._under_ticket("cancel") as connection:
            cancel(connection, ticket)

    def pause(
        self, ticket: Ticket, *, reason: str = _PAUSED, needs_free: int | None = None
    ) -> tuple[str, ...]:
        """Pause a job, once its engine has stopped. Requests that came meanwhile take precedence.

        Args:
            ticket: The claim.
            reason: Why, as text.
            needs_free: Bytes of free space with which it continues by itself (`make_use_of_room`). None: a user
                asked for the pause and has to resume it.

        Returns:
            Ids of jobs to notify workers of: this one, if the request to pause was withdrawn while its engine
            stopped.

        Raises:
            StaleTicket: another worker has the job, or it has ended.
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
        """Record why a worker that could run a queued job does not start it.

        The reason is cleared once `needs_free` bytes are free.

        Returns:
            Whether the job is queued.
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
        """Requeue an unfinished job. A pending request to cancel or pause is carried out instead.

        Args:
            ticket: The claim.
            reason: Why, as text.
            failure: What ended the attempt. An infrastructure failure counts: after `max_attempts` attempts in
                a row that ended early without saving a checkpoint, the job fails with it.
            config: The engine's config for the next attempts; None leaves it as it is.
            log_tail: The end of the log, kept if the job fails.

        Returns:
            The job's new state.

        Raises:
            StaleTicket: another worker has the job, or it has ended.
        """
        attempt = BrokenOff("requeued", reason, failure, log_tail)
        with self._under_ticket("requeue") as connection:
            row = hold(connection, ticket)
            if config is not None:
                write(connection, ticket, {"resolved": config})
            return give_back(connection, row, attempt, self.policy.max_attempts)


def _changed_columns(event: Event, body: dict[str, Any]) -> dict[str, Any]:
    """Return the columns of the job that an event changes."""
    if isinstance(event, Progress):
        return {"progress": body} | ({"saved": True, "fruitless": 0} if event.saved else {})
    if isinstance(event, Evaluation):
        return {"evaluation": body}
    return {"report": body} if isinstance(event, Report) else {}


def _publish(connection: Connection, job_id: str, artifact: Artifact) -> None:
    """Write an artifact's row.

    A name stands for the newest file: the best checkpoint so far replaces the previous one.
    """
    connection.execute(
        delete(artifacts).where(artifacts.c.job_id == job_id, artifacts.c.name == artifact.name)
    )
    values = artifact.model_dump(include={"name", "size", "sha256"})
    metrics = {name: value for name, value in artifact.metrics.items() if math.isfinite(value)}
    connection.execute(insert(artifacts).values(job_id=job_id, created_at=now(), metrics=metrics, **values))
