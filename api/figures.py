"""Numbers about this service for Prometheus: what this process answered, and what stands in the database.

Numbers about jobs come from the database alone, so they are true after every restart and the same from every API.
"""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_1_0_0 as CONTENT_TYPE

from api.feeds import Feeds

__all__ = ["CONTENT_TYPE", "Figures"]

_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
"""Anybody can send any word as a method; each new one would be a new row for ever."""

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0, 60.0)


class Figures:
    """What Prometheus is told.

    Args:
        feeds: Who follows jobs now.
    """

    def __init__(self, feeds: Feeds) -> None:
        self._registry = CollectorRegistry()
        self._requests = Counter(
            "gkd_http_requests",
            "Requests answered by this process.",
            ("method", "route", "status"),
            registry=self._registry,
        )
        self._seconds = Histogram(
            "gkd_http_request_seconds",
            "From a request to the first byte of its answer; long polls wait on purpose.",
            ("method", "route"),
            buckets=_SECONDS,
            registry=self._registry,
        )
        followers = Gauge(
            "gkd_followers", "Streams and long polls that this process serves now.", registry=self._registry
        )
        followers.set_function(feeds.followers)

    def answered(self, method: str, route: str | None, status: int | None, seconds: float | None) -> None:
        """Count a request.

        Args:
            method: As it was sent.
            route: Its template; None: there is no such route, or it was refused before it was looked for.
            status: None: nobody waited for the answer.
            seconds: Until its first byte.
        """
        known = method if method in _METHODS else "other"
        self._requests.labels(known, route or "none", str(status or "none")).inc()
        if seconds is not None:
            self._seconds.labels(known, route or "none").observe(seconds)

    def text(self) -> bytes:
        """All of it, in Prometheus' format."""
        return generate_latest(self._registry)
