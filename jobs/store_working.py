"""What workers do with the store: claim, renew, record, and the ends of an attempt.

Every write but a claim names a ticket. Where the ticket no longer holds, `StaleTicket` is raised and nothing was
written.
"""

from __future__ import annotations

import json
import math
from typing import Any, NamedTuple

from sqlalchemy import Connection, Row, case, delete, func, insert, select, update

from gkd_core.errors import Failure, FailureClass
from gkd_core.events import Evaluation, Event, Progress, Report
from jobs.database import now, storable
from jobs.errors import StaleTicket
from jobs.job import Artifact, Desired, Job, State, Ticket
from jobs.store_moves import (
    RING_AGAIN_SECONDS,
    Condition,
    close_attempt,
    fail_waiting,
    holds,
    is_in,
    is_job,
    move,
    write_event,
)
from jobs.store_reading import Reading, is_ready, read_job
from jobs.tables import artifacts, attempts, jobs, waits

_LONGEST_RING_PAUSE = 600.0
"""Seconds between two rings for the same job, at most. Rings for one that waits long would else fill the queue."""


class Claim(NamedTuple):
    """A job that is now the worker's."""

    ticket: Ticket
    job: Job
    offset: int
    """Bytes of events.jsonl that are already recorded."""


class Working(Reading):
    """The verbs of workers."""

    lease_seconds: float
    max_attempts: int

    def claim(self, job_id: str, worker: str) -> Claim | None:
        """Take a queued job. Of many who try at once, one gets it.

        Args:
            job_id: The job for which the doorbell rang.
            worker: Who asks; the same name after a restart may `release` what it held.

        Returns:
            None when there is nothing to do: the job is not queued, or waits for another one.
        """
        with self.database.write() as connection:
            row = move(
                connection,
                State.RUNNING,
                is_job(job_id),
                is_ready(),
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
            connection.execute(
                insert(attempts).values(job_id=job_id, attempt=row.attempt, worker=worker, started_at=now())
            )
            return Claim(Ticket(job_id, row.attempt), read_job(connection, job_id), row.event_offset)

    def renew(self, ticket: Ticket) -> Desired:
        """Give a sign of life: the lease runs for its full time again.

        Returns:
            What is wanted of the job.

        Raises:
            StaleTicket: the job is somebody else's, or has ended.
        """
        with self.database.write() as connection:
            row = _write(connection, ticket, {"lease_until": now() + self.lease_seconds})
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
        with self.database.write() as connection:
            row = _hold(connection, ticket)
            if row.event_offset == offset:
                return Desired(row.desired)
            counted = {"event_count": jobs.c.event_count + 1, "event_offset": offset}
            row = _write(connection, ticket, counted | _learnt(event, body))
            write_event(connection, row, event.kind, body)
            if artifact is not None:
                _publish(connection, ticket.job_id, artifact)
            return Desired(row.desired)

    def succeed(self, ticket: Ticket) -> tuple[str, ...]:
        """End a job well.

        Returns:
            Ids of the jobs that waited for it and are ready now: ring for them.

        Raises:
            StaleTicket: the job is somebody else's, or has ended.
        """
        waiting = select(waits.c.job_id).where(waits.c.waits_for == ticket.job_id)
        with self.database.write() as connection:
            _end(connection, ticket, State.SUCCEEDED, "succeeded")
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
        with self.database.write() as connection:
            return _fail(connection, ticket, failure, log_tail)

    def cancel(self, ticket: Ticket) -> None:
        """End a job that was asked to cancel, once its engine has stopped.

        Raises:
            StaleTicket: the job is somebody else's, or has ended.
        """
        with self.database.write() as connection:
            _cancel(connection, ticket)

    def pause(self, ticket: Ticket) -> None:
        """Put a job aside that was asked to pause, once its engine has stopped.

        Raises:
            StaleTicket: the job is somebody else's, or has ended.
        """
        with self.database.write() as connection:
            _end(connection, ticket, State.PAUSED, "paused on request", outcome="paused")

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
        changes = {} if config is None else {"resolved": config}
        with self.database.write() as connection:
            row = _write(connection, ticket, {"log_tail": storable(log_tail)} | changes)
            return self._give_back(connection, row, "requeued", reason, failure)

    def sweep(self, *, only_due: bool = False) -> tuple[str, ...]:
        """Put right what nobody else does: give lost jobs back, and find jobs for which nobody came.

        Args:
            only_due: Leave out jobs for which the last ring was a short time ago: for sweeps that repeat, so
                that rings for a long queue do not pile up.

        Returns:
            Ids of queued jobs that are ready to run, first in line first: ring for them.
        """
        expired = jobs.c.lease_until < now()
        for ticket in self._held(expired):
            self._take_back(ticket, expired, f"no sign of life for {self.lease_seconds:g} s")
        self._fail_orphans()
        return self._to_ring(only_due)

    def release(self, worker: str) -> None:
        """Take back at once what a worker of this name held: it has started again, so it holds nothing.

        Rings in its memory are gone too: every queued job is due at the next sweep.
        """
        held = jobs.c.worker == worker
        for ticket in self._held(held):
            self._take_back(ticket, held, "it was started again")
        with self.database.write() as connection:
            connection.execute(update(jobs).where(is_in(State.QUEUED)).values(ring_at=now()))

    # ---- inside the verbs ----

    def _held(self, condition: Condition) -> list[Ticket]:
        with self.database.read() as connection:
            query = select(jobs.c.id, jobs.c.attempt).where(is_in(State.RUNNING), condition)
            return [Ticket(row.id, row.attempt) for row in connection.execute(query)]

    def _take_back(self, ticket: Ticket, condition: Condition, why: str) -> None:
        """One transaction for each job: a long list of lost jobs blocks nobody."""
        with self.database.write() as connection:
            row = _lock(connection, *holds(ticket), condition)
            if row is None:  # it was renewed, has ended, or another sweep was first
                return
            failure = Failure(
                failure_class=FailureClass.INFRASTRUCTURE,
                message=f"worker {row.worker} was lost: {why}",
                hint="Look at that machine: memory, disk, power, network.",
            )
            self._give_back(connection, row, "lost", failure.message, failure)

    def _give_back(
        self, connection: Connection, row: Row[Any], outcome: str, reason: str, failure: Failure | None
    ) -> State:
        ticket = Ticket(row.id, row.attempt)
        if row.desired == Desired.CANCEL.value:
            _cancel(connection, ticket)
            return State.CANCELLED
        counts = failure is not None and failure.failure_class is FailureClass.INFRASTRUCTURE
        fruitless = row.fruitless + (counts and not row.saved)
        if counts and fruitless >= self.max_attempts:
            assert failure is not None
            _fail(connection, ticket, _given_up(failure, fruitless), row.log_tail)
            return State.FAILED
        to = State.PAUSED if row.desired == Desired.PAUSE.value else State.QUEUED
        _end(connection, ticket, to, reason, outcome=outcome, fruitless=fruitless)
        return to

    def _fail_orphans(self) -> None:
        """Jobs submitted at the moment when what they wait for ended without a model."""
        dead = (State.FAILED.value, State.CANCELLED.value)
        other = jobs.alias()
        pairs = select(other.c.id, other.c.state).join(waits, waits.c.waits_for == other.c.id)
        pairs = pairs.join(jobs, jobs.c.id == waits.c.job_id)
        query = pairs.where(other.c.state.in_(dead), is_in(State.QUEUED)).distinct()
        with self.database.write() as connection:
            for row in connection.execute(query).all():
                fail_waiting(connection, row.id, State(row.state))

    def _to_ring(self, only_due: bool) -> tuple[str, ...]:
        age = now() - jobs.c.queued_at
        pause = case(
            (age < RING_AGAIN_SECONDS, RING_AGAIN_SECONDS),
            (age > _LONGEST_RING_PAUSE, _LONGEST_RING_PAUSE),
            else_=age,
        )
        due = [jobs.c.ring_at <= now()] if only_due else []
        statement = update(jobs).where(is_in(State.QUEUED), is_ready(), *due).values(ring_at=now() + pause)
        with self.database.write() as connection:
            rows = connection.execute(statement.returning(jobs.c.id, jobs.c.priority, jobs.c.queued_at)).all()
        return tuple(row.id for row in sorted(rows, key=lambda row: (-row.priority, row.queued_at)))


# ---- one row, held by its ticket -------------------------------------------------------------------------


def _lock(connection: Connection, *where: Condition) -> Row[Any] | None:
    return connection.execute(select(jobs).where(*where).with_for_update()).one_or_none()


def _hold(connection: Connection, ticket: Ticket) -> Row[Any]:
    row = _lock(connection, *holds(ticket))
    if row is None:
        raise StaleTicket(ticket)
    return row


def _write(connection: Connection, ticket: Ticket, values: dict[str, Any]) -> Row[Any]:
    statement = update(jobs).where(*holds(ticket)).values(values).returning(jobs)
    row = connection.execute(statement).one_or_none()
    if row is None:
        raise StaleTicket(ticket)
    return row


def _end(
    connection: Connection, ticket: Ticket, to: State, reason: str, *, outcome: str = "", **values: Any
) -> None:
    """End an attempt: the job moves on, and the attempt says how (by default like the state)."""
    if move(connection, to, *holds(ticket), reason=reason, **values) is None:
        raise StaleTicket(ticket)
    close_attempt(connection, ticket, outcome or to.value, reason)


def _cancel(connection: Connection, ticket: Ticket) -> None:
    _end(connection, ticket, State.CANCELLED, "cancelled on request")
    fail_waiting(connection, ticket.job_id, State.CANCELLED)


def _fail(connection: Connection, ticket: Ticket, failure: Failure, log_tail: str) -> tuple[str, ...]:
    values: dict[str, Any] = {"failure": failure.model_dump(mode="json"), "log_tail": storable(log_tail)}
    _end(connection, ticket, State.FAILED, f"failed: {failure.message}", **values)
    return fail_waiting(connection, ticket.job_id, State.FAILED)


def _given_up(failure: Failure, attempts_made: int) -> Failure:
    message = f"{failure.message} (given up after {attempts_made} attempts in a row that saved nothing)"
    return failure.model_copy(update={"message": message})


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
