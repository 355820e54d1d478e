"""Reasons why a job is in its state, as a sentence.

That of a queued job depends on other jobs, so it is computed on reading.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from sqlalchemy import (
    ColumnElement,
    Connection,
    FromClause,
    Row,
    Select,
    Text,
    and_,
    case,
    cast,
    exists,
    func,
    literal,
    select,
)

from jobs.job import QUEUES, Job, State
from jobs.store.database import now
from jobs.store.quotas import share_of, shares
from jobs.store.tables import jobs, waits, workers
from jobs.store.transitions import Condition

_COUNTED = 100
"""Jobs ahead are counted up to this number ("more than 100 ahead"), so that a long queue costs no more than
a short one."""
_LIVE_SECONDS = 180.0
"""Time after its last heartbeat for which a worker still counts as alive: three leases."""


@cache  # an alias of jobs has forty columns: building one takes longer than its query
def is_ready(table: FromClause = jobs, *, for_few: bool = False) -> Condition:
    """Return the condition that everything a job of this table waits for has succeeded.

    Args:
        table: `jobs`, or an alias of it.
        for_few: Evaluate it row by row. PostgreSQL would join all jobs with all, which is faster for all of
            them but takes seconds if only a few are wanted; an OFFSET prevents that.
    """
    other = jobs.alias()
    unfinished = and_(waits.c.waits_for == other.c.id, other.c.state != State.SUCCEEDED.value)
    query = select(literal(1)).where(waits.c.job_id == table.c.id, unfinished)
    return ~exists((query.limit(1).offset(0) if for_few else query).correlate(table))


@cache
def with_place() -> Select[Any]:
    """Return the query of jobs with their queue position.

    Each queued job comes with the number of ready jobs ahead of it in its queue (at most `_COUNTED` + 1),
    whether it waits for another job, and its tenant's limit on running jobs.
    """
    other = jobs.alias("other")
    more_urgent = _counted(other, other.c.priority > jobs.c.priority)
    as_urgent = other.c.priority == jobs.c.priority
    sooner = _counted(other, as_urgent, other.c.queued_at < jobs.c.queued_at)
    # SQLite's clock counts milliseconds; two jobs may be queued in the same one.
    at_once = (other.c.queued_at == jobs.c.queued_at, other.c.number < jobs.c.number)
    before = more_urgent + sooner + _counted(other, as_urgent, *at_once)
    ahead = case((jobs.c.state == State.QUEUED.value, before), else_=0)
    needs = exists().where(waits.c.job_id == jobs.c.id).correlate(jobs)
    shown = [column for column in jobs.c if column.name in (*Job.model_fields, "tenant", "number")]
    return select(*shown, ahead.label("ahead"), needs.label("waits"), share_of(jobs).label("share"))


def _counted(other: FromClause, *where: Condition) -> ColumnElement[int]:
    """Return the number of ready jobs in the same queue that fulfil the conditions.

    Each count is one index range.
    """
    same_queue = (other.c.state == State.QUEUED.value, other.c.queue == jobs.c.queue)
    found = select(literal(1).label("found")).where(*same_queue, *where, is_ready(other, for_few=True))
    # In the order of the index, so that it is used.
    in_order = found.order_by(other.c.priority.desc(), other.c.queued_at)
    some = in_order.correlate(jobs).limit(_COUNTED + 1).subquery()
    return select(func.count()).select_from(some).scalar_subquery()


@dataclass(frozen=True)
class Reasons:
    """What the reasons of some jobs depend on besides the jobs themselves."""

    held: Mapping[str, str]
    """Reason why a tenant's jobs cannot run, by tenant."""
    served: frozenset[str] | None
    """Queues that live workers listen to; None if no worker was ever seen, or if no job is queued."""

    @classmethod
    def at_hand(cls, connection: Connection, rows: Sequence[Row[Any]]) -> Reasons:
        """Read what the reasons of these rows of jobs depend on."""
        queued = [row for row in rows if row.state == State.QUEUED.value]
        return cls(
            shares(connection, {row.tenant for row in queued if row.share is not None}),
            _served(connection) if queued else None,
        )

    def of(self, row: Row[Any], waited: Mapping[str, str]) -> str:
        """Return the reason of one job; `waited` has the state of each job that it waits for."""
        if row.state != State.QUEUED.value:
            return str(row.reason)
        before = f" ({row.reason})" if row.reason else ""
        return f"queued: {self._reason_if_queued(row, waited)}{before}"

    def _reason_if_queued(self, row: Row[Any], waited: Mapping[str, str]) -> str:
        if unfinished := [job_id for job_id, state in waited.items() if state != State.SUCCEEDED.value]:
            return f"waits for job {' and '.join(unfinished)}"
        if held := self.held.get(row.tenant):
            return held
        if self.served is not None and row.queue not in self.served:
            return f"{_format_position(row.ahead)}, but no worker serves queue {row.queue}"
        return f"{_format_position(row.ahead)}, waiting for a worker{_with_gpus(QUEUES[row.queue])}"


def _served(connection: Connection) -> frozenset[str] | None:
    rows = connection.execute(_listening()).all()
    return (
        frozenset(queue for row in rows if row.listening for queue in json.loads(row.queues))
        if rows
        else None
    )


@cache
def _listening() -> Select[str, bool]:
    """Return the query of the queues that workers listen to, and whether those workers are alive."""
    listening = and_(workers.c.seen_at > now() - _LIVE_SECONDS, workers.c.draining.is_(False))
    return select(cast(workers.c.queues, Text).label("queues"), listening.label("listening")).distinct()


def _format_position(ahead: int) -> str:
    if ahead > _COUNTED:
        return f"more than {_COUNTED} ahead"
    return f"{ahead} ahead" if ahead else "next"


def _with_gpus(count: int) -> str:
    return "" if count == 0 else f" with {count} GPU{'s' if count > 1 else ''}"
