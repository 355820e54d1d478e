"""The way in: a key for a session, logging out, and the theme."""

from __future__ import annotations

from fastapi import APIRouter, Request, Response
from fastapi.responses import RedirectResponse
from starlette.datastructures import Headers

from api.auth import Authenticator, with_session
from api.errors import ApiError, lacks
from api.ui.pages import render
from api.ui.session import begin_session, end_session, local_path, read_form, set_theme
from jobs.keys import Scope

router = APIRouter(include_in_schema=False)


@router.get("/")
@router.get("/ui")
async def front() -> Response:
    """Lead to the list of jobs."""
    return RedirectResponse("/ui/jobs", 303)


@router.get("/ui/login")
async def login_page(request: Request, to: str = "") -> Response:
    """Ask for a key, if one is needed and the browser has none."""
    answer = RedirectResponse(local_path(to), 303)
    if await _is_admitted(request, with_session(request)):
        return answer
    if await _is_admitted(request, request.headers):
        end_session(answer)  # of another service on this machine: cookies know no ports
        return answer
    return render(request, "login.html", to=local_path(to), refusal=None)


@router.post("/ui/login")
async def log_in(request: Request) -> Response:
    """Begin a session with a key."""
    fields = await read_form(request)
    key, to = fields.get("key", "").strip(), local_path(fields.get("to", ""))
    try:
        await _must_be_good(request, key)
    except ApiError as error:
        return render(request, "login.html", error.status, to=to, refusal=error.detail)
    answer = RedirectResponse(to, 303)
    begin_session(request, answer, key)
    return answer


@router.post("/ui/logout")
async def log_out(request: Request) -> Response:
    """End the session of this browser. The key stays valid."""
    await read_form(request)
    answer = RedirectResponse("/ui/login", 303)
    end_session(answer)
    return answer


@router.post("/ui/theme")
async def choose_theme(request: Request) -> Response:
    """Switch to light or dark."""
    fields = await read_form(request)
    answer = RedirectResponse(local_path(fields.get("to", "")), 303)
    set_theme(request, answer, "dark" if fields.get("theme") == "dark" else "light")
    return answer


async def _is_admitted(request: Request, headers: Headers) -> bool:
    """Return whether a request with these headers would be let in."""
    try:
        await _authenticator(request).admit(headers, request.scope.get("server"))
    except ApiError:
        return False
    return True


async def _must_be_good(request: Request, key: str) -> None:
    """Raise `ApiError` unless a key is valid and may read."""
    admitted = await _authenticator(request).admit(
        Headers(raw=[(b"authorization", b"Bearer " + key.encode())]), request.scope.get("server")
    )
    if not admitted.principal.may(Scope.READ):
        raise lacks(Scope.READ)


def _authenticator(request: Request) -> Authenticator:
    found: Authenticator = request.app.state.authenticator
    return found
