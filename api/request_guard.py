"""Checks of every request before authentication: the size and duration of its body, and the site it comes from.

The latter matters if the service listens on the loopback without keys: any page open in a browser on the same
machine could talk to it. A browser says where a request comes from: `Sec-Fetch-Site`, older ones `Origin`.
With `GKD_ALLOWED_HOSTS` the name by which the service was called is checked, too. Authentication is in `auth.py`,
which without keys admits the names of the loopback only.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Collection
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from api.errors import problem

BODY_LIMIT = 1024 * 1024
"""Maximum bytes of a body. A job spec has a few thousand."""

UPLOADS = frozenset({("POST", "/datasets"), ("POST", "/models")})
"""Requests whose body, unless it is JSON, is a file: streamed to disk, and limited by a setting."""

LOOPBACK = frozenset({"127.0.0.1", "localhost", "[::1]"})
"""Names of this machine."""

_PROBED = frozenset({"/healthz", "/readyz"})
"""Paths that load balancers request by address; they say nothing that a page elsewhere could use."""

BODY_SECONDS = 30.0
"""Timeout of a body; larger ones have as much longer as they take at `SLOWEST_BYTES_A_SECOND`."""
SLOWEST_BYTES_A_SECOND = 16 * 1024
"""A client slower than any real network holds a connection on purpose."""


class RequestGuard:
    """ASGI middleware that limits bodies, and refuses changes from other sites and unknown names of the service.

    Args:
        app: The next ASGI app.
        upload_bytes: Maximum bytes of an upload; other bodies have at most `BODY_LIMIT`.
        allowed_hosts: Names by which the service may be called, besides those of the loopback; None: any.
    """

    def __init__(self, app: ASGIApp, upload_bytes: int, allowed_hosts: Collection[str] | None = None) -> None:
        self.app = app
        self._upload_bytes = upload_bytes
        self._hosts = None if allowed_hosts is None else LOOPBACK | set(allowed_hosts)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or answer 403, 408 or 413."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        if not self._is_known(host := headers.get("host", ""), scope["path"]):
            refusal = f"this service is not called {host[:80]!r}; GKD_ALLOWED_HOSTS lists its names"
            await problem(Request(scope), 403, "forbidden", refusal)(scope, receive, send)
            return
        if _from_another_site(headers) and scope["method"] not in ("GET", "HEAD", "OPTIONS"):
            refusal = "a page of another site may not change anything here"
            await problem(Request(scope), 403, "forbidden", refusal)(scope, receive, send)
            return
        limit = self._upload_bytes if _is_upload(scope, headers) else BODY_LIMIT
        await self.app(scope, _limited(receive, limit), send)

    def _is_known(self, host: str, path: str) -> bool:
        return self._hosts is None or path in _PROBED or host_name(host) in self._hosts


def host_name(host: str) -> str:
    """Return the name in a `Host` header, without the port."""
    return re.sub(r":\d+$", "", host).lower()


def _from_another_site(headers: Headers) -> bool:
    if site := headers.get("sec-fetch-site"):
        return site not in ("none", "same-origin")
    origin = headers.get("origin")
    return origin is not None and _host_and_port(origin) != headers.get("host", "").lower()


def _host_and_port(origin: str) -> str | None:
    """Return host and port of an origin; None for `null`, which pages in sandboxes and files send."""
    try:
        return urlsplit(origin).netloc.lower() or None
    except ValueError:  # brackets without an address
        return None


def _is_upload(scope: Scope, headers: Headers) -> bool:
    return (scope["method"], scope["path"]) in UPLOADS and not is_json(headers)


def is_json(headers: Headers) -> bool:
    """Return whether the content type of a body is JSON."""
    return headers.get("content-type", "").partition(";")[0].strip().lower() == "application/json"


def _limited(receive: Receive, limit: int) -> Receive:
    """Return `receive` with limits: 413 as soon as a body exceeds the limit, 408 if it takes too long."""
    read, whole = 0, False
    begun = asyncio.get_running_loop().time()

    async def limited() -> Message:
        nonlocal read, whole
        if whole:  # the next message is the end of the connection
            return await receive()
        try:
            async with asyncio.timeout_at(begun + BODY_SECONDS + read / SLOWEST_BYTES_A_SECOND):
                message = await receive()
        except TimeoutError:
            detail = f"the body did not come within {BODY_SECONDS:g} s"
            raise HTTPException(408, detail, {"Connection": "close"}) from None
        whole = not message.get("more_body", False)
        read += len(message.get("body", b""))
        if read > limit:
            raise HTTPException(413, f"a body has at most {limit} bytes")
        return message

    return limited
