"""Counting something, in the transaction in which it happens.

To count is to insert a row: nobody waits for another who counts the same, and no two can wait for each other. The rows
of each count are folded into one again and again (`metrics.fold_counts`), so that there are never many.
"""

from __future__ import annotations

from sqlalchemy import Connection, insert

from jobs.metrics import Count
from jobs.store.tables import counts


def tally(
    connection: Connection, count: Count, *labels: str, number: int = 1, size: float | None = None
) -> None:
    """Count something that happens in this transaction.

    Args:
        connection: In a transaction that writes; undone, it counted nothing.
        count: What.
        labels: One for each of `count.labels`; none has a comma.
        number: How many.
        size: Where that is measured, in the count's unit; below 0, as after a clock was set back, it is 0.
    """
    size = None if size is None else max(0.0, size)
    bound = None if size is None else count.bound(size)
    values = {"name": count.name, "labels": ",".join(labels), "bound": bound, "number": number}
    connection.execute(insert(counts), values | {"total": size or 0.0})
