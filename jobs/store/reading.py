"""Reads from the store: jobs, their events, artifacts and reports."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Sequence
from datetime import UTC, datetime
from functools import cache, cached_property
from typing import Any, NamedTuple

from sqlalchemy import Column, ColumnElement, Connection, Row, Select, bindparam, select

from jobs.errors import UnknownArtifact, UnknownJob
from jobs.job import Artifact, Attempt, Job, StoredEvent
from jobs.store.cursors import Cursors
from jobs.store.database import Database, storable
from jobs.store.queue_reasons import Reasons, with_place
from jobs.store.tables import about, artifacts, attempts, events, jobs, waits
from jobs.store.tags import newest_first
from jobs.store.transitions import is_job


class Page(NamedTuple):
    """One page of a list of jobs, with the cursor of the next one."""

    items: tuple[Job, ...]
    next: str | None
    """Pass it as `after` for the next page; None on the last page."""


class Reading:
    """Methods that only read."""

    def __init__(self, database: Database) -> None:
        self.database = database

    def get(self, job_id: str, *, tenant: str | None = None) -> Job:
        """Return one job.

        Args:
            job_id: The job.
            tenant: Tenant that asks; jobs of other tenants count as unknown. None: an administrator, who may
                see all.

        Raises:
            UnknownJob: no job has this id.
        """
        with self.database.read() as connection:
            return read_job(connection, job_id, tenant)

    def list_jobs(
        self,
        *,
        state: str | None = None,
        states: Collection[str] = (),
        kind: str | None = None,
        tags: Sequence[str] = (),
        search: str | None = None,
        after: str | None = None,
        limit: int = 50,
        tenant: str | None = None,
    ) -> Page:
        """Return a page of jobs, newest first.

        Args:
            state: Only jobs in this state.
            states: Only jobs in one of these states; empty: in any.
            kind: Only jobs of this kind.
            tags: Only jobs with all of these tags, each `key` or `key:value`.
            search: Only jobs whose name holds this text, in any case, or whose id begins with it.
            after: The `next` of the previous page.
            limit: Maximum number of jobs in a page.
            tenant: Only jobs of this tenant.

        Raises:
            UnknownCursor: `after` is not the `next` of an earlier page.
        """
        cursors = self.cursors("jobs", tenant)
        query = newest_first(with_place(), tags, tenant).limit(limit + 1)
        if tenant is not None:
            query = query.where(jobs.c.tenant == tenant)
        if state is not None:
            query = query.where(jobs.c.state == storable(state))
        if states:
            query = query.where(jobs.c.state.in_([storable(each) for each in states]))
        if kind is not None:
            query = query.where(jobs.c.kind == storable(kind))
        if search is not None:
            query = query.where(is_named(search))
        if after is not None:
            query = query.where(jobs.c.number < cursors.number(after))
        with self.database.read() as connection:
            rows = connection.execute(query).all()
            following = cursors.after(rows[limit - 1].number) if len(rows) > limit else None
            return Page(to_jobs(connection, rows[:limit]), following)

    def origin(self) -> str:
        """Return the unique id of this database, for folders that several databases might use."""
        with self.database.read() as connection:
            found: str = connection.scalars(select(about.c.value).where(about.c.name == "origin")).one()
        return found

    @cached_property
    def _origin(self) -> str:
        return self.origin()

    def cursors(self, listing: str, tenant: str | None) -> Cursors:
        """Return the cursors of a list of a tenant, or of all tenants if None."""
        return Cursors(self._origin, listing if tenant is None else f"{listing} of {tenant}")

    def events(
        self, job_id: str, *, after: int = 0, limit: int = 1000, tenant: str | None = None
    ) -> tuple[StoredEvent, ...]:
        """Return the events of a job with numbers above `after`, in order.

        Raises:
            UnknownJob: no job has this id.
        """
        query = select(events).where(events.c.job_id == job_id, events.c.number > after)
        with self.database.read() as connection:
            must_know(connection, job_id, tenant)
            rows = connection.execute(query.order_by(events.c.number).limit(limit)).all()
        return tuple(to_event(row) for row in rows)

    def artifacts(self, job_id: str, *, tenant: str | None = None) -> tuple[Artifact, ...]:
        """Return the files that a job has published, by name.

        Raises:
            UnknownJob: no job has this id.
        """
        query = select(artifacts).where(artifacts.c.job_id == job_id).order_by(artifacts.c.name)
        with self.database.read() as connection:
            must_know(connection, job_id, tenant)
            return tuple(_artifact(row) for row in connection.execute(query))

    def artifact(self, job_id: str, name: str, *, tenant: str | None = None) -> Artifact:
        """Return one published file.

        Raises:
            UnknownJob: no job has this id.
            UnknownArtifact: the job has published no file of this name.
        """
        query = select(artifacts).where(artifacts.c.job_id == job_id, artifacts.c.name == storable(name))
        with self.database.read() as connection:
            must_know(connection, job_id, tenant)
            row = connection.execute(query).one_or_none()
        if row is None:
            raise UnknownArtifact(job_id, name)
        return _artifact(row)

    def report(self, job_id: str, *, tenant: str | None = None) -> dict[str, Any] | None:
        """Return the report of a job; None while there is none.

        Raises:
            UnknownJob: no job has this id.
        """
        with self.database.read() as connection:
            report: dict[str, Any] | None = read_column(connection, job_id, jobs.c.report, tenant)
        return report


def read_job(connection: Connection, job_id: str, tenant: str | None = None) -> Job:
    """Return one job, inside a transaction; with `tenant`, only if it belongs to that tenant.

    Raises:
        UnknownJob: no job has this id.
    """
    known = {"id": storable(job_id), "tenant": tenant}
    row = connection.execute(_job_query(of_tenant=tenant is not None), known).one_or_none()
    if row is None:
        raise UnknownJob(job_id)
    return to_jobs(connection, [row])[0]


@cache  # building the query takes a third of the time of the read
def _job_query(*, of_tenant: bool) -> Select[Any]:
    query = with_place().where(jobs.c.id == bindparam("id"))
    return query.where(jobs.c.tenant == bindparam("tenant")) if of_tenant else query


def is_named(text: str) -> ColumnElement[bool]:
    """Return the condition that a job's name holds a text, in any case, or that its id begins with it."""
    text = storable(text)
    return jobs.c.name.icontains(text, autoescape=True) | jobs.c.id.istartswith(text, autoescape=True)


