"""Counters for metrics, incremented in the transaction in which the counted thing happens.

To count is to insert a row, so that concurrent writers neither block each other nor deadlock. The rows of each
counter are merged into one at intervals (`metrics.fold_counts`), so that there are never many.
"""

from __future__ import annotations

from sqlalchemy import Connection, insert

from jobs.metrics import Count
from jobs.store.tables import counts


def tally(
    connection: Connection, count: Count, *labels: str, number: int = 1, size: float | None = None
) -> None:
    """Increment a counter in this transaction.

    Args:
        connection: In a transaction that writes; if it is rolled back, nothing was counted.
        count: The counter.
        labels: One value for each of `count.labels`, without commas.
        number: The increment.
        size: The measured value, in the counter's unit; None if it measures nothing. Negative values, as after
            the clock was set back, are recorded as 0.
    """
    size = None if size is None else max(0.0, size)
    bound = None if size is None else count.bound(size)
    values = {"name": count.name, "labels": ",".join(labels), "bound": bound, "number": number}
    connection.execute(insert(counts), values | {"total": size or 0.0})
