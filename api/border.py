"""What every request passes before anybody asks whose it is: a limit on its size, a look at where it comes from.

The last matters where the service listens on the loopback without keys: any page open in a browser on the same
machine could talk to it. A browser says where a request comes from (`Sec-Fetch-Site`). Who asks is `auth.py`'s.
"""

from __future__ import annotations

from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from api.errors import problem

BODY_LIMIT = 1024 * 1024
"""Bytes. A job spec has a few thousand."""

UPLOADS = frozenset({("POST", "/datasets"), ("POST", "/models")})
"""Requests whose body, unless it is JSON, is a file: written to the disk as it comes, and limited by a setting."""


class Border:
    """ASGI middleware.

    Args:
        app: What lies behind it.
        upload_bytes: What an upload may have; other bodies have `BODY_LIMIT` at most.
    """

    def __init__(self, app: ASGIApp, upload_bytes: int) -> None:
        self.app = app
        self._upload_bytes = upload_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let a request through, or answer 403 or 413."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        if _from_another_site(headers) and scope["method"] not in ("GET", "HEAD", "OPTIONS"):
            refusal = "a page of another site may not change anything here"
            await problem(Request(scope), 403, "forbidden", refusal)(scope, receive, send)
            return
        limit = self._upload_bytes if _is_upload(scope, headers) else BODY_LIMIT
        await self.app(scope, _limited(receive, limit), send)


def _from_another_site(headers: Headers) -> bool:
    return headers.get("sec-fetch-site", "none") not in ("none", "same-origin")


def _is_upload(scope: Scope, headers: Headers) -> bool:
    return (scope["method"], scope["path"]) in UPLOADS and not is_json(headers)


def is_json(headers: Headers) -> bool:
    """Whether a body says that it is JSON."""
    return headers.get("content-type", "").partition(";")[0].strip().lower() == "application/json"


def _limited(receive: Receive, limit: int) -> Receive:
    """`receive`, but a body beyond the limit is a 413 as soon as that shows."""
    read = 0

    async def limited() -> Message:
        nonlocal read
        message = await receive()
        read += len(message.get("body", b""))
        if read > limit:
            raise HTTPException(413, f"a body has at most {limit} bytes")
        return message

    return limited
