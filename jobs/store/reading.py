"""What can be read from the store: jobs, their events, artifacts and reports."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from datetime import UTC, datetime
from functools import cache, cached_property
from typing import Any, NamedTuple

from sqlalchemy import Column, Connection, Row, Select, bindparam, select

from jobs.errors import UnknownArtifact, UnknownJob
from jobs.job import Artifact, Attempt, Job, StoredEvent
from jobs.store.cursors import Cursors
from jobs.store.database import Database, storable
from jobs.store.queue_reasons import Reasons, with_place
from jobs.store.tables import about, artifacts, attempts, events, jobs, waits
from jobs.store.tags import newest_first
from jobs.store.transitions import is_job


class Page(NamedTuple):
    """Some jobs of a list, and where to go on."""

    items: tuple[Job, ...]
    next: str | None
    """Send it as `after` for the next page; None: there is none."""


class Reading:
    """The verbs that change nothing."""

    database: Database

    def get(self, job_id: str, *, tenant: str | None = None) -> Job:
        """One job.

        Args:
            job_id: The job.
            tenant: Who asks; what belongs to another tenant is unknown. None: who may see everybody's.

        Raises:
            UnknownJob: there is none of this id.
        """
        with self.database.read() as connection:
            return read_job(connection, job_id, tenant)

    def list_jobs(
        self,
        *,
        state: str | None = None,
        kind: str | None = None,
        tags: Sequence[str] = (),
        after: str | None = None,
        limit: int = 50,
        tenant: str | None = None,
    ) -> Page:
        """Jobs, newest first.

        Args:
            state: Only jobs in this state.
            kind: Only jobs of this kind.
            tags: Only jobs with all of these tags, each `key` or `key:value`.
            after: The `next` of the page before.
            limit: Jobs in a page at most.
            tenant: Only jobs of this tenant.

        Raises:
            UnknownCursor: `after` is not the `next` of an earlier page.
        """
        cursors = self._cursors("jobs", tenant)
        query = newest_first(with_place(), tags, tenant).limit(limit + 1)
        if tenant is not None:
            query = query.where(jobs.c.tenant == tenant)
        if state is not None:
            query = query.where(jobs.c.state == storable(state))
        if kind is not None:
            query = query.where(jobs.c.kind == storable(kind))
        if after is not None:
            query = query.where(jobs.c.number < cursors.number(after))
        with self.database.read() as connection:
            rows = connection.execute(query).all()
            following = cursors.after(rows[limit - 1].number) if len(rows) > limit else None
            return Page(_jobs(connection, rows[:limit]), following)

    def origin(self) -> str:
        """What tells this database from every other one, for folders that two of them might use."""
        with self.database.read() as connection:
            found: str = connection.scalars(select(about.c.value).where(about.c.name == "origin")).one()
        return found

    @cached_property
    def _origin(self) -> str:
        return self.origin()

    def _cursors(self, listing: str, tenant: str | None) -> Cursors:
        """The cursors of a list of a tenant's, or, where none is named, of everybody's."""
        return Cursors(self._origin, listing if tenant is None else f"{listing} of {tenant}")

    def events(
        self, job_id: str, *, after: int = 0, limit: int = 1000, tenant: str | None = None
    ) -> tuple[StoredEvent, ...]:
        """Events of a job with numbers above `after`, in order.

        Raises:
            UnknownJob: there is none of this id.
        """
        query = select(events).where(events.c.job_id == job_id, events.c.number > after)
        with self.database.read() as connection:
            must_know(connection, job_id, tenant)
            rows = connection.execute(query.order_by(events.c.number).limit(limit)).all()
        return tuple(_event(row) for row in rows)

    def artifacts(self, job_id: str, *, tenant: str | None = None) -> tuple[Artifact, ...]:
        """Files that a job has published, by name.

        Raises:
            UnknownJob: there is none of this id.
        """
        query = select(artifacts).where(artifacts.c.job_id == job_id).order_by(artifacts.c.name)
        with self.database.read() as connection:
            must_know(connection, job_id, tenant)
            return tuple(_artifact(row) for row in connection.execute(query))

    def artifact(self, job_id: str, name: str, *, tenant: str | None = None) -> Artifact:
        """One published file.

        Raises:
            UnknownJob: there is no such job.
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
        """The report of a job, None while there is none.

        Raises:
            UnknownJob: there is none of this id.
        """
        with self.database.read() as connection:
            report: dict[str, Any] | None = read_column(connection, job_id, jobs.c.report, tenant)
        return report


def read_job(connection: Connection, job_id: str, tenant: str | None = None) -> Job:
    """One job, inside a transaction; where a tenant is named, only if it is that tenant's.

    Raises:
        UnknownJob: there is none of this id.
    """
    known = {"id": storable(job_id), "tenant": tenant}
    row = connection.execute(_one(of_tenant=tenant is not None), known).one_or_none()
    if row is None:
        raise UnknownJob(job_id)
    return _jobs(connection, [row])[0]


@cache  # what is built once costs nothing when it is asked again, a third of the time otherwise
def _one(*, of_tenant: bool) -> Select[Any]:
    query = with_place().where(jobs.c.id == bindparam("id"))
    return query.where(jobs.c.tenant == bindparam("tenant")) if of_tenant else query


# ---- rows to values --------------------------------------------------------------------------------------


def read_column(connection: Connection, job_id: str, column: Column[Any], tenant: str | None) -> Any:
    """One column of a job, as `read_job`: the whole row, with all its JSON, takes ten times as long."""
    row = connection.execute(select(column).where(is_job(job_id, tenant))).one_or_none()
    if row is None:
        raise UnknownJob(job_id)
    return row[0]


def must_know(connection: Connection, job_id: str, tenant: str | None) -> None:
    """Raise `UnknownJob` where there is no such job."""
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


def _jobs(connection: Connection, rows: Sequence[Row[Any]]) -> tuple[Job, ...]:
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
    """Return what was found in jobs when they were submitted; the first event of each has it."""
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


def _event(row: Row[Any]) -> StoredEvent:
    fields = {name: getattr(row, name) for name in ("number", "attempt", "kind", "body")}
    return StoredEvent(time=moment(row.time), **fields)


def _artifact(row: Row[Any]) -> Artifact:
    fields = {name: getattr(row, name) for name in ("name", "size", "sha256", "metrics")}
    return Artifact(created_at=moment(row.created_at), **fields)


def moment(seconds: float | None) -> Any:
    """A time of the database, in seconds, as people write it: a `datetime`, or None where there is none."""
    return None if seconds is None else datetime.fromtimestamp(seconds, UTC)
