"""Authentication and authorisation by API keys, and rate limits.

Every path except health and the description of the API needs a key, once there is one. While there is none and
the service listens on the loopback, everybody on this machine may do everything. Any page open in a browser on
it could then talk to the service, so the `Host` header must name this machine; with keys any name will do,
since no page of another site knows a key (`GKD_ALLOWED_HOSTS` restricts it, in `request_guard.py`).

Browsers cannot send a key with a link, so the pages below `/ui` also take it from a cookie (`ui/session.py`),
which is checked on each request as the header is. No other path looks at the cookie.

Keys are cached for `REMEMBERED_SECONDS`, so that a request costs no query; a revoked key works for that long,
too, and so does access without a key after the first key was created. Streams, long polls and uploads check
again.
"""

from __future__ import annotations

import hmac
import logging
import time
from collections.abc import Callable
from functools import partial
from typing import NamedTuple
from urllib.parse import unquote

from fastapi import Request
from fastapi.concurrency import run_in_threadpool
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from api.errors import ApiError, away, lacks, problem
from api.request_guard import LOOPBACK, host_name
from jobs import keys
from jobs.errors import StoreUnavailable
from jobs.keys import ADMIN_KEY_ID, ANYBODY, DEFAULT_TENANT, Principal
from jobs.logs import bound
from jobs.settings import Settings, is_loopback
from jobs.store.store import Admitted, Store

log = logging.getLogger(__name__)

OPEN = frozenset(
    {
        *("/healthz", "/readyz", "/openapi.json", "/favicon.ico"),
        *("/docs", "/docs/swagger-ui-bundle.js", "/docs/swagger-ui.css"),
    }
)
"""Paths without authentication. Every other path needs a key: a new route cannot be forgotten."""

OPEN_PAGES = frozenset({"/", "/ui/login", "/ui/logout", "/ui/theme"})
"""Pages without authentication, and the two forms that change nothing but cookies."""

STATIC = "/ui/static/"
"""Prefix of style and script of the pages, which are open, too."""

SESSION_COOKIE = "gkd_session"
"""Cookie that holds the key of a browser's session, quoted as in URLs."""

FIGURES = "/metrics"
"""Metrics about all tenants' jobs. Their collector needs no other access."""

REMEMBERED_SECONDS = 3.0

_MOST_REMEMBERED = 4096
"""Maximum number of cached keys, wrong ones included; then the oldest are dropped."""

_READS = frozenset({"GET", "HEAD", "OPTIONS"})


