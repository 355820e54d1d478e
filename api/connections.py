"""Limits on connections: timeouts, their maximum number, and which one is closed beyond it.

uvicorn has none of these limits: half a request would hold a connection for ever, and a thousand of them every
file that the process may open. The timeout of a body is in `request_guard.py`.
"""

from __future__ import annotations

import asyncio
import logging
import resource
import time
import uuid
from collections.abc import Callable
from functools import partial
from typing import Any

import uvicorn
from fastapi import FastAPI
from uvicorn.protocols.http.h11_impl import H11Protocol

from api.errors import MEDIA_TYPE, ProblemDetails
from jobs.settings import Settings

log = logging.getLogger(__name__)

KEEP_ALIVE_SECONDS = 5
"""Maximum idle time between an answer and the next request."""
STALL_SECONDS = 60.0
"""Time for which written data waits for a client that does not read."""

_BACKLOG = 128
"""Connections accepted at a stretch before any of them is checked: this many may be open beyond the limit."""
_OTHER_FILES = 128
"""Open files besides connections and what is sent over them: of the database, the broker, Python, a worker."""
_FEWEST = 16
"""Minimum limit of connections, however few files the system allows."""
_LOG_SECONDS = 60.0
"""Minimum time between two log lines about too many connections."""


def server_config(http: FastAPI, settings: Settings, *, grace_seconds: int) -> uvicorn.Config:
    """Return the uvicorn config of the app: with limits on connections, and without a log of its own.

    Args:
        http: The app.
        settings: Timeout of a request's headers, and the limit of connections.
        grace_seconds: For requests in progress once the server is asked to stop.
    """
    crowd = Crowd(settings.header_seconds, affordable(settings.connections))
    protocol: Any = partial(BoundedConnection, crowd)  # uvicorn calls it for each connection
    return uvicorn.Config(
        http,
        http=protocol,
        ws="none",  # websockets are not used, and such a connection would have no limit
        log_config=None,
        access_log=False,
        backlog=_BACKLOG,
        timeout_keep_alive=KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=grace_seconds,
    )


def affordable(wanted: int) -> int:
    """Return the limit of connections: as wanted, or as many as the process may open files for.

    A file may be sent over each, so one connection takes two. The soft limit of open files is raised if the
    system allows.
    """
    needed = 2 * wanted + _BACKLOG + _OTHER_FILES
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if resource.RLIM_INFINITY not in (soft, hard) and soft < needed:
        soft = min(needed, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    if soft == resource.RLIM_INFINITY or soft >= needed:
        return wanted
    most = max(_FEWEST, (soft - _BACKLOG - _OTHER_FILES) // 2)
    log.warning("GKD_CONNECTIONS is %d, but with %d open files (ulimit -n) it is %d", wanted, soft, most)
    return most


class Crowd:
    """The connections of one server.

    Args:
        header_seconds: Timeout of a whole request.
        most: Maximum number of connections.
    """

    def __init__(self, header_seconds: float, most: int) -> None:
        self.header_seconds = header_seconds
        self.waiting: dict[BoundedConnection, None] = {}
        """Idle connections, the longest idle first."""
        self._most = most
        self._logged_at = -_LOG_SECONDS

    def has_room(self, newcomer: BoundedConnection) -> bool:
        """Return whether a connection may stay.

        If there are too many, the one that has been idle longest is closed.
        """
        if len(newcomer.connections) <= self._most:
            return True
        self._log_crowded()
        oldest = next(iter(self.waiting), None)
        if oldest is not None:
            oldest.end()
        return oldest is not None

    def _log_crowded(self) -> None:
        if time.monotonic() - self._logged_at >= _LOG_SECONDS:
            self._logged_at = time.monotonic()
            log.warning("more than %d connections: those that send no request are closed first", self._most)


class BoundedConnection(H11Protocol):
    """uvicorn's connection, with a timeout for a whole request from the connection or the last answer on.

    Received data does not extend it: half a request, an empty line, a body that was not asked for. What the
    client does not read in time is dropped: the connection is closed.

    Args:
        crowd: All connections of the server.
        made: uvicorn's arguments.
    """

    def __init__(self, crowd: Crowd, **made: Any) -> None:
        super().__init__(**made)
        self._crowd = crowd
        self._timer: asyncio.TimerHandle | None = None
        self._stall: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn's
        """Start the timeout of a request, or refuse one connection too many."""
        super().connection_made(transport)
        if not self._crowd.has_room(self):
            self.transport.write(_refusal())
            self.transport.close()
        self._update_timer()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the connection."""
        self._stop_timer()
        self._resumed()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Process received data, and keep the timeout unless it completed a request."""
        super().data_received(data)
        self._update_timer()

    def on_response_complete(self) -> None:
        """Wait for the next request."""
        super().on_response_complete()
        self._update_timer()

    def timeout_keep_alive_handler(self) -> None:
        """Close the connection: no request arrived in time."""
        super().timeout_keep_alive_handler()
        self._update_timer()

    def pause_writing(self) -> None:
        """Start the timeout for a client that does not read."""
        super().pause_writing()
        self._stall = self.loop.call_later(STALL_SECONDS, self.transport.abort)

    def resume_writing(self) -> None:
        """Stop that timeout: the client reads."""
        super().resume_writing()
        self._resumed()

    def end(self) -> None:
        """Close the connection at once."""
        self._stop_timer()
        self.transport.abort()

    def _update_timer(self) -> None:
        """Start or stop the timeout that fits the connection's state: closing, answering, or idle."""
        if self.transport.is_closing():
            self._stop_timer()
            self._start_timer(STALL_SECONDS, self.transport.abort)
        elif self.cycle is not None and not self.cycle.response_complete:
            self._stop_timer()
        elif self not in self._crowd.waiting:
            self._start_timer(self._crowd.header_seconds, self.timeout_keep_alive_handler)
            self._crowd.waiting[self] = None

    def _start_timer(self, seconds: float, act: Callable[[], None]) -> None:
        self._timer = self.loop.call_later(seconds, act)

    def _stop_timer(self) -> None:
        self._crowd.waiting.pop(self, None)
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _resumed(self) -> None:
        if self._stall is not None:
            self._stall.cancel()
            self._stall = None


def _refusal() -> bytes:
    """Return the answer to one connection too many. No request was read, so no part of the app was run."""
    request_id = uuid.uuid4().hex
    body = ProblemDetails(
        title="Service Unavailable",
        status=503,
        detail="all connections that this API may have are being answered; try again in a few seconds",
        code="too_many_connections",
        request_id=request_id,
    ).model_dump_json(exclude_none=True)
    head = (
        "HTTP/1.1 503 Service Unavailable",
        f"Content-Type: {MEDIA_TYPE}",
        f"Content-Length: {len(body)}",
        f"X-Request-ID: {request_id}",
        "Retry-After: 5",
        "Connection: close",
    )
    return "\r\n".join((*head, "", body)).encode()
