"""Errors as HTTP answers: the only mapping of errors to status codes. Problem details (RFC 9457), never a traceback."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Sequence
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import Response
from pydantic import BaseModel, ConfigDict
from starlette.exceptions import HTTPException
from starlette.routing import BaseRoute, Match

from gkd_core.errors import DataError, Problem, SpecError
from jobs.errors import (
    ArtifactsRefused,
    ArtifactsUnavailable,
    ContentGone,
    IdempotencyConflict,
    InUse,
    InvalidKeyName,
    InvalidTenant,
    JobsError,
    NotAllowed,
    QuotaExceeded,
    ResourceInUse,
    StillUnpacking,
    StoreRefuses,
    StoreUnavailable,
    UnknownArtifact,
    UnknownCursor,
    UnknownJob,
    UnknownKey,
    UnknownResource,
    WrongContent,
)
from jobs.specs import spec_errors

log = logging.getLogger(__name__)

MEDIA_TYPE = "application/problem+json"

_REFUSALS: dict[type[JobsError], tuple[int, str]] = {
    UnknownJob: (404, "unknown_job"),
    UnknownArtifact: (404, "unknown_artifact"),
    ContentGone: (410, "artifact_gone"),
    WrongContent: (410, "artifact_damaged"),
    UnknownKey: (404, "unknown_key"),
    UnknownResource: (404, "unknown_resource"),
    NotAllowed: (409, "not_allowed"),
    InUse: (409, "in_use"),
    ResourceInUse: (409, "in_use"),
    QuotaExceeded: (403, "quota_exceeded"),
    IdempotencyConflict: (422, "idempotency_conflict"),
    InvalidTenant: (422, "invalid_request"),
    InvalidKeyName: (422, "invalid_request"),
}
"""Status and code of the store's errors; the detail is the error's message."""

_CODES = {
    400: "invalid_json",
    404: "not_found",
    405: "method_not_allowed",
    408: "too_slow",
    413: "too_large",
}
"""Codes of the errors that the framework raises."""

_TAKE_SPECS = ("/jobs", "/jobs/validate")
"""Routes whose body is a job spec; errors in it are explained in more detail."""


class ProblemDetails(BaseModel):
    """The body of every answer of status 400 and above."""

    model_config = ConfigDict(
        frozen=True,
        use_attribute_docstrings=True,
        json_schema_extra={
            "examples": [
                {
                    "type": "about:blank",
                    "title": "Conflict",
                    "status": 409,
                    "detail": "cannot pause job 4f1c0a9be27d: it is queued; allowed now: cancel",
                    "code": "not_allowed",
                    "request_id": "0d9a5b6c1f7e4e0fb3a1c2d4e5f60718",
                    "errors": [],
                    "actions": ["cancel"],
                }
            ]
        },
    )

    type: str = "about:blank"
    """Always about:blank: `code` distinguishes the problems."""
    title: str
    """The phrase of the status."""
    status: int
    detail: str
    """What was found and which rule it breaks."""
    code: str
    """For programs: invalid_spec, unknown_job, not_allowed, ..."""
    request_id: str
    """The same as in the header X-Request-ID and in the server's log."""
    errors: tuple[Problem, ...] = ()
    """Every single error; `loc` is the path of the field in the spec."""
    actions: tuple[str, ...] | None = None
    """With not_allowed: the actions that the job's state allows now."""


class ApiError(Exception):
    """An error that only HTTP knows, such as a report that does not exist yet."""

    def __init__(self, status: int, code: str, detail: str, *, headers: dict[str, str] | None = None) -> None:
        super().__init__(detail)
        self.status = status
        self.code = code
        self.detail = detail
        self.headers = headers


def lacks(scope: str) -> ApiError:
    """Return the error for a valid key without this scope."""
    return ApiError(403, "missing_scope", f"this key lacks the scope {scope}, which this request needs")


def problem(
    request: Request,
    status: int,
    code: str,
    detail: str,
    *,
    headers: dict[str, str] | None = None,
    **more: Any,
) -> Response:
    """Return an answer of problem details.

    Args:
        request: The request, whose id is included.
        status: HTTP status, 400 or above.
        code: Identifies the problem for programs.
        detail: One sentence for people.
        headers: Headers of the answer.
        more: `errors` or `actions`.
    """
    request_id = request.scope["state"]["request_id"]
    body = ProblemDetails(
        title=HTTPStatus(status).phrase,
        status=status,
        detail=detail,
        code=code,
        request_id=request_id,
        **more,
    )
    content = body.model_dump(mode="json", exclude_none=True)
    text = json.dumps(content)  # in ASCII: a quotation may contain lone surrogates, which UTF-8 refuses
    return Response(text, status, headers=headers, media_type=MEDIA_TYPE)


def no_cursor(error: UnknownCursor) -> RequestValidationError:
    """Return the error for an `after` that no page has returned."""
    return RequestValidationError([{"type": "value_error", "loc": ("query", "after"), "msg": str(error)}])


def away(request: Request, error: StoreUnavailable) -> Response:
    """Return the answer while the database is unavailable, or accepts no writes."""
    log.warning("%s", error)
    if isinstance(error, StoreRefuses):
        detail = f"{error.message}; what is there can be read. Try again once the operator has seen to it"
        return problem(request, 503, "database_refuses", detail, headers={"Retry-After": "15"})
    detail = "the database does not answer; try again in a few seconds"
    return problem(request, 503, "database_away", detail, headers={"Retry-After": "5"})


