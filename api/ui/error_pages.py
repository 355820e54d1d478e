"""Errors as pages: the problem details of any part of the service, for a path below `/ui`, in one template.

A page that needs a key leads to the login instead. Where a browser follows a link from another site, it does not
send the session's cookie (`SameSite=Strict`): a page from here then leads to the login, which gets the cookie and
leads back.
"""

from __future__ import annotations

import json
from typing import Any
from urllib.parse import quote

from fastapi import Request, Response
from fastapi.responses import RedirectResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from api.auth import is_page
from api.errors import MEDIA_TYPE
from api.ui.pages import here, render

_REPLACED = (b"content-type", b"content-length", b"content-security-policy", b"referrer-policy")
"""Headers of the original answer that the page has its own of."""

WHAT_TO_DO = {
    401: "Log in with a key that is valid.",
    403: "Go back to the list, or ask an administrator of the service.",
    404: "It may have been deleted, or belong to another tenant. The list has what there is.",
    409: "Go back and load the page again: the state has changed.",
    410: "Published files that are gone do not come back; the job can be cloned.",
    429: "Wait a moment, then load the page again.",
    503: "This page tries again by itself in a few seconds.",
    507: "An administrator has to make room on the disk of the service.",
}


class ErrorPages:
    """ASGI middleware that turns problem details below `/ui` into pages.

    Args:
        app: The next ASGI app.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, and replace the answer if it is an error."""
        if scope["type"] != "http" or not is_page(scope["path"]):
            await self.app(scope, receive, send)
            return
        held = _Held(send)
        await self.app(scope, receive, held.send)
        if held.start is not None:
            page = _page(Request(scope), held)
            page.raw_headers.extend(pair for pair in held.start["headers"] if pair[0] not in _REPLACED)
            await page(scope, receive, send)


class _Held:
    """An answer that is passed on, or held back if it is problem details."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self.start: Message | None = None
        self._body = b""

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start" and _is_problem(message):
            self.start = message
        elif self.start is None:
            await self._send(message)
        else:
            self._body += message.get("body", b"")

    @property
    def status(self) -> int:
        return int(self.start["status"]) if self.start else 0

    def problem(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self._body) if self._body else {}
        return found


def _is_problem(start: Message) -> bool:
    return any(
        name.lower() == b"content-type" and value.startswith(MEDIA_TYPE.encode())
        for name, value in start.get("headers", ())
    )


def _page(request: Request, held: _Held) -> Response:
    """Return the page in place of problem details."""
    if held.status == 401 and request.method in ("GET", "HEAD"):
        login = f"/ui/login?to={quote(here(request), safe='/')}"
        if request.headers.get("sec-fetch-site") == "cross-site":
            return render(request, "again.html", login=login)
        return RedirectResponse(login, 303)
    seconds = 5 if held.status == 503 and request.method == "GET" else None
    what = WHAT_TO_DO.get(held.status, "Go back to the list of jobs.")
    known = dict.fromkeys(("title", "status", "code", "detail", "request_id"), "")
    problem = known | {"errors": ()} | held.problem()
    return render(request, "error.html", held.status, problem=problem, what_to_do=what, seconds=seconds)
