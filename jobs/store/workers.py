"""Which workers there are. What they run is not written here: the jobs say that, and so it is never out of date."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from sqlalchemy import Row, and_, delete, insert, select, update

from jobs.job import State
from jobs.presence import Presence, Worker, WorkerState
from jobs.store.database import now
from jobs.store.reading import Reading
from jobs.store.tables import jobs, workers

_FORGOTTEN_SECONDS = 86_400.0
"""How long a worker that vanished is shown as lost: so long that somebody who comes in the morning sees it."""


class Workers(Reading):
    """The verbs about workers."""

    lease_seconds: float

    def appear(self, presence: Presence) -> None:
        """Give a sign of life; the first one makes a worker known."""
        told = presence.model_dump(mode="json")
        seen = told | {"seen_at": now()}
        with self.database.write() as connection:
            known = connection.execute(update(workers).where(workers.c.name == presence.name).values(seen))
            if known.rowcount == 0:
                connection.execute(insert(workers).values(seen | {"started_at": now()}))

    def vanish(self, worker: str) -> None:
        """Take a worker off the list: it has ended as it should."""
        with self.database.write() as connection:
            connection.execute(delete(workers).where(workers.c.name == worker))

    def forget_workers(self) -> None:
        """Take those off the list that have been lost for a day."""
        with self.database.write() as connection:
            connection.execute(delete(workers).where(workers.c.seen_at < now() - _FORGOTTEN_SECONDS))

    def workers(self, *, tenant: str | None = None) -> tuple[Worker, ...]:
        """Every worker, by name.

        Args:
            tenant: Who asks; of another tenant's job only that it keeps the worker busy. None: who may see all.
        """
        running = and_(jobs.c.worker == workers.c.name, jobs.c.state == State.RUNNING.value)
        query = select(
            workers,
            jobs.c.id.label("job_id"),
            jobs.c.tenant,
            (workers.c.seen_at < now() - self.lease_seconds).label("lost"),
        )
        query = query.select_from(workers.outerjoin(jobs, running)).order_by(workers.c.name, jobs.c.number)
        with self.database.read() as connection:
            rows = {row.name: row for row in connection.execute(query)}  # one row a worker, whatever it holds
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
