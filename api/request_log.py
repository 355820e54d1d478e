"""What is passed first on the way in and last on the way out: every request gets an id, every answer what keeps it
from harm in a browser, and of both one line is logged and one number counted.

A defect of ours ends here as a problem, too, so that its answer carries all of that.
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
from api.metrics import Told
from jobs.logs import bound

log = logging.getLogger(__name__)

_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")

_ASKED_ALL_THE_TIME = frozenset({"/healthz", "/readyz", "/metrics"})
"""Routes that machines ask every few seconds; as long as all is well with them they are no news."""

_ON_EVERY_ANSWER = (
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
    (b"content-security-policy", b"default-src 'none'; frame-ancestors 'none'; sandbox"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"cache-control", b"no-store"),
)
"""Unless a route says otherwise. Nothing that we answer is to be run, framed, guessed at or kept by a browser."""


class RequestLog:
    """ASGI middleware.

    Args:
        app: What lies behind it.
        told: Where requests are counted.
    """

    def __init__(self, app: ASGIApp, told: Told) -> None:
        self.app = app
        self._told = told

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let a request through, and tell what became of it."""
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
                if answer.status is not None:  # half of it is out: the server cuts the connection
                    raise
                await defect(Request(scope), error)(scope, receive, answer.send)
            finally:
                self._tell(scope, answer)

    def _tell(self, scope: Scope, answer: _Answer) -> None:
        route = getattr(scope.get("route"), "path", None)
        self._told.answered(scope["method"], route, answer.status, answer.first_seconds)
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
    """An answer on its way out."""

    def __init__(self, send: Send, request_id: str) -> None:
        self._send = send
        self._request_id = request_id.encode()
        self._begun = time.perf_counter()
        self.status: int | None = None
        """None until its first byte."""
        self.first_seconds: float | None = None
        """From the request to the first byte: what a stream takes after that says nothing about the service."""

    @property
    def seconds(self) -> float:
        """Since the request."""
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
    """The sender's, where it is fit to be logged; otherwise a new one."""
    sent = headers.get("x-request-id", "")
    return sent if _ID.fullmatch(sent) else uuid.uuid4().hex
