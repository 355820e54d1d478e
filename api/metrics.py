"""Prometheus metrics of the service: what this process answered, and what the database counts.

Metrics about jobs come from the database only, so they are right after every restart and the same from every
API process.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from importlib.metadata import version
from typing import Generic, TypeVar

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Info, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_1_0_0 as CONTENT_TYPE
from prometheus_client.registry import Collector

from api.feeds import Feeds
from jobs.job import QUEUES, State
from jobs.metrics import COUNTS, Count, Counted, Figures
from jobs.presence import WorkerState
from jobs.store.store import Store

__all__ = ["CONTENT_TYPE", "ServiceMetrics"]

_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
"""Clients can send any word as a method; each new one would be a new time series for ever."""

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0, 60.0)

FRESH_SECONDS = 5.0
"""Minimum time between two queries of the database, however often and by however many the metrics are read."""
_BYTES_FRESH_SECONDS = 60.0
"""The same for the bytes of published files, which takes a scan of all of them."""

T = TypeVar("T")


class ServiceMetrics:
    """The metrics of this process and of the store.

    Args:
        store: The job store.
        feeds: The followers of jobs.
    """

    def __init__(self, store: Store, feeds: Feeds) -> None:
        self._registry = registry = CollectorRegistry()
        self._requests = Counter(
            "gkd_http_requests", "Requests answered.", ("method", "route", "status"), registry=registry
        )
        self._seconds = Histogram(
            "gkd_http_request_seconds",
            "From a request to the first byte of its answer; long polls wait on purpose.",
            ("method", "route"),
            buckets=_SECONDS,
            registry=registry,
        )
        followers = Gauge("gkd_followers", "Streams and long polls that are open now.", registry=registry)
        followers.set_function(feeds.followers)
        Info("gkd", "What answers.", registry=registry).info({"version": version("gkd")})
        registry.register(_OfTheStore(store))

    def answered(self, method: str, route: str | None, status: int | None, seconds: float | None) -> None:
        """Count a request.

        Args:
            method: As it was sent.
            route: Its template; None: there is no such route, or it was refused before routing.
            status: None: the client disconnected before the answer.
            seconds: Until its first byte.
        """
        known = method if method in _METHODS else "other"
        self._requests.labels(known, route or "none", str(status or "none")).inc()
        if seconds is not None:
            self._seconds.labels(known, route or "none").observe(seconds)

    def text(self) -> bytes:
        """Return all metrics in Prometheus' format.

        Raises:
            StoreUnavailable: the database does not answer.
        """
        return generate_latest(self._registry)


class _OfTheStore(Collector):
    """Collector of the metrics from the database."""

    def __init__(self, store: Store) -> None:
        self._figures = _Fresh(store.metrics.figures, FRESH_SECONDS)
        self._bytes = _Fresh(store.metrics.published_bytes, _BYTES_FRESH_SECONDS)

    def collect(self) -> Iterator[Metric]:
        """Yield every metric.

        Raises:
            StoreUnavailable: the database does not answer.
        """
        figures, published = self._figures(), self._bytes()
        yield GaugeMetricFamily("gkd_published_bytes", "Bytes of the published files.", value=published)
        yield from _gauges(figures)
        for count in COUNTS:
            yield _family(count, figures)


def _gauges(figures: Figures) -> Iterator[Metric]:
    """Yield the gauges, with explicit zeros, so that no series disappears from a chart."""
    jobs = GaugeMetricFamily("gkd_jobs", "Jobs, by state and queue.", labels=("state", "queue"))
    oldest = GaugeMetricFamily(
        "gkd_queue_oldest_seconds", "Since the job that waits longest was queued.", labels=("queue",)
    )
    workers = GaugeMetricFamily("gkd_workers", "Workers, by what they do.", labels=("state",))
    for queue in QUEUES:
        oldest.add_metric((queue,), figures.oldest_seconds.get(queue, 0.0))
        for state in State:
            jobs.add_metric((state.value, queue), figures.jobs.get((state.value, queue), 0))
    for doing in WorkerState:
        workers.add_metric((doing.value,), figures.workers.get(doing.value, 0))
    yield from (jobs, oldest, workers)


def _family(count: Count, figures: Figures) -> Metric:
    found = {labels: counted for (name, labels), counted in figures.counts.items() if name == count.name}
    if not count.labels:
        found = {(): found.get(("",), Counted({}, 0.0))}
    if count.bounds:
        return _histogram(count, found)
    family = CounterMetricFamily(count.name, count.help, labels=count.labels)
    for labels, counted in found.items():
        family.add_metric(labels, counted.number)
    return family


def _histogram(count: Count, found: dict[tuple[str, ...], Counted]) -> Metric:
    family = HistogramMetricFamily(count.name, count.help, labels=count.labels)
    for labels, counted in found.items():
        buckets = [(str(bound), counted.upto(bound)) for bound in count.bounds]
        buckets.append(("+Inf", counted.number))
        family.add_metric(labels, buckets, counted.total)
    return family


class _Fresh(Generic[T]):
    """A cached function; one thread at a time calls it."""

    def __init__(self, find: Callable[[], T], seconds: float) -> None:
        self._find = find
        self._seconds = seconds
        self._until = 0.0
        self._lock = threading.Lock()

    def __call__(self) -> T:
        with self._lock:
            if time.monotonic() > self._until:
                self._found = self._find()
                self._until = time.monotonic() + self._seconds
            return self._found
