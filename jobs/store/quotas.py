"""Quotas: a tenant's usage, and the checks of its limits.

Functions here run inside the transaction of the method that calls them. Decisions that depend on a count are
made with the tenant's row locked, so that two concurrent requests cannot both take the last place.
"""

from __future__ import annotations

from functools import cache
from typing import Any

from sqlalchemy import (
    ColumnElement,
    Connection,
    FromClause,
    bindparam,
    case,
    delete,
    exists,
    func,
    insert,
    select,
)

from jobs.errors import QuotaExceeded
from jobs.job import State
from jobs.keys import Limits, Use
from jobs.resources import ResourceState
from jobs.store.database import now
from jobs.store.tables import artifacts, attempts, jobs, leaving, resources, spent, tenants
from jobs.store.transitions import Condition, is_job

GPU_SECONDS_BACK = 30 * 86400.0
"""Window for GPU hours: thirty days, which, unlike a calendar month, never restarts at midnight."""

LEAVING_SECONDS = 5400.0
"""Maximum time for which the bytes of a deleted upload stay on disk: tidying removes files that no row has
named for an hour."""

_REFUSED = ResourceState.REFUSED.value
_SHARE: ColumnElement[Any] = tenants.c.limits["running_jobs"].as_integer()


def limits_of(connection: Connection, tenant: str, *, lock: bool = False) -> Limits:
    """Return the limits of a tenant; with `lock`, its row is locked until the transaction ends."""
    query = select(tenants.c.limits).where(tenants.c.name == tenant)
    stored = connection.scalar(query.with_for_update() if lock else query)
    return Limits.model_validate(stored or {})


def use_of(connection: Connection, tenant: str) -> Use:
    """Return the current usage of a tenant."""
    return Use(
        running_jobs=count_in(connection, tenant, State.RUNNING),
        queued_jobs=count_in(connection, tenant, State.QUEUED),
        stored_bytes=_stored_bytes(connection, tenant),
        gpu_hours=round(_gpu_hours(connection, tenant), 3),
    )


def count_in(connection: Connection, tenant: str, state: State) -> int:
    """Return the number of a tenant's jobs in a state."""
    query = select(func.count()).where(jobs.c.tenant == tenant, jobs.c.state == state.value)
    return connection.scalar(query) or 0


def share_of(table: FromClause) -> ColumnElement[Any]:
    """Return the limit on running jobs of the tenant of a job of this table; NULL: no limit."""
    return select(_SHARE).where(tenants.c.name == table.c.tenant).correlate(table).scalar_subquery()


_RUNNING = (
    select(func.count())
    .where(jobs.c.tenant == tenants.c.name, jobs.c.state == State.RUNNING.value)
    .correlate(tenants)
    .scalar_subquery()
)
_FULL = select(tenants.c.name, _SHARE.label("share"), _RUNNING.label("running")).where(
    _SHARE.is_not(None), _RUNNING >= _SHARE
)
"""Tenants that have reached their limit of running jobs."""
_FULL_OF_THESE = _FULL.where(tenants.c.name.in_(bindparam("names", expanding=True)))


# ---- admission -------------------------------------------------------------------------------------------


def must_queue(connection: Connection, tenant: str, gpus: int) -> None:
    """Check that a tenant's limits allow one more job.

    Args:
        connection: In a transaction that writes, before the job is inserted.
        tenant: Owner of the job.
        gpus: Number of GPUs it needs.

    Raises:
        QuotaExceeded: a limit is reached; the error names it and the usage.
    """
    limits = limits_of(connection, tenant)
    if limits.queued_jobs is not None:
        limits = limits_of(connection, tenant, lock=True)
        _must_leave("queued_jobs", limits.queued_jobs, count_in(connection, tenant, State.QUEUED), 1)
    if limits.stored_bytes is not None:
        _must_leave("stored_bytes", limits.stored_bytes, _stored_bytes(connection, tenant), 1)
    if gpus and limits.gpu_hours is not None:
        hours = _gpu_hours(connection, tenant)
        if hours >= limits.gpu_hours:
            raise QuotaExceeded("gpu_hours", limits.gpu_hours, round(hours, 2))


def must_store(connection: Connection, tenant: str, size: int) -> None:
    """Check that a tenant's limits allow more bytes.

    Args:
        connection: In a transaction; if it is about to name the bytes, it has the tenant's row locked
            (`limits_of`).
        tenant: Owner of the bytes.
        size: Number of bytes to add.

    Raises:
        QuotaExceeded: the limit would be exceeded, or twice the limit if recently deleted bytes are included.
    """
    limit = limits_of(connection, tenant).stored_bytes
    if limit is None:
        return
    used = _stored_bytes(connection, tenant)
    _must_leave("stored_bytes", limit, used, size)
    if used + (soon_gone := _leaving_bytes(connection, tenant)) + size > 2 * limit:
        hint = f"{soon_gone} bytes that it deleted, or that were refused, are not off the disk yet: wait an hour or so"
        raise QuotaExceeded("stored_bytes", limit, used, hint)


def _must_leave(name: str, limit: int | None, used: int, more: int) -> None:
    if limit is not None and used + more > limit:
        raise QuotaExceeded(name, limit, used)


