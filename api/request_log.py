"""The outermost middleware: request ids, security headers, one log line and one count for each request.

An unexpected error becomes problem details here, so that its answer has all of these.
"""

from __future__ import annotations

import logging
import re
import time
import uuid

from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from api.errors import defect
from api.metrics import ServiceMetrics
from jobs.logs import bound

log = logging.getLogger(__name__)

_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")

_ASKED_ALL_THE_TIME = frozenset({"/healthz", "/readyz", "/metrics"})
"""Routes that monitoring reads every few seconds; while they succeed they are logged at DEBUG."""

_ON_EVERY_ANSWER = (
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
    (b"content-security-policy", b"default-src 'none'; frame-ancestors 'none'; sandbox"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"cache-control", b"no-store"),
)
"""Headers of every answer, unless a route sets them. No answer is to be run, framed, sniffed or cached by a
browser."""


class RequestLog:
    """ASGI middleware that logs and counts requests.

    Args:
        app: The next ASGI app.
        metrics: Where requests are counted.
    """

    def __init__(self, app: ASGIApp, metrics: ServiceMetrics) -> None:
        self.app = app
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, then log and count its answer."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        request_id = _request_id(Headers(scope=scope))
        scope.setdefault("state", {})["request_id"] = request_id
        answer = _Answer(send, request_id)
        with bound(request=request_id):
            try:
                await self.app(scope, receive, answer.send)
            except Exception as error:
                if answer.status is not None:  # half of it is sent: the server closes the connection
                    raise
                await defect(Request(scope), error)(scope, receive, answer.send)
            finally:
                self._log_and_count(scope, answer)

    def _log_and_count(self, scope: Scope, answer: _Answer) -> None:
        route = getattr(scope.get("route"), "path", None)
        self._metrics.answered(scope["method"], route, answer.status, answer.first_seconds)
        who = scope["state"].get("principal")
        quiet = route in _ASKED_ALL_THE_TIME and answer.status == 200
        log.log(
            logging.DEBUG if quiet else logging.INFO,
            "%s %s %s",
            scope["method"],
            scope.get("raw_path", b"").decode("ascii", "replace")[:200],
            answer.status or "not answered",
            extra={
                "method": scope["method"],
                "route": route,
                "status": answer.status,
                "ms": round(answer.seconds * 1000, 1),
                "tenant": who and who.tenant,
                "key_id": who and who.key_id,
                "job": scope.get("path_params", {}).get("job_id"),
            },
        )


class _Answer:
    """An answer while it is sent."""

    def __init__(self, send: Send, request_id: str) -> None:
        self._send = send
        self._request_id = request_id.encode()
        self._begun = time.perf_counter()
        self.status: int | None = None
        """None until its first byte."""
        self.first_seconds: float | None = None
        """From the request to the first byte: the duration of a stream says nothing about the service."""

    @property
    def seconds(self) -> float:
        """Return the seconds since the request."""
        return time.perf_counter() - self._begun

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status, self.first_seconds = message["status"], self.seconds
            given = list(message.get("headers", ()))
            named = {name for name, _ in given}
            more = [(name, value) for name, value in _ON_EVERY_ANSWER if name not in named]
            if b"x-request-id" not in named:
                more.append((b"x-request-id", self._request_id))
            message["headers"] = [*given, *more]
        await self._send(message)


def _request_id(headers: Headers) -> str:
    """Return the client's request id if it is safe to log, otherwise a new one."""
    sent = headers.get("x-request-id", "")
    return sent if _ID.fullmatch(sent) else uuid.uuid4().hex
