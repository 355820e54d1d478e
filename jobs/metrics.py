"""Counters over the lifetime of the service, for Prometheus. Their rows belong to `store/counters.py`.

Each is incremented in the transaction in which the counted thing happens, so it is as reliable as the jobs: it
survives restarts, and several API processes report the same. What the tables can tell at any time has no
counter.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

_MINUTE, _HOUR, _DAY = 60.0, 3600.0, 86_400.0


class Count(NamedTuple):
    """The definition of a counter or histogram."""

    name: str
    """Prometheus' name; a counter gets `_total` there."""
    help: str
    labels: tuple[str, ...] = ()
    bounds: tuple[float, ...] = ()
    """Upper bounds of the histogram's buckets; empty for a counter."""

    def bound(self, size: float) -> float | None:
        """Return the smallest upper bound that is not below a size; None: the size is above all."""
        return next((bound for bound in self.bounds if size <= bound), None)


SUBMITTED = Count("gkd_jobs_submitted", "Jobs that were taken in.", ("kind",))
ENDED = Count("gkd_jobs_ended", "Jobs that came to an end.", ("kind", "state"))
EVENTS = Count("gkd_job_events", "Events of the jobs that came to an end.")
QUEUE_SECONDS = Count(
    "gkd_queue_seconds",
    "From when a job was queued, or queued again, to when a worker claimed it.",
    ("queue",),
    (1.0, 5.0, 15.0, _MINUTE, 5 * _MINUTE, 15 * _MINUTE, _HOUR, 4 * _HOUR, _DAY, 7 * _DAY),
)
ATTEMPT_SECONDS = Count(
    "gkd_attempt_seconds",
    "From when a worker claimed a job to when it was done with it, for whatever reason.",
    ("kind", "outcome"),
    (10.0, _MINUTE, 10 * _MINUTE, 30 * _MINUTE, _HOUR, 4 * _HOUR, 12 * _HOUR, _DAY, 3 * _DAY),
)
LEASES_LOST = Count(
    "gkd_leases_lost",
    "Jobs taken back from a worker: its lease expired, or it was killed and its successor gave them back.",
    ("how",),
)
STALE_WRITES = Count(
    "gkd_stale_writes_refused", "Writes about a job by a worker that did not hold it any more.", ("verb",)
)
SWEEPS = Count("gkd_sweeps", "Times that somebody looked for lost jobs and lost rings.")

COUNTS = (SUBMITTED, ENDED, EVENTS, QUEUE_SECONDS, ATTEMPT_SECONDS, LEASES_LOST, STALE_WRITES, SWEEPS)


class Counted(NamedTuple):
    """The value of a counter or histogram for one set of labels."""

    by_bound: Mapping[float | None, int]
    """Number per bucket (not cumulative), by upper bound; None: above all bounds, or the value of a counter."""
    total: float
    """Sum of all sizes."""

    @property
    def number(self) -> int:
        """Return the number of all observations."""
        return sum(self.by_bound.values())

    def upto(self, bound: float) -> int:
        """Return the number of observations that are at most `bound`."""
        return sum(number for each, number in self.by_bound.items() if each is not None and each <= bound)


class Figures(NamedTuple):
    """The service's current metrics."""

    jobs: Mapping[tuple[str, str], int]
    """Number of jobs by state and queue."""
    oldest_seconds: Mapping[str, float]
    """By queue: seconds since its oldest waiting job was queued."""
    workers: Mapping[str, int]
    """Number of workers by state."""
    counts: Mapping[tuple[str, tuple[str, ...]], Counted]
    """By name and labels."""