def _stored_bytes(connection: Connection, tenant: str) -> int:
    named = select(artifacts.c.sha256, artifacts.c.size).join(jobs, jobs.c.id == artifacts.c.job_id)
    files = named.where(jobs.c.tenant == tenant).distinct().subquery()
    uploads = select(func.sum(resources.c.size)).where(
        resources.c.tenant == tenant, resources.c.uploaded.is_(True), resources.c.state != _REFUSED
    )
    published = connection.scalar(select(func.sum(files.c.size))) or 0
    return int(published) + int(connection.scalar(uploads) or 0)


def keep_leaving(connection: Connection, resource_id: str) -> None:
    """Record that an upload is about to be deleted, or was refused.

    Its bytes stay on disk for a while, and a tenant that uploads and deletes repeatedly must not fill the
    disk.
    """
    upload = select(resources.c.tenant, resources.c.size, now() + LEAVING_SECONDS)
    rows = upload.where(resources.c.id == resource_id, resources.c.uploaded.is_(True))
    connection.execute(delete(leaving).where(leaving.c.until < now()))
    connection.execute(insert(leaving).from_select(["tenant", "size", "until"], rows))


def _leaving_bytes(connection: Connection, tenant: str) -> int:
    there = (leaving.c.tenant == tenant, leaving.c.until > now())
    return int(connection.scalar(select(func.sum(leaving.c.size)).where(*there)) or 0)


def _gpu_hours(connection: Connection, tenant: str) -> float:
    """Return the GPU hours of the attempts of the last thirty days: ended, running, and of jobs deleted since."""
    since = now() - GPU_SECONDS_BACK
    ended = func.coalesce(attempts.c.ended_at, now())
    started = case((attempts.c.started_at < since, since), else_=attempts.c.started_at)
    query = select(func.sum((ended - started) * jobs.c.gpus)).join(jobs, jobs.c.id == attempts.c.job_id)
    there = query.where(jobs.c.tenant == tenant, jobs.c.gpus > 0, ended > since)
    gone = select(func.sum(spent.c.gpu_seconds)).where(spent.c.tenant == tenant, spent.c.ended_at > since)
    return max(0.0, sum(float(connection.scalar(each) or 0.0) for each in (there, gone))) / 3600


def keep_gpu_hours(connection: Connection, job_id: str) -> None:
    """Keep the GPU hours of a job that is about to be deleted, so that deleting jobs does not reset the quota."""
    seconds = (attempts.c.ended_at - attempts.c.started_at) * jobs.c.gpus
    attempted = select(jobs.c.tenant, attempts.c.ended_at, seconds).join(jobs, jobs.c.id == attempts.c.job_id)
    lately = attempts.c.ended_at > now() - GPU_SECONDS_BACK
    rows = attempted.where(is_job(job_id), jobs.c.gpus > 0, lately)
    connection.execute(insert(spent).from_select(["tenant", "ended_at", "gpu_seconds"], rows))


# ---- running ---------------------------------------------------------------------------------------------


def lock_share(connection: Connection, job_id: str) -> None:
    """Lock the tenant of a job if it has a limit on running jobs, so that claims run one at a time (`has_share`)."""
    owner = select(jobs.c.tenant).where(is_job(job_id)).scalar_subquery()
    limited = select(tenants.c.name).where(tenants.c.name == owner, _SHARE.is_not(None))
    connection.execute(limited.with_for_update())


@cache
def has_share(table: FromClause = jobs) -> Condition:
    """Return the condition that the tenant of a job of this table may have one more job running."""
    other = jobs.alias()
    running = select(func.count()).where(
        other.c.tenant == table.c.tenant, other.c.state == State.RUNNING.value
    )
    full = running.correlate(table).scalar_subquery() >= _SHARE
    return ~exists().where(tenants.c.name == table.c.tenant, _SHARE.is_not(None), full).correlate(table)


def without_room(connection: Connection) -> list[str]:
    """Return the tenants that have reached their limit of running jobs."""
    return list(connection.scalars(_FULL))


def next_in_share(connection: Connection, job_id: str, ready: Condition) -> tuple[str, ...]:
    """Return ids of queued jobs of the same tenant, if it has a limit on running jobs: as many per queue as may start.

    Args:
        connection: In a transaction.
        job_id: A job of the tenant.
        ready: Condition that a queued job could run.
    """
    owner = select(jobs.c.tenant).where(is_job(job_id)).scalar_subquery()
    row = connection.execute(select(tenants.c.name, _SHARE).where(tenants.c.name == owner)).one_or_none()
    if row is None or row[1] is None:
        return ()
    room = row[1] - count_in(connection, row.name, State.RUNNING)
    order = (jobs.c.priority.desc(), jobs.c.queued_at)
    place = func.row_number().over(partition_by=jobs.c.queue, order_by=order).label("place")
    mine = (jobs.c.tenant == row.name, jobs.c.state == State.QUEUED.value, ready)
    line = select(jobs.c.id, place).where(*mine).subquery()
    return tuple(connection.scalars(select(line.c.id).where(line.c.place <= room).order_by(line.c.place)))


def shares(connection: Connection, names: set[str]) -> dict[str, str]:
    """Return why jobs of these tenants cannot run now, by tenant.

    Only for tenants that have reached their limit.
    """
    if not names:
        return {}
    rows = connection.execute(_FULL_OF_THESE, {"names": sorted(names)})
    return {row.name: f"{row.running} of {row.share} jobs of this tenant are running" for row in rows}