def defect(request: Request, error: Exception) -> Response:
    """Return the answer to an unexpected error, whose details are in the log only."""
    log.error("%s %s failed", request.method, request.url.path, exc_info=error)
    detail = "a defect of GKD; the server's log has the details under this request id"
    return problem(request, 500, "internal_error", detail)


def install(app: FastAPI) -> None:
    """Register a handler for each error."""
    app.exception_handler(RequestValidationError)(_invalid)
    for wrong_spec in (SpecError, DataError):
        app.exception_handler(wrong_spec)(_impossible)
    for refusal in _REFUSALS:
        app.exception_handler(refusal)(_refused)
    app.exception_handler(StoreUnavailable)(_away)
    app.exception_handler(StillUnpacking)(_still_unpacking)
    for trouble in (ArtifactsUnavailable, ArtifactsRefused):
        app.exception_handler(trouble)(_no_artifacts)
    app.exception_handler(ApiError)(_api_error)
    app.exception_handler(HTTPException)(_http)


async def _invalid(request: Request, error: RequestValidationError) -> Response:
    first, *_ = errors = error.errors()
    if first["type"] == "json_invalid":
        where = f"character {first['loc'][-1]}: {first['ctx']['error']}"
        return problem(request, 400, "invalid_json", f"the body is not JSON; {where}")
    if first["loc"][0] != "body":
        return _not_understood(request, [Problem(loc=tuple(e["loc"]), message=e["msg"]) for e in errors])
    if request.url.path in _TAKE_SPECS:
        return _no_spec(request, error)
    return _not_understood(request, [Problem(loc=e["loc"][1:], message=e["msg"]) for e in errors])


def _no_spec(request: Request, error: RequestValidationError) -> Response:
    """Return the answer to a body that should have been a spec and is none."""
    if isinstance(error.body, bytes) or "json" not in request.headers.get("content-type", ""):
        detail = "a job spec is sent as JSON with the header Content-Type: application/json"
        return problem(request, 415, "unsupported_media_type", detail)
    if error.body is None:
        empty = Problem(loc=(), message="the body is empty, or null", hint=spec_errors.EXAMPLE)
        return _wrong_spec(request, [empty])
    return _wrong_spec(request, spec_errors.problems([{**e, "loc": e["loc"][1:]} for e in error.errors()]))


async def _impossible(request: Request, error: SpecError | DataError) -> Response:
    return _wrong_spec(request, error.problems)


async def _refused(request: Request, error: JobsError) -> Response:
    status, code = next(_REFUSALS[kind] for kind in type(error).__mro__ if kind in _REFUSALS)
    actions = error.actions if isinstance(error, NotAllowed) else None
    return problem(request, status, code, str(error), actions=actions)


async def _away(request: Request, error: StoreUnavailable) -> Response:
    return away(request, error)


async def _still_unpacking(request: Request, error: StillUnpacking) -> Response:
    return problem(request, 503, "still_unpacking", str(error), headers={"Retry-After": "15"})


async def _no_artifacts(request: Request, error: ArtifactsUnavailable | ArtifactsRefused) -> Response:
    log.warning("%s", error)
    detail = "published files cannot be reached now; /readyz and the server's log say why"
    return problem(request, 503, "artifacts_away", detail, headers={"Retry-After": "5"})


async def _api_error(request: Request, error: ApiError) -> Response:
    return problem(request, error.status, error.code, error.detail, headers=error.headers)


async def _http(request: Request, error: HTTPException) -> Response:
    headers = dict(error.headers or {})
    if error.status_code == 405:
        headers["Allow"] = _allowed(request)
    code = _CODES.get(error.status_code, f"http_{error.status_code}")
    return problem(request, error.status_code, code, _detail(request, error, headers), headers=headers)


def _allowed(request: Request) -> str:
    """Return every method that the path supports; the framework names those of its first route only.

    A path that equals a route literally belongs to that route, though it may also match an id.
    """
    matching = [route for route in _routes(request.app) if route.matches(request.scope)[0] is not Match.NONE]
    literal = [route for route in matching if getattr(route, "path", None) == request.url.path]
    return ", ".join(
        sorted({method for route in literal or matching for method in getattr(route, "methods", None) or ()})
    )


def _routes(app: FastAPI) -> Iterator[BaseRoute]:
    for route in app.routes:
        included = getattr(route, "original_router", None)  # newer versions of FastAPI keep routers whole
        yield from included.routes if included else (route,)


def _detail(request: Request, error: HTTPException, headers: dict[str, str]) -> str:
    """Return an explanation of the framework's status code."""
    match error.status_code:
        case 400:
            return "the body cannot be read as JSON: not UTF-8, nested too deeply, or a number with too many digits"
        case 404:
            return f"there is nothing at {request.url.path}; /docs shows every route"
        case 405:
            return f"{request.method} is not for {request.url.path}; it understands {headers.get('Allow')}"
    return str(error.detail)


def _wrong_spec(request: Request, errors: Sequence[Problem]) -> Response:
    return problem(request, 422, "invalid_spec", _joined(errors), errors=tuple(errors))


def _not_understood(request: Request, errors: Sequence[Problem]) -> Response:
    errors = spec_errors.first(errors)
    return problem(request, 422, "invalid_request", _joined(errors, "the body: "), errors=tuple(errors))


def _joined(errors: Sequence[Problem], whole: str = "") -> str:
    """Return all errors in one line; `whole` precedes those that concern no single field."""
    return "; ".join(
        f"{'.'.join(map(str, e.loc))}: {e.message}" if e.loc else whole + e.message for e in errors
    )
