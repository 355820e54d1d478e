"""What every request passes first: it gets an id, a limit on its size, and a look at where it comes from.

The last matters because the service has no keys yet and listens on the loopback: any page open in a browser on
the same machine could talk to it. A browser says where a request comes from (`Sec-Fetch-Site`) and which name it
looked up (`Host`); both must be this machine's.
"""

from __future__ import annotations

import re
import uuid

from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from api.errors import problem

BODY_LIMIT = 1024 * 1024
"""Bytes. A job spec has a few thousand."""

LOOPBACK = frozenset({"127.0.0.1", "localhost", "[::1]"})

_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")


class Border:
    """ASGI middleware; `hosts` are the names under which the service may be asked for, None: any."""

    def __init__(self, app: ASGIApp, hosts: frozenset[str] | None = LOOPBACK) -> None:
        self.app = app
        self.hosts = hosts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let a request through, or answer 403 or 413."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        request_id = _request_id(headers)
        scope.setdefault("state", {})["request_id"] = request_id

        async def named(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message)["X-Request-ID"] = request_id
            await send(message)

        if refusal := self._refusal(headers, scope["method"]):
            await problem(Request(scope), 403, "forbidden", refusal)(scope, receive, named)
            return
        await self.app(scope, _limited(receive), named)

    def _refusal(self, headers: Headers, method: str) -> str | None:
        host = headers.get("host", "")
        name = re.sub(r":\d+$", "", host).lower()
        if self.hosts is not None and name not in self.hosts:
            return f"this service answers to {', '.join(sorted(self.hosts))} only, not to {host[:80]!r}"
        foreign = headers.get("sec-fetch-site", "none") not in ("none", "same-origin")
        if foreign and method not in ("GET", "HEAD", "OPTIONS"):
            return "a page of another site may not change anything here"
        return None


def _request_id(headers: Headers) -> str:
    """The sender's, where it is fit to be logged; otherwise a new one."""
    sent = headers.get("x-request-id", "")
    return sent if _ID.fullmatch(sent) else uuid.uuid4().hex


def _limited(receive: Receive) -> Receive:
    """`receive`, but a body beyond the limit is a 413 as soon as that shows."""
    read = 0

    async def limited() -> Message:
        nonlocal read
        message = await receive()
        read += len(message.get("body", b""))
        if read > BODY_LIMIT:
            raise HTTPException(413, f"a body has at most {BODY_LIMIT} bytes")
        return message

    return limited
