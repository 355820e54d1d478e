"""Errors as HTTP: the one place that knows which error is which status. RFC 9457, never a traceback."""

from __future__ import annotations

import json
import logging
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import Response
from pydantic import BaseModel, ConfigDict
from starlette.exceptions import HTTPException

from gkd_core.errors import DataError, Problem, SpecError
from jobs import mistakes
from jobs.errors import (
    IdempotencyConflict,
    InUse,
    InvalidTenant,
    NotAllowed,
    QuotaExceeded,
    StoreAway,
    UnknownArtifact,
    UnknownJob,
    UnknownKey,
)

log = logging.getLogger(__name__)

MEDIA_TYPE = "application/problem+json"


_CODES = {400: "invalid_json", 404: "not_found", 405: "method_not_allowed", 413: "too_large"}
"""Of the errors that the framework raises by itself."""


_TAKE_SPECS = ("/jobs", "/jobs/validate")
"""Routes whose body is a job spec; mistakes in one are worded with more care."""


class ProblemDetails(BaseModel):
    """What every answer of status 400 and above holds."""

    model_config = ConfigDict(frozen=True)

    type: str = "about:blank"
    """Always about:blank: `code` tells the problems apart."""
    title: str
    """The status in words."""
    status: int
    detail: str
    """What was seen and which rule it breaks."""
    code: str
    """For programs: invalid_spec, unknown_job, not_allowed, ..."""
    request_id: str
    """The same as in the header X-Request-ID and in the server's log."""
    errors: tuple[Problem, ...] = ()
    """Every single thing that is wrong; `loc` is the path of the field in the spec."""
    actions: tuple[str, ...] | None = None
    """With not_allowed: what may be asked of the job now."""


class ApiError(Exception):
    """An error that only HTTP knows, such as a report that is not there yet."""

    def __init__(self, status: int, code: str, detail: str, *, headers: dict[str, str] | None = None) -> None:
        super().__init__(detail)
        self.status = status
        self.code = code
        self.detail = detail
        self.headers = headers


