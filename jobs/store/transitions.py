"""Transitions of the job state machine: the only place that writes a state, always together with its event.

A transition is a compare-and-set: it happens if the job's state still allows it according to `MOVES`, and does
nothing otherwise. Functions here run inside the transaction of the method that calls them.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import ColumnElement, Connection, Row, and_, insert, select, update

from gkd_core.errors import Failure, FailureClass
from jobs.job import END_STATES, MOVES, Desired, State, Ticket
from jobs.metrics import ENDED, EVENTS
from jobs.store.counters import tally
from jobs.store.database import now, storable
from jobs.store.tables import events, jobs, waits

NOTIFY_AGAIN_SECONDS = 15.0
"""Time after which an unanswered notification counts as lost."""

Condition = ColumnElement[bool]


def is_job(job_id: str, tenant: str | None = None) -> Condition:
    """Return the condition that selects this job; with `tenant`, only if it belongs to that tenant."""
    same = jobs.c.id == storable(job_id)
    return same if tenant is None else and_(same, jobs.c.tenant == tenant)


def is_in(state: State) -> Condition:
    """Return the condition that a job is in this state."""
    return jobs.c.state == state.value


def is_open() -> Condition:
    """Return the condition that a job has not ended."""
    return jobs.c.state.in_([state.value for state in State if state not in END_STATES])


def holds(ticket: Ticket) -> tuple[Condition, ...]:
    """Return the conditions that select a running job, as long as the ticket is valid."""
    return is_job(ticket.job_id), jobs.c.attempt == ticket.attempt, is_in(State.RUNNING)


def move(connection: Connection, to: State, *where: Condition, reason: str, **values: Any) -> Row[Any] | None:
    """Move the job that the conditions select to a new state, if its state allows that.

    Args:
        connection: In a transaction that writes.
        to: The new state.
        where: Conditions besides the state; at most one job may fulfil them.
        reason: Why, as text.
        values: Further columns to set.

    Returns:
        The row after the transition; None if no job fulfilled the conditions.
    """
    sources = [state.value for state, targets in MOVES.items() if to in targets]
    changes = {"state": to.value, "reason": reason, "event_count": jobs.c.event_count + 1}
    statement = (
        update(jobs).where(jobs.c.state.in_(sources), *where).values(changes | _entry_columns(to) | values)
    )
    row = connection.execute(statement.returning(jobs)).one_or_none()
    if row is not None:
        write_event(connection, row, "state", {"state": to.value, "reason": reason})
        if to in END_STATES:
            tally(connection, ENDED, row.kind, to.value)
            tally(connection, EVENTS, number=row.event_count)
    return row


def _entry_columns(to: State) -> dict[str, Any]:
    """Return the columns to set for every job that enters a state, whatever its previous state."""
    if to is State.RUNNING:
        return {"needs_free": None}
    values: dict[str, Any] = {
        "worker": None,
        "lease_until": None,
        "desired": Desired.RUN.value,
        "needs_free": None,
    }
    if to is State.QUEUED:
        values |= {"queued_at": now(), "ring_at": now() + NOTIFY_AGAIN_SECONDS}
    if to in END_STATES:
        values |= {"finished_at": now()}
    return values


def write_event(connection: Connection, row: Row[Any], kind: str, body: dict[str, Any]) -> None:
    """Write the event for which the row's `event_count` was just incremented: numbers have no gaps."""
    values = {"job_id": row.id, "number": row.event_count, "attempt": row.attempt}
    connection.execute(_EVENT_NOW, values | {"kind": kind, "body": body})


_EVENT_NOW = insert(events).values(time=now())


def fail_waiting(connection: Connection, job_id: str, state: State) -> tuple[str, ...]:
    """Fail the jobs that waited for a job that ended without a model, and recursively those that waited for them.

    Returns:
        Ids of the jobs that failed.
    """
    failure = Failure(
        failure_class=FailureClass.SPEC,
        message=f"job {job_id}, which it waited for, is {state.value} and made no model",
        hint=f"See what became of job {job_id}, then submit this job again with another one.",
    )
    failed: list[str] = []
    for waiting in connection.scalars(select(waits.c.job_id).where(waits.c.waits_for == job_id)).all():
        values = {"failure": failure.model_dump(mode="json")}
        where = (is_job(waiting), is_in(State.QUEUED))
        if move(connection, State.FAILED, *where, reason=failure.message, **values):
            failed += [waiting, *fail_waiting(connection, waiting, State.FAILED)]
    return tuple(failed)
