"""How long a connection may take to ask, how many there may be, and which one goes when there are too many.

uvicorn limits none of it: half a request would hold a connection for ever, and a thousand of them every file that the
process may open. How long a body may take is said in `border.py`.
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
"""How long a connection may be silent between an answer and the next request."""
STALL_SECONDS = 60.0
"""How long what was written waits for who does not read it."""

_BACKLOG = 128
"""Connections that are taken at a stretch before any of them is looked at: so many may be open beyond the limit."""
_OTHER_FILES = 128
"""Files open beside connections and what is sent over them: of the database, the broker, Python, a worker."""
_FEWEST = 16
"""Connections that there may be, however few files the system allows."""
_TELL_SECONDS = 60.0
"""Between two lines in the log about too many connections."""


def server_config(http: FastAPI, settings: Settings, *, grace_seconds: int) -> uvicorn.Config:
    """Return how uvicorn is to serve the app: with limits on connections, and without a log of its own.

    Args:
        http: The app.
        settings: How long a request may take to arrive, and how many connections there may be.
        grace_seconds: For requests under way once the server is asked to stop.
    """
    crowd = Crowd(settings.header_seconds, affordable(settings.connections))
    protocol: Any = partial(BoundedConnection, crowd)  # uvicorn calls it for each connection
    return uvicorn.Config(
        http,
        http=protocol,
        ws="none",  # nothing here speaks it, and such a connection would know no limit
        log_config=None,
        access_log=False,
        backlog=_BACKLOG,
        timeout_keep_alive=KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=grace_seconds,
    )


def affordable(wanted: int) -> int:
    """Return how many connections there may be: those wanted, or as many as the process may open files for.

    A file may be sent over each, so one connection takes two. Where the system allows more files than the process was
    started with, more are asked for.
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
        header_seconds: How long a whole request may take to arrive.
        most: Connections that there may be.
    """

    def __init__(self, header_seconds: float, most: int) -> None:
        self.header_seconds = header_seconds
        self.waiting: dict[BoundedConnection, None] = {}
        """Those on which nothing is being answered, who waited longest first."""
        self._most = most
        self._told_at = -_TELL_SECONDS

    def has_room(self, newcomer: BoundedConnection) -> bool:
        """Return whether a connection may stay; when there are too many, the one that waited longest has to go."""
        if len(newcomer.connections) <= self._most:
            return True
        self._tell()
        oldest = next(iter(self.waiting), None)
        if oldest is not None:
            oldest.end()
        return oldest is not None

    def _tell(self) -> None:
        if time.monotonic() - self._told_at >= _TELL_SECONDS:
            self._told_at = time.monotonic()
            log.warning("more than %d connections: those that send no request are closed first", self._most)


class BoundedConnection(H11Protocol):
    """uvicorn's, but a whole request must arrive in time after the connection, or the last answer, was made.

    What comes meanwhile makes the time no longer: half a request, an empty line, a body for which nobody asked. And
    what is not read in time is not kept: the connection ends.

    Args:
        crowd: All connections of the server.
        made: What uvicorn says of the server.
    """

    def __init__(self, crowd: Crowd, **made: Any) -> None:
        super().__init__(**made)
        self._crowd = crowd
        self._timer: asyncio.TimerHandle | None = None
        self._stall: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn's
        """Begin to wait for a request, or refuse one connection too many."""
        super().connection_made(transport)
        if not self._crowd.has_room(self):
            self.transport.write(_refusal())
            self.transport.close()
        self._look()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the connection."""
        self._stop_timer()
        self._resumed()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Take what came, and go on waiting unless it made a request whole."""
        super().data_received(data)
        self._look()

    def on_response_complete(self) -> None:
        """Wait for the next request."""
        super().on_response_complete()
        self._look()

    def timeout_keep_alive_handler(self) -> None:
        """End the connection: no request came in time."""
        super().timeout_keep_alive_handler()
        self._look()

    def pause_writing(self) -> None:
        """Wait for the other side to read, but not for ever."""
        super().pause_writing()
        self._stall = self.loop.call_later(STALL_SECONDS, self.transport.abort)

    def resume_writing(self) -> None:
        """Go on: the other side reads."""
        super().resume_writing()
        self._resumed()

    def end(self) -> None:
        """End the connection at once."""
        self._stop_timer()
        self.transport.abort()

    def _look(self) -> None:
        """Look what is waited for now: the end, the app, or a request."""
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
    """Return the answer to a connection too many. No request was read, so nothing of the app has been passed."""
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
