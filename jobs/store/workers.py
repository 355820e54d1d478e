"""Workers and their heartbeats.

Which job a worker runs is not stored here but in the jobs, so that it is never out of date.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from sqlalchemy import Row, and_, delete, insert, select, update

from jobs.job import State
from jobs.presence import Presence, Worker, WorkerState
from jobs.store.database import Database, now
from jobs.store.leases import LeasePolicy
from jobs.store.tables import jobs, workers

_FORGOTTEN_SECONDS = 86_400.0
"""Time for which a lost worker stays listed, so that an operator sees it the next morning."""


class Workers:
    """Methods about workers."""

    def __init__(self, database: Database, policy: LeasePolicy) -> None:
        self.database = database
        self.policy = policy

    def appear(self, presence: Presence) -> None:
        """Record a worker's heartbeat; the first one registers the worker."""
        told = presence.model_dump(mode="json")
        seen = told | {"seen_at": now()}
        with self.database.write() as connection:
            known = connection.execute(update(workers).where(workers.c.name == presence.name).values(seen))
            if known.rowcount == 0:
                connection.execute(insert(workers).values(seen | {"started_at": now()}))

    def vanish(self, worker: str) -> None:
        """Remove a worker from the list after it has shut down properly."""
        with self.database.write() as connection:
            connection.execute(delete(workers).where(workers.c.name == worker))

    def forget_workers(self) -> None:
        """Remove workers from the list that have been lost for a day."""
        with self.database.write() as connection:
            connection.execute(delete(workers).where(workers.c.seen_at < now() - _FORGOTTEN_SECONDS))

    def list_workers(self, *, tenant: str | None = None) -> tuple[Worker, ...]:
        """Return every worker, by name.

        Args:
            tenant: Tenant that asks; of another tenant's job it learns only that the worker is busy. None: an
                administrator, who may see all.
        """
        running = and_(jobs.c.worker == workers.c.name, jobs.c.state == State.RUNNING.value)
        query = select(
            workers,
            jobs.c.id.label("job_id"),
            jobs.c.tenant,
            (workers.c.seen_at < now() - self.policy.lease_seconds).label("lost"),
        )
        query = query.select_from(workers.outerjoin(jobs, running)).order_by(workers.c.name, jobs.c.number)
        with self.database.read() as connection:
            rows = {row.name: row for row in connection.execute(query)}  # one row per worker
        return tuple(_worker(row, tenant) for row in rows.values())


def _worker(row: Row[Any], tenant: str | None) -> Worker:
    told = {name: getattr(row, name) for name in Presence.model_fields}
    seen = tenant is None or row.tenant == tenant
    times = {name: datetime.fromtimestamp(getattr(row, name), UTC) for name in ("started_at", "seen_at")}
    return Worker(**told, **times, state=_state(row), job_id=row.job_id if seen else None)


def _state(row: Row[Any]) -> WorkerState:
    if row.lost:
        return WorkerState.LOST
    if row.draining:
        return WorkerState.DRAINING
    return WorkerState.IDLE if row.job_id is None else WorkerState.BUSY
