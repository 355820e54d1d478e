"""A client of server-sent events: one connection, with detection of proxies that buffer streams."""

from __future__ import annotations

from collections.abc import Iterator

import httpx
from httpx_sse import EventSource

from jobs.job import StoredEvent

SILENCE_SECONDS = 60.0
"""Silence after which a stream is given up: the service sends a heartbeat every 15 s."""


class NoStream(Exception):
    """The server does not stream: an older service, or a proxy that buffers answers."""


class NothingMore(Exception):
    """The job has ended, and all its events are known."""


def listen(http: httpx.Client, path: str, after: int) -> Iterator[StoredEvent | None]:
    """Yield the events of a job after number `after`, until the connection ends; None is a heartbeat.

    Raises:
        NoStream: poll for pages of events instead.
        NothingMore: do not reconnect.
        httpx.HTTPError: there is no connection (any more), or the service refused.
    """
    timeout = httpx.Timeout(SILENCE_SECONDS)
    heard = False
    try:
        with http.stream("GET", path, headers={"Last-Event-ID": str(after)}, timeout=timeout) as answer:
            _must_stream(answer)
            for said in EventSource(answer).iter_sse():
                heard = True
                yield StoredEvent.model_validate_json(said.data) if said.data else None
    except httpx.ReadTimeout as error:
        if not heard:
            raise NoStream from error
        raise


def _must_stream(answer: httpx.Response) -> None:
    if answer.is_error:
        answer.read()
        if answer.status_code == 404 and "unknown_job" not in answer.text:
            raise NoStream
        answer.raise_for_status()
    if answer.status_code == 204:
        raise NothingMore
    if "text/event-stream" not in answer.headers.get("Content-Type", ""):
        raise NoStream
