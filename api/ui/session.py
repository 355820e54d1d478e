"""Sessions of browsers: the cookie with the key, and tokens against forms that other sites send.

A session is nothing but the key in a cookie, so it ends with the key: revoked or expired, it is refused at the next
request. The cookie is sent to `/ui` only, read by no script, and sent with no request that another site causes.

A form carries a token that only a page of this service can know: an HMAC of the session's key under a random value
in a second cookie.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
from typing import Literal
from urllib.parse import parse_qsl, quote

from fastapi import Request, Response

from api.auth import SESSION_COOKIE
from api.errors import ApiError

FORM_COOKIE = "gkd_form"
"""Cookie with the random value under which a browser's form tokens are made."""
THEME_COOKIE = "gkd_theme"
TOKEN_FIELD = "token"
_YEAR_SECONDS = 365 * 86_400
_PATH = "/ui"
Theme = Literal["light", "dark"]


def begin_session(request: Request, response: Response, key: str) -> None:
    """Keep a valid key in the browser, until it is closed or logs out."""
    _set_cookie(request, response, SESSION_COOKIE, quote(key, safe=""))


def end_session(response: Response) -> None:
    """Delete the key from the browser."""
    response.delete_cookie(SESSION_COOKIE, path=_PATH)


def set_theme(request: Request, response: Response, theme: Theme) -> None:
    """Remember light or dark for a year."""
    _set_cookie(request, response, THEME_COOKIE, theme, seconds=_YEAR_SECONDS)


def theme_of(request: Request) -> Theme | None:
    """Return the chosen theme; None: the system's."""
    chosen = request.cookies.get(THEME_COOKIE)
    return "light" if chosen == "light" else "dark" if chosen == "dark" else None


def form_secret(request: Request) -> str:
    """Return the random value of the browser's form tokens; a new one if it has none yet."""
    return request.cookies.get(FORM_COOKIE) or secrets.token_urlsafe(24)


def keep_form_secret(request: Request, response: Response, secret: str) -> None:
    """Keep a new random value of form tokens in the browser."""
    if request.cookies.get(FORM_COOKIE) != secret:
        _set_cookie(request, response, FORM_COOKIE, secret)


def form_token(request: Request, secret: str) -> str:
    """Return the token that the forms of a page carry."""
    session = request.cookies.get(SESSION_COOKIE, "")
    return hmac.new(secret.encode(), session.encode(), hashlib.sha256).hexdigest()


async def read_form(request: Request) -> dict[str, str]:
    """Return the fields of a form, with its token checked.

    Raises:
        ApiError: the token is missing or not the one of this browser and session.
    """
    body = (await request.body()).decode(errors="replace")
    fields = dict(parse_qsl(body, keep_blank_values=True))
    secret = request.cookies.get(FORM_COOKIE)
    sent = fields.pop(TOKEN_FIELD, "")
    if not secret or not hmac.compare_digest(sent.encode(), form_token(request, secret).encode()):
        detail = (
            "this form was not sent from a current page of the service; load the page again and repeat it"
        )
        raise ApiError(403, "forbidden", detail)
    return fields


def local_path(wanted: str) -> str:
    """Return a path of these pages to go to, or the list of jobs in place of anything else."""
    plain = wanted.isascii() and wanted.isprintable() and "\\" not in wanted
    return wanted if plain and wanted.startswith("/ui/") else "/ui/jobs"


def _set_cookie(
    request: Request, response: Response, name: str, value: str, *, seconds: int | None = None
) -> None:
    """Set a cookie for these pages; without `seconds`, until the browser is closed."""
    response.set_cookie(
        name,
        value,
        max_age=seconds,
        path=_PATH,
        httponly=True,
        samesite="strict",
        secure=_over_tls(request),
    )


def _over_tls(request: Request) -> bool:
    """Return whether the browser speaks TLS, by the server or, behind a proxy, by what the browser says of its page."""
    return request.url.scheme == "https" or request.headers.get("origin", "").startswith("https://")
