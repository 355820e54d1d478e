"""Service metrics: read from the tables, or from counters incremented earlier (`counters`)."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from typing import Any

from sqlalchemy import Connection, delete, func, insert, select

from jobs.job import State
from jobs.metrics import Counted, Figures
from jobs.store.database import Database, now
from jobs.store.tables import artifacts, counts, jobs
from jobs.store.transitions import is_in
from jobs.store.workers import Workers

_COUNTED = (counts.c.name, counts.c.labels, counts.c.bound)


class Metrics:
    """Methods for monitoring. Their queries use indexes only, or read few rows."""

    def __init__(self, database: Database, workers: Workers) -> None:
        self.database = database
        self._workers = workers

    def figures(self) -> Figures:
        """Return the service's current metrics."""
        with self.database.read() as connection:
            by_state = select(jobs.c.state, jobs.c.queue, func.count()).group_by(jobs.c.state, jobs.c.queue)
            oldest = select(jobs.c.queue, now() - func.min(jobs.c.queued_at)).group_by(jobs.c.queue)
            found = connection.execute(by_state).all()
            waiting = connection.execute(oldest.where(is_in(State.QUEUED))).all()
            counted = _counted(connection)
        return Figures(
            jobs={(state, queue): number for state, queue, number in found},
            oldest_seconds=dict(map(tuple, waiting)),
            workers=Counter(worker.state.value for worker in self._workers.list_workers()),
            counts=counted,
        )

    def published_bytes(self) -> int:
        """Return the bytes of the published files that jobs name; files of equal content count once."""
        files = select(artifacts.c.sha256, artifacts.c.size).distinct().subquery()
        with self.database.read() as connection:
            return int(connection.scalar(select(func.coalesce(func.sum(files.c.size), 0))) or 0)

    def fold_counts(self) -> None:
        """Merge the rows of each counter into one. Safe if several do so at once."""
        with self.database.write() as connection:
            rows = connection.execute(
                delete(counts).returning(*_COUNTED, counts.c.number, counts.c.total)
            ).all()
            if folded := _folded(rows):
                connection.execute(insert(counts), folded)


def _folded(rows: Iterable[Sequence[Any]]) -> list[dict[str, Any]]:
    sums: dict[tuple[Any, ...], list[float]] = defaultdict(lambda: [0, 0.0])
    for name, labels, bound, number, total in rows:
        sums[name, labels, bound][0] += number
        sums[name, labels, bound][1] += total
    return [
        {"name": name, "labels": labels, "bound": bound, "number": number, "total": total}
        for (name, labels, bound), (number, total) in sums.items()
    ]


def _counted(connection: Connection) -> dict[tuple[str, tuple[str, ...]], Counted]:
    query = select(*_COUNTED, func.sum(counts.c.number), func.sum(counts.c.total)).group_by(*_COUNTED)
    numbers: dict[tuple[str, str], dict[float | None, int]] = defaultdict(dict)
    totals: dict[tuple[str, str], float] = defaultdict(float)
    for name, labels, bound, number, total in connection.execute(query):
        numbers[name, labels][bound] = int(number)
        totals[name, labels] += total
    return {
        (name, tuple(labels.split(","))): Counted(by_bound, totals[name, labels])
        for (name, labels), by_bound in numbers.items()
    }
