"""What a page about many jobs, or about one from above, shows first: open jobs in their order, counts, reports."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from sqlalchemy import case, func, literal, select

from jobs.job import END_STATES, Job, State, StoredEvent
from jobs.store.database import Database, storable
from jobs.store.queue_reasons import with_place
from jobs.store.reading import is_named, must_know, to_event, to_jobs
from jobs.store.tables import events, jobs
from jobs.store.tags import newest_first

COUNTED = 100
"""Jobs in one state are counted up to this number, so that many cost no more than a few."""

_ORDER = {State.RUNNING: 0, State.QUEUED: 1, State.PAUSED: 2}
"""The open states, in the order in which they are listed."""


class Overview:
    """Methods that read a little of many jobs. All are for one tenant."""

    def __init__(self, database: Database) -> None:
        self.database = database

    def open_jobs(
        self,
        *,
        tenant: str,
        kind: str | None = None,
        tags: Sequence[str] = (),
        search: str | None = None,
        limit: int = COUNTED,
    ) -> tuple[Job, ...]:
        """Return jobs that have not ended: running, then queued in the order in which they will run, then paused.

        Args:
            tenant: Only jobs of this tenant.
            kind: Only jobs of this kind.
            tags: Only jobs with all of these tags, each `key` or `key:value`.
            search: Only jobs whose name holds this text, or whose id begins with it.
            limit: Maximum number of jobs.
        """
        is_open = jobs.c.state.in_([state.value for state in _ORDER])
        query = newest_first(select(jobs.c.number), tags, tenant).where(jobs.c.tenant == tenant, is_open)
        if kind is not None:
            query = query.where(jobs.c.kind == storable(kind))
        if search is not None:
            query = query.where(is_named(search))
        place = case({state.value: place for state, place in _ORDER.items()}, value=jobs.c.state)
        order = (place, jobs.c.priority.desc(), jobs.c.queued_at, jobs.c.number)
        query = query.order_by(None).order_by(*order).limit(limit)
        with self.database.read() as connection:
            # In two steps: places in the queue are then computed for the jobs shown, not for all that wait.
            numbers = connection.scalars(query).all()
            rows = {
                row.number: row for row in connection.execute(with_place().where(jobs.c.number.in_(numbers)))
            }
            # those that are left: another process may have deleted one meanwhile
            return to_jobs(connection, [rows[number] for number in numbers if number in rows])

    def counts(self, *, tenant: str) -> dict[State, int]:
        """Return the number of a tenant's jobs in each state, at most `COUNTED` of each."""
        some = {
            state: select(literal(1).label("one"))
            .where(jobs.c.tenant == tenant, jobs.c.state == state.value)
            .limit(COUNTED)
            .subquery()
            for state in State
        }
        numbers = [select(func.count()).select_from(each).scalar_subquery() for each in some.values()]
        with self.database.read() as connection:
            return dict(zip(some, connection.execute(select(*numbers)).one(), strict=True))

    def reports(self, job_ids: Collection[str], *, tenant: str) -> Mapping[str, dict[str, Any]]:
        """Return the reports of these jobs by id, of those that have one."""
        query = select(jobs.c.id, jobs.c.report).where(
            jobs.c.tenant == tenant, jobs.c.id.in_(job_ids), jobs.c.report.is_not(None)
        )
        with self.database.read() as connection:
            return {row.id: row.report for row in connection.execute(query)}

    def milestones(self, job_id: str, *, tenant: str, limit: int = 50) -> tuple[StoredEvent, ...]:
        """Return the newest events of a job that are no progress, newest first.

        Raises:
            UnknownJob: no job has this id.
        """
        query = select(events).where(events.c.job_id == job_id, events.c.kind != "progress")
        with self.database.read() as connection:
            must_know(connection, job_id, tenant)
            rows = connection.execute(query.order_by(events.c.number.desc()).limit(limit)).all()
        return tuple(to_event(row) for row in rows)


ENDED = tuple(state.value for state in State if state in END_STATES)
"""The end states, for `Reading.list_jobs`."""
