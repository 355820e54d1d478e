"""What clients that follow jobs read: the number of the newest event, and metric curves."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import NamedTuple

from sqlalchemy import Text, cast, select

from jobs.curves import KINDS, JobCurves, Measurements
from jobs.job import State
from jobs.store.database import Database
from jobs.store.reading import must_know
from jobs.store.tables import events, jobs

_ROWS = 2000
"""Events that are in memory at once while curves are computed."""


class Head(NamedTuple):
    """Number of the newest event of a job, and the job's state."""

    last: int
    """Number of the newest event."""
    state: State


class Following:
    """Methods for clients that follow jobs."""

    def __init__(self, database: Database) -> None:
        self.database = database

    def heads(self, job_ids: Sequence[str]) -> dict[str, Head]:
        """Return the newest event's number and the state of each job, by id; unknown ids are left out."""
        query = select(jobs.c.id, jobs.c.event_count, jobs.c.state).where(jobs.c.id.in_(job_ids))
        with self.database.read() as connection:
            return {row.id: Head(row.event_count, State(row.state)) for row in connection.execute(query)}

    def curves(self, job_id: str, *, points: int = 500, tenant: str | None = None) -> JobCurves:
        """Return the metric curves of a job.

        Args:
            job_id: The job.
            points: Maximum number of points of each curve.
            tenant: Tenant that must own the job; None: any.

        Raises:
            UnknownJob: no job has this id.
        """
        body = cast(events.c.body, Text)  # JSON as stored text: the driver need not parse it
        query = select(events.c.kind, body).where(events.c.job_id == job_id, events.c.kind.in_(KINDS))
        measured = Measurements()
        with self.database.scan() as connection:
            must_know(connection, job_id, tenant)
            rows = connection.execution_options(yield_per=_ROWS).execute(query.order_by(events.c.number))
            for kind, text in rows:
                measured.add(kind, json.loads(text))
        return measured.curves(points)
