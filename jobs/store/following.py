"""What those read who follow jobs: where their events stand, and how numbers went."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import NamedTuple

from sqlalchemy import Text, cast, select

from jobs.curves import KINDS, JobCurves, Measurements
from jobs.job import State
from jobs.store.reading import Reading, must_know
from jobs.store.tables import events, jobs

_ROWS = 2000
"""Events that are in memory at once while curves are made."""


class Head(NamedTuple):
    """Where the events of a job stand."""

    last: int
    """Number of the newest one."""
    state: State


class Following(Reading):
    """The verbs of those who follow jobs."""

    def heads(self, job_ids: Sequence[str]) -> dict[str, Head]:
        """Where the events of jobs stand, by id; those that there are not are left out."""
        query = select(jobs.c.id, jobs.c.event_count, jobs.c.state).where(jobs.c.id.in_(job_ids))
        with self.database.read() as connection:
            return {row.id: Head(row.event_count, State(row.state)) for row in connection.execute(query)}

    def curves(self, job_id: str, *, points: int = 500, tenant: str | None = None) -> JobCurves:
        """How the numbers of a job went.

        Args:
            job_id: The job.
            points: Of each curve, at most.
            tenant: Whose job it must be; None: anybody's.

        Raises:
            UnknownJob: there is none of this id.
        """
        body = cast(events.c.body, Text)  # JSON as it lies there: the driver need not look into it
        query = select(events.c.kind, body).where(events.c.job_id == job_id, events.c.kind.in_(KINDS))
        measured = Measurements()
        with self.database.scan() as connection:
            must_know(connection, job_id, tenant)
            rows = connection.execution_options(yield_per=_ROWS).execute(query.order_by(events.c.number))
            for kind, text in rows:
                measured.add(kind, json.loads(text))
        return measured.curves(points)
