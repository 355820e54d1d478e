"""The rows of a new job: itself, its first events, its tags, and what it waits for and uses."""

from __future__ import annotations

import secrets
from functools import cache
from typing import Any

from sqlalchemy import Connection, Row, insert, update
from sqlalchemy.sql.dml import ReturningInsert

from jobs.job import Desired, State, queue_for
from jobs.metrics import SUBMITTED
from jobs.specs.spec import AnySpec, Resolved
from jobs.store.counters import tally
from jobs.store.database import now
from jobs.store.quotas import must_queue
from jobs.store.tables import jobs, uses, waits
from jobs.store.tags import write_tags
from jobs.store.transitions import NOTIFY_AGAIN_SECONDS, is_job, write_event


def insert_job(connection: Connection, spec: AnySpec, resolved: Resolved, sent: dict[str, Any]) -> str:
    """Insert a new job and return its id.

    Args:
        connection: In a transaction that writes.
        spec: The job's spec.
        resolved: What `jobs.specs.resolve` made of it.
        sent: The columns that say who asked for it, and how.

    Raises:
        QuotaExceeded: the tenant has reached a limit of jobs, bytes or GPU hours.
        IntegrityError: its idempotency key exists, or something that it waits for or uses no longer does.
    """
    must_queue(connection, sent["tenant"], spec.resources.gpus)
    job_id = secrets.token_hex(6)
    row = connection.execute(_insert_statement(), _requested_columns(job_id, spec, resolved) | sent).one()
    submitted = {"state": State.QUEUED.value, "reason": "submitted"}
    told = {"warnings": resolved.warnings} if resolved.warnings else {}
    write_event(connection, row, "state", submitted | told)
    if row.tags:
        write_tags(connection, row)
    tally(connection, SUBMITTED, spec.kind)
    _warn(connection, job_id, resolved.warnings)
    for resource_id in resolved.uses:
        connection.execute(insert(uses).values(job_id=job_id, resource_id=resource_id))
    for waits_for in resolved.waits_for:
        connection.execute(insert(waits).values(job_id=job_id, waits_for=waits_for))
    return job_id


def _requested_columns(job_id: str, spec: AnySpec, resolved: Resolved) -> dict[str, Any]:
    """Return the columns that describe what was asked for."""
    return {
        "id": job_id,
        "name": spec.name or f"{spec.kind}-{job_id}",
        "kind": spec.kind,
        "priority": spec.priority,
        "tags": spec.tags,
        "queue": queue_for(spec.resources.gpus),
        "gpus": spec.resources.gpus,
        "spec": as_sent(spec),
        "resolved": resolved.config.model_dump(mode="json", by_alias=True),
    }


@cache  # as in `reading`
def _insert_statement() -> ReturningInsert[Any]:
    """Return the INSERT of a new job, with the columns of its state; what was asked for is passed as parameters."""
    here = {
        "state": State.QUEUED.value,
        "desired": Desired.RUN.value,
        "reason": "",
        "created_at": now(),
        "queued_at": now(),
        "ring_at": now() + NOTIFY_AGAIN_SECONDS,
        "event_count": 1,
    }
    told = (jobs.c[name] for name in ("id", "number", "tenant", "tags", "attempt", "event_count"))
    return insert(jobs).values(here).returning(*told)


def _warn(connection: Connection, job_id: str, warnings: tuple[str, ...]) -> None:
    """Write the warnings of the data check as events of the job."""
    for message in warnings:
        counted: Row[Any] = connection.execute(
            update(jobs).where(is_job(job_id)).values(event_count=jobs.c.event_count + 1).returning(jobs)
        ).one()
        write_event(connection, counted, "warning", {"kind": "warning", "message": message, "hint": ""})


def as_sent(spec: AnySpec) -> dict[str, Any]:
    """Return the spec as JSON values, with the fields that were sent and no others."""
    sent: dict[str, Any] = spec.model_dump(mode="json", by_alias=True, exclude_unset=True)
    return sent
