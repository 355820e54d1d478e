"""What every request passes first: it gets an id, a limit on its size, and a look at where it comes from.

The last matters where the service listens on the loopback without keys: any page open in a browser on the same
machine could talk to it. A browser says where a request comes from (`Sec-Fetch-Site`). Who asks is `auth.py`'s.
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

_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")


class Border:
    """ASGI middleware."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

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

        if _from_another_site(headers) and scope["method"] not in ("GET", "HEAD", "OPTIONS"):
            refusal = "a page of another site may not change anything here"
            await problem(Request(scope), 403, "forbidden", refusal)(scope, receive, named)
            return
        await self.app(scope, _limited(receive), named)


def _from_another_site(headers: Headers) -> bool:
    return headers.get("sec-fetch-site", "none") not in ("none", "same-origin")


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
