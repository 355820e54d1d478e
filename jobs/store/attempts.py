"""Attempts of a running job, identified by their ticket: updating the job, ending the attempt, requeueing the job.

Functions here run inside the transaction of the method that calls them. They raise `StaleTicket` if the ticket
is no longer valid, before anything is written.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, Row, select, update

from gkd_core.errors import Failure, FailureClass
from jobs.errors import StaleTicket
from jobs.job import Desired, State, Ticket
from jobs.metrics import ATTEMPT_SECONDS
from jobs.store.counters import tally
from jobs.store.database import now, storable
from jobs.store.tables import attempts, jobs
from jobs.store.transitions import Condition, fail_waiting, holds, move


def lock(connection: Connection, *where: Condition) -> Row[Any] | None:
    """Return the single row that fulfils the conditions, locked until the transaction ends.

    None if there is none.
    """
    return connection.execute(select(jobs).where(*where).with_for_update()).one_or_none()


def hold(connection: Connection, ticket: Ticket) -> Row[Any]:
    """Return the row of a running job, locked until the transaction ends.

    Raises:
        StaleTicket: the ticket is no longer valid.
    """
    row = lock(connection, *holds(ticket))
    if row is None:
        raise StaleTicket(ticket)
    return row


def write(connection: Connection, ticket: Ticket, values: dict[str, Any]) -> Row[Any]:
    """Update columns of a running job and return the row afterwards.

    Raises:
        StaleTicket: the ticket is no longer valid.
    """
    statement = update(jobs).where(*holds(ticket)).values(values).returning(jobs)
    row = connection.execute(statement).one_or_none()
    if row is None:
        raise StaleTicket(ticket)
    return row


def end(
    connection: Connection, ticket: Ticket, to: State, reason: str, *, outcome: str = "", **values: Any
) -> None:
    """End an attempt: move the job to a new state and record the attempt's outcome (by default the state's name).

    Raises:
        StaleTicket: the ticket is no longer valid.
    """
    job = move(connection, to, *holds(ticket), reason=reason, **values)
    if job is None:
        raise StaleTicket(ticket)
    row = (attempts.c.job_id == ticket.job_id, attempts.c.attempt == ticket.attempt)
    ending = {"ended_at": now(), "outcome": outcome or to.value, "message": reason}
    ended = connection.execute(update(attempts).where(*row).values(ending).returning(attempts)).one()
    tally(connection, ATTEMPT_SECONDS, job.kind, ended.outcome, size=ended.ended_at - ended.started_at)


def was_taken_back(connection: Connection, ticket: Ticket) -> bool:
    """Return whether the job was taken back from this ticket's worker.

    False if the worker ended the attempt itself.
    """
    query = select(attempts.c.outcome).where(
        attempts.c.job_id == ticket.job_id, attempts.c.attempt == ticket.attempt
    )
    return connection.scalar(query) == LOST


def cancel(connection: Connection, ticket: Ticket, outcome: str = "") -> None:
    """Cancel a job as requested, and fail the jobs that wait for its model."""
    end(connection, ticket, State.CANCELLED, "cancelled on request", outcome=outcome)
    fail_waiting(connection, ticket.job_id, State.CANCELLED)


def fail(
    connection: Connection, ticket: Ticket, failure: Failure, log_tail: str, outcome: str = ""
) -> tuple[str, ...]:
    """Fail a job and return the ids of the waiting jobs that failed with it."""
    values: dict[str, Any] = {"failure": failure.model_dump(mode="json"), "log_tail": storable(log_tail)}
    end(connection, ticket, State.FAILED, f"failed: {failure.message}", outcome=outcome, **values)
    return fail_waiting(connection, ticket.job_id, State.FAILED)


LOST = "lost"
"""Outcome of an attempt whose job was taken back from its worker."""


@dataclass(frozen=True)
class BrokenOff:
    """An attempt that ended before its job did."""

    outcome: str
    """The outcome recorded for the attempt: `requeued`, or `LOST` whatever the job's next state is."""
    reason: str
    failure: Failure | None = None
    """None if nothing went wrong, as when the worker shuts down."""
    log_tail: str = ""

    @property
    def counts(self) -> bool:
        """Return whether the attempt counts towards `max_attempts`: only infrastructure failures do.

        The worker decides about the others.
        """
        return self.failure is not None and self.failure.failure_class is FailureClass.INFRASTRUCTURE


def give_back(connection: Connection, row: Row[Any], attempt: BrokenOff, max_attempts: int) -> State:
    """Move a running job to its next state after an attempt that ended early.

    Args:
        connection: In a transaction that writes.
        row: The job's row, locked.
        attempt: How the attempt ended.
        max_attempts: Attempts in a row that may end early without saving a checkpoint.

    Returns:
        Cancelled or paused if that was requested, failed after too many attempts, otherwise queued.
    """
    ticket = Ticket(row.id, row.attempt)
    lost = LOST if attempt.outcome == LOST else ""
    if row.desired == Desired.CANCEL.value:
        cancel(connection, ticket, lost)
        return State.CANCELLED
    fruitless = row.fruitless + (attempt.counts and not row.saved)
    if attempt.failure and attempt.counts and fruitless >= max_attempts:
        fail(connection, ticket, _cancelled(attempt.failure, fruitless), attempt.log_tail, lost)
        return State.FAILED
    to = State.PAUSED if row.desired == Desired.PAUSE.value else State.QUEUED
    end(connection, ticket, to, attempt.reason, outcome=attempt.outcome, fruitless=fruitless)
    return to


def _cancelled(failure: Failure, attempts_made: int) -> Failure:
    message = f"{failure.message} (given up after {attempts_made} attempts in a row that saved nothing)"
    return failure.model_copy(update={"message": message})
