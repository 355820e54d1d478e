"""A running job, held by its ticket: writing about it, ending its attempt, giving it back.

Functions here work inside the transaction of the verb that calls them, and raise `StaleTicket` where the ticket
no longer holds, before they have written anything.
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
    """The one row that fulfils the conditions, which nobody else changes until the transaction ends."""
    return connection.execute(select(jobs).where(*where).with_for_update()).one_or_none()


def hold(connection: Connection, ticket: Ticket) -> Row[Any]:
    """The locked row of a running job."""
    row = lock(connection, *holds(ticket))
    if row is None:
        raise StaleTicket(ticket)
    return row


def write(connection: Connection, ticket: Ticket, values: dict[str, Any]) -> Row[Any]:
    """Set columns of a running job; the row afterwards."""
    statement = update(jobs).where(*holds(ticket)).values(values).returning(jobs)
    row = connection.execute(statement).one_or_none()
    if row is None:
        raise StaleTicket(ticket)
    return row


def end(
    connection: Connection, ticket: Ticket, to: State, reason: str, *, outcome: str = "", **values: Any
) -> None:
    """End an attempt: the job moves on, and the attempt says how (by default like the state)."""
    job = move(connection, to, *holds(ticket), reason=reason, **values)
    if job is None:
        raise StaleTicket(ticket)
    row = (attempts.c.job_id == ticket.job_id, attempts.c.attempt == ticket.attempt)
    ending = {"ended_at": now(), "outcome": outcome or to.value, "message": reason}
    ended = connection.execute(update(attempts).where(*row).values(ending).returning(attempts)).one()
    tally(connection, ATTEMPT_SECONDS, job.kind, ended.outcome, size=ended.ended_at - ended.started_at)


def was_taken_back(connection: Connection, ticket: Ticket) -> bool:
    """Whether somebody took the job from who held this ticket; otherwise he has ended the attempt himself."""
    query = select(attempts.c.outcome).where(
        attempts.c.job_id == ticket.job_id, attempts.c.attempt == ticket.attempt
    )
    return connection.scalar(query) == LOST


def cancel(connection: Connection, ticket: Ticket, outcome: str = "") -> None:
    """End a job that was asked to cancel, and those that wait for its model."""
    end(connection, ticket, State.CANCELLED, "cancelled on request", outcome=outcome)
    fail_waiting(connection, ticket.job_id, State.CANCELLED)


def fail(
    connection: Connection, ticket: Ticket, failure: Failure, log_tail: str, outcome: str = ""
) -> tuple[str, ...]:
    """End a job badly; ids of the waiting jobs that failed with it."""
    values: dict[str, Any] = {"failure": failure.model_dump(mode="json"), "log_tail": storable(log_tail)}
    end(connection, ticket, State.FAILED, f"failed: {failure.message}", outcome=outcome, **values)
    return fail_waiting(connection, ticket.job_id, State.FAILED)


LOST = "lost"
"""Outcome of an attempt whose job was taken back from its worker."""


@dataclass(frozen=True)
class BrokenOff:
    """An attempt that ended before its job did."""

    outcome: str
    """What the attempt is listed with: requeued, or `LOST` whatever becomes of the job."""
    reason: str
    failure: Failure | None = None
    """None when nothing went wrong: the worker shuts down."""
    log_tail: str = ""

    @property
    def counts(self) -> bool:
        """Whether enough of this fails the job; other failures are for the worker to judge."""
        return self.failure is not None and self.failure.failure_class is FailureClass.INFRASTRUCTURE


def give_back(connection: Connection, row: Row[Any], attempt: BrokenOff, max_attempts: int) -> State:
    """Put a running job where it belongs after an attempt that broke off.

    Args:
        connection: In a transaction that writes.
        row: The job's row, locked.
        attempt: How the attempt ended.
        max_attempts: Attempts in a row that may break off and save nothing.

    Returns:
        Cancelled or paused where that was asked for, failed after too many attempts, otherwise queued.
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