def lacks(scope: str) -> ApiError:
    """The refusal for who has a good key that does not allow this."""
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
    """An answer that says what is wrong.

    Args:
        request: The request that it answers; its id is named.
        status: HTTP status, 400 or above.
        code: What programs tell problems apart by.
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
    headers = {**(headers or {}), "X-Request-ID": request_id}
    text = json.dumps(content)  # in ASCII: what is quoted may hold halves of characters, which UTF-8 refuses
    return Response(text, status, headers=headers, media_type=MEDIA_TYPE)


def away(request: Request, error: StoreAway) -> Response:
    """The answer while the database is away."""
    log.warning("request %s: %s", request.scope["state"]["request_id"], error)
    detail = "the database does not answer; try again in a few seconds"
    return problem(request, 503, "database_away", detail, headers={"Retry-After": "5"})


def install(app: FastAPI) -> None:
    """Teach an app what each error means in HTTP."""

    @app.exception_handler(RequestValidationError)
    async def _invalid(request: Request, error: RequestValidationError) -> Response:
        errors = error.errors()
        if errors[0]["type"] == "json_invalid":
            where = f"character {errors[0]['loc'][-1]}: {errors[0]['ctx']['error']}"
            return problem(request, 400, "invalid_json", f"the body is not JSON; {where}")
        if errors[0]["loc"][0] != "body":
            return _not_understood(request, [Problem(loc=tuple(e["loc"]), message=e["msg"]) for e in errors])
        if request.url.path not in _TAKE_SPECS:
            return _not_understood(request, [Problem(loc=e["loc"][1:], message=e["msg"]) for e in errors])
        if isinstance(error.body, bytes) or "json" not in request.headers.get("content-type", ""):
            detail = "a job spec is sent as JSON with the header Content-Type: application/json"
            return problem(request, 415, "unsupported_media_type", detail)
        if error.body is None:
            return _not_a_spec(
                request, [Problem(loc=(), message="the body is empty, or null", hint=mistakes.EXAMPLE)]
            )
        return _not_a_spec(request, mistakes.problems([{**e, "loc": e["loc"][1:]} for e in errors]))

    @app.exception_handler(SpecError)
    @app.exception_handler(DataError)
    async def _impossible(request: Request, error: SpecError | DataError) -> Response:
        return _not_a_spec(request, list(error.problems))

    @app.exception_handler(UnknownJob)
    async def _unknown_job(request: Request, error: UnknownJob) -> Response:
        return problem(request, 404, "unknown_job", str(error))

    @app.exception_handler(UnknownArtifact)
    async def _unknown_artifact(request: Request, error: UnknownArtifact) -> Response:
        return problem(request, 404, "unknown_artifact", str(error))

    @app.exception_handler(NotAllowed)
    async def _not_allowed(request: Request, error: NotAllowed) -> Response:
        return problem(request, 409, "not_allowed", str(error), actions=error.actions)

    @app.exception_handler(InUse)
    async def _in_use(request: Request, error: InUse) -> Response:
        return problem(request, 409, "in_use", str(error))

    @app.exception_handler(IdempotencyConflict)
    async def _conflict(request: Request, error: IdempotencyConflict) -> Response:
        return problem(request, 422, "idempotency_conflict", str(error))

    @app.exception_handler(QuotaExceeded)
    async def _too_much(request: Request, error: QuotaExceeded) -> Response:
        return problem(request, 403, "quota_exceeded", str(error))

    @app.exception_handler(UnknownKey)
    async def _unknown_key(request: Request, error: UnknownKey) -> Response:
        return problem(request, 404, "unknown_key", str(error))

    @app.exception_handler(InvalidTenant)
    async def _invalid_tenant(request: Request, error: InvalidTenant) -> Response:
        return problem(request, 422, "invalid_request", str(error))

    @app.exception_handler(StoreAway)
    async def _away(request: Request, error: StoreAway) -> Response:
        return away(request, error)

    @app.exception_handler(ApiError)
    async def _api_error(request: Request, error: ApiError) -> Response:
        return problem(request, error.status, error.code, error.detail, headers=error.headers)

    @app.exception_handler(HTTPException)
    async def _http(request: Request, error: HTTPException) -> Response:
        headers = dict(error.headers or {})
        code = _CODES.get(error.status_code, f"http_{error.status_code}")
        return problem(request, error.status_code, code, _detail(request, error, headers), headers=headers)

    @app.exception_handler(Exception)
    async def _bug(request: Request, error: Exception) -> Response:
        request_id = request.scope["state"]["request_id"]
        log.error("request %s: %s %s failed", request_id, request.method, request.url.path, exc_info=error)
        detail = "a defect of GKD; the server's log has the details under this request id"
        return problem(request, 500, "internal_error", detail)


def _detail(request: Request, error: HTTPException, headers: dict[str, str]) -> str:
    """In words what the framework says in a number."""
    match error.status_code:
        case 400:
            return "the body cannot be read as JSON: not UTF-8, nested too deeply, or a number with too many digits"
        case 404:
            return f"there is nothing at {request.url.path}; /docs shows every route"
        case 405:
            return f"{request.method} is not for {request.url.path}; it understands {headers.get('Allow')}"
    return str(error.detail)


def _not_a_spec(request: Request, errors: list[Problem]) -> Response:
    detail = "; ".join(f"{'.'.join(map(str, e.loc))}: {e.message}" if e.loc else e.message for e in errors)
    return problem(request, 422, "invalid_spec", detail, errors=tuple(errors))


def _not_understood(request: Request, errors: list[Problem]) -> Response:
    detail = "; ".join(f"{'.'.join(map(str, e.loc)) or 'the body'}: {e.message}" for e in errors)
    return problem(request, 422, "invalid_request", detail, errors=tuple(errors))