# ---- rows to values --------------------------------------------------------------------------------------


def read_column(connection: Connection, job_id: str, column: Column[Any], tenant: str | None) -> Any:
    """Return one column of a job, else as `read_job`: the whole row, with all its JSON, takes ten times as long."""
    row = connection.execute(select(column).where(is_job(job_id, tenant))).one_or_none()
    if row is None:
        raise UnknownJob(job_id)
    return row[0]


def must_know(connection: Connection, job_id: str, tenant: str | None) -> None:
    """Raise `UnknownJob` if there is no such job."""
    read_column(connection, job_id, jobs.c.number, tenant)


_ATTEMPTS = (
    select(attempts)
    .where(attempts.c.job_id.in_(bindparam("ids", expanding=True)))
    .order_by(attempts.c.job_id, attempts.c.attempt)
)
_FIRST_EVENTS = select(events.c.job_id, events.c.body).where(
    events.c.job_id.in_(bindparam("ids", expanding=True)), events.c.number == 1
)
_WAITS = (
    select(waits.c.job_id, waits.c.waits_for, jobs.c.state)
    .join(jobs, jobs.c.id == waits.c.waits_for)
    .where(waits.c.job_id.in_(bindparam("ids", expanding=True)))
    .order_by(jobs.c.number)
)


def to_jobs(connection: Connection, rows: Sequence[Row[Any]]) -> tuple[Job, ...]:
    """Return the jobs of rows of `with_place`, in their order."""
    tried: dict[str, list[Attempt]] = defaultdict(list)
    if claimed := [row.id for row in rows if row.attempt]:
        for row in connection.execute(_ATTEMPTS, {"ids": claimed}):
            tried[row.job_id].append(_attempt(row))
    waited: dict[str, dict[str, str]] = defaultdict(dict)
    if waiting := [row.id for row in rows if row.waits]:
        for row in connection.execute(_WAITS, {"ids": waiting}):
            waited[row.job_id][row.waits_for] = row.state
    reasons = Reasons.at_hand(connection, rows)
    warned = _warnings(connection, rows)
    return tuple(
        _job(row, tuple(tried[row.id]), waited[row.id], reasons, warned.get(row.id, ())) for row in rows
    )


def _warnings(connection: Connection, rows: Sequence[Row[Any]]) -> dict[str, Sequence[str]]:
    """Return the warnings found when jobs were submitted, by job id; the first event of each job has them."""
    if not rows:
        return {}
    found = connection.execute(_FIRST_EVENTS, {"ids": [row.id for row in rows]})
    return {row.job_id: row.body.get("warnings", ()) for row in found}


def _job(
    row: Row[Any],
    tried: tuple[Attempt, ...],
    waited: dict[str, str],
    reasons: Reasons,
    warnings: Sequence[str],
) -> Job:
    found = row._mapping
    return Job.model_validate(
        {name: found[name] for name in _FIELDS}
        | {name: moment(found[name]) for name in _TIMES}
        | {"reason": reasons.of(row, waited), "waits_for": tuple(waited), "attempts": tried}
        | {"warnings": warnings}
    )


_FIELDS = tuple(name for name in Job.model_fields if name in jobs.c)
_TIMES = ("lease_until", "created_at", "started_at", "finished_at")


def _attempt(row: Row[Any]) -> Attempt:
    fields = {name: getattr(row, name) for name in ("attempt", "worker", "outcome", "message")}
    return Attempt(started_at=moment(row.started_at), ended_at=moment(row.ended_at), **fields)


def to_event(row: Row[Any]) -> StoredEvent:
    """Return the event of a row."""
    fields = {name: getattr(row, name) for name in ("number", "attempt", "kind", "body")}
    return StoredEvent(time=moment(row.time), **fields)


def _artifact(row: Row[Any]) -> Artifact:
    fields = {name: getattr(row, name) for name in ("name", "size", "sha256", "metrics")}
    return Artifact(created_at=moment(row.created_at), **fields)


def moment(seconds: float | None) -> Any:
    """Return a time of the database (Unix seconds) as a `datetime` in UTC; None stays None."""
    return None if seconds is None else datetime.fromtimestamp(seconds, UTC)