class AuthMiddleware:
    """ASGI middleware: passes a request on with its principal in `scope["state"]`, or answers 401, 403 or 429.

    Long requests check again at intervals: `scope["state"]["still_admitted"]` raises once the key is no longer
    valid.

    Args:
        app: The next ASGI app.
        authenticator: Checks keys.
    """

    def __init__(self, app: ASGIApp, authenticator: Authenticator) -> None:
        self.app = app
        self._authenticator = authenticator
        self._rates: dict[str, _Rate] = {}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or answer with the reason why not."""
        if scope["type"] != "http" or _is_open(scope["path"]):
            await self.app(scope, receive, send)
            return
        request = Request(scope)
        asking = (with_session(request), scope.get("server"))
        try:
            admitted = await self._authenticator.admit(*asking)
            _must_allow(admitted.principal, scope["method"], scope["path"])
            send = self._rated(admitted, send)
        except ApiError as error:
            answer = problem(request, error.status, error.code, error.detail, headers=error.headers)
            await answer(scope, receive, send)
        except StoreUnavailable as error:
            await away(request, error)(scope, receive, send)
        else:
            scope["state"]["principal"] = principal = admitted.principal
            scope["state"]["still_admitted"] = partial(self._authenticator.must_still_admit, *asking)
            with bound(tenant=principal.tenant, key_id=principal.key_id):
                await self.app(scope, receive, send)

    def _rated(self, admitted: Admitted, send: Send) -> Send:
        """Return `send` with rate-limit headers added.

        Raises:
            ApiError: the limit is reached.
        """
        if (limit := admitted.limits.requests_per_minute) is None:
            return send
        headers = self._rate(admitted.principal, limit).take()

        async def telling(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(headers)
            await send(message)

        return telling

    def _rate(self, principal: Principal, limit: int) -> _Rate:
        name = principal.key_id or ""
        rate = self._rates.get(name)
        if rate is None or rate.limit != limit:
            rate = self._rates[name] = _Rate(limit)
        return rate


class _Remembered(NamedTuple):
    until: float
    admitted: Admitted | None


class Authenticator:
    """Authenticates requests, with a short cache.

    Args:
        store: Where the keys are.
        settings: The address listened on, and the key of the environment.
    """

    def __init__(self, store: Store, settings: Settings) -> None:
        self._store = store
        secret = settings.admin_key
        self._admin = None if secret is None else keys.digest(secret.get_secret_value())
        self._loopback = settings.on_loopback
        self._remembered: dict[str, _Remembered] = {}

    async def admit(self, headers: Headers, server: tuple[str, int | None] | None) -> Admitted:
        """Return the principal of a request and the limits of its tenant.

        Args:
            headers: Of the request.
            server: The local address at which it arrived.

        Raises:
            ApiError: the request has no valid key and needs one.
            StoreUnavailable: the database, which has the keys, does not answer.
        """
        sent = headers.getlist("authorization")
        if len(sent) > 1:  # a proxy may have checked the other one
            raise _unknown(f"send one Authorization header, not {len(sent)}")
        if sent:
            return await self._key_holder(sent[0])
        anybody = await self._cached("", self._without_key)
        if anybody is None or not self._loopback or not _arrived_here(server):
            raise _unknown("send an API key: Authorization: Bearer gkd_...")
        _must_be_this_machine(headers.get("host", ""))
        return anybody

    async def must_still_admit(self, headers: Headers, server: tuple[str, int | None] | None) -> None:
        """Check that an authenticated caller would be admitted now.

        While the database does not answer callers stay admitted; new requests are not admitted meanwhile.

        Raises:
            ApiError: the key was revoked or has expired since, or the first key was created and this caller has
                none.
        """
        try:
            await self.admit(headers, server)
        except StoreUnavailable as error:
            log.debug("cannot look whether a key is still good: %s", error)

    async def _key_holder(self, sent: str) -> Admitted:
        scheme, _, text = sent.partition(" ")
        if scheme.lower() != "bearer":
            raise _unknown("send the API key as Authorization: Bearer gkd_...")
        sha256 = keys.digest(text.strip())
        admitted = await self._cached(sha256, lambda: self._check_key(text.strip(), sha256))
        if admitted is None:
            raise _unknown("this API key is unknown, expired or revoked")
        return admitted

    def _check_key(self, text: str, sha256: str) -> Admitted | None:
        if self._admin is not None and hmac.compare_digest(self._admin, sha256):
            principal = Principal(DEFAULT_TENANT, ADMIN_KEY_ID, ANYBODY.scopes)
            return Admitted(principal, self._store.keys.limits(DEFAULT_TENANT))
        key_id = keys.id_in(text)
        return None if key_id is None else self._store.keys.admit(key_id, sha256)

    def _without_key(self) -> Admitted | None:
        if self._admin is not None or self._store.keys.has_keys():
            return None
        return Admitted(ANYBODY, self._store.keys.limits(DEFAULT_TENANT))

    async def _cached(self, name: str, find: Callable[[], Admitted | None]) -> Admitted | None:
        """Return a cached result of `find`, or call it now."""
        known = self._remembered.get(name)
        if known is None or known.until < time.monotonic():
            found = await run_in_threadpool(find)
            known = _Remembered(time.monotonic() + REMEMBERED_SECONDS, found)
            self._remembered.pop(name, None)  # so that the first item of the dictionary is the oldest
            self._remembered[name] = known
            if len(self._remembered) > _MOST_REMEMBERED:
                del self._remembered[next(iter(self._remembered))]
        return known.admitted


class _Rate:
    """A token bucket that holds a minute's requests and is refilled evenly."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._left = float(limit)
        self._at = time.monotonic()

    def take(self) -> dict[str, str]:
        """Take one request out of the bucket.

        Returns:
            Headers with the remaining requests, and the seconds until the bucket is full again.

        Raises:
            ApiError: it is empty.
        """
        now = time.monotonic()
        self._left = min(float(self.limit), self._left + (now - self._at) * self.limit / 60)
        self._at = now
        if self._left < 1:
            seconds = int((1 - self._left) * 60 / self.limit) + 1
            detail = f"this key may send {self.limit} requests a minute; the next one in {seconds} s"
            raise ApiError(
                429, "too_many_requests", detail, headers={"Retry-After": str(seconds), **self._headers()}
            )
        self._left -= 1
        return self._headers()

    def _headers(self) -> dict[str, str]:
        full = int((self.limit - self._left) * 60 / self.limit) + 1
        left = f'"minute";r={int(self._left)};t={full}'
        return {"RateLimit-Policy": f'"minute";q={self.limit};w=60', "RateLimit": left}


def _is_open(path: str) -> bool:
    return path in OPEN or path in OPEN_PAGES or path.startswith(STATIC)


def is_page(path: str) -> bool:
    """Return whether a path is one of the pages for people."""
    return path == "/ui" or path.startswith("/ui/")


def with_session(request: Request) -> Headers:
    """Return the headers of a request; of a page's without a key, with the one of the browser's session."""
    session = request.cookies.get(SESSION_COOKIE)
    if session is None or not is_page(request.scope["path"]) or "authorization" in request.headers:
        return request.headers
    return Headers(raw=[*request.headers.raw, (b"authorization", b"Bearer " + unquote(session).encode())])


def _must_allow(principal: Principal, method: str, path: str) -> None:
    needed = keys.Scope.READ if method in _READS else keys.Scope.WRITE
    if path == FIGURES:
        needed = keys.Scope.METRICS
    if not principal.may(needed):
        raise lacks(needed)


def _unknown(detail: str) -> ApiError:
    return ApiError(401, "unauthorized", detail, headers={"WWW-Authenticate": 'Bearer realm="gkd"'})


def _must_be_this_machine(host: str) -> None:
    if host_name(host) not in LOOPBACK:
        detail = f"this service answers to {', '.join(sorted(LOOPBACK))} only, not to {host[:80]!r}"
        raise ApiError(403, "forbidden", detail)


def _arrived_here(server: tuple[str, int | None] | None) -> bool:
    """Return whether a request arrived on the loopback: the server may listen elsewhere than the settings say."""
    return server is None or server[1] is None or is_loopback(server[0])
