"""What is counted over the life of the service, for Prometheus. The rows are `store/counters.py`'s.

Each is counted in the transaction in which it happens, so a count is as true as the jobs: it survives restarts, and
several APIs tell the same. What can be read off the tables at any time is not counted here.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

_MINUTE, _HOUR, _DAY = 60.0, 3600.0, 86_400.0


class Count(NamedTuple):
    """Something that is counted, or measured and counted by size."""

    name: str
    """Prometheus' name; that of a plain count gets `_total` there."""
    help: str
    labels: tuple[str, ...] = ()
    bounds: tuple[float, ...] = ()
    """Upper bounds of the sizes; none for what is only counted."""

    def bound(self, size: float) -> float | None:
        """The smallest bound that is not below a size; None: it is larger than all."""
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
    """How much there is of a count for one set of labels."""

    by_bound: Mapping[float | None, int]
    """By upper bound, each size counted once; None: larger than all, or what has no size."""
    total: float
    """Of all sizes."""

    @property
    def number(self) -> int:
        """How many, of all sizes."""
        return sum(self.by_bound.values())

    def upto(self, bound: float) -> int:
        """How many were at most so large."""
        return sum(number for each, number in self.by_bound.items() if each is not None and each <= bound)


class Figures(NamedTuple):
    """How the service does."""

    jobs: Mapping[tuple[str, str], int]
    """By state and queue."""
    oldest_seconds: Mapping[str, float]
    """By queue: since the one of its waiting jobs that waits longest was queued."""
    workers: Mapping[str, int]
    """By state."""
    counts: Mapping[tuple[str, tuple[str, ...]], Counted]
    """By name and labels."""
