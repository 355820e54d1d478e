"""Asking for jobs: submit, look, list, cancel, pause, resume."""

from __future__ import annotations

import hashlib
import time
from typing import Annotated, Any, NamedTuple

from fastapi import APIRouter, Header, Query, Request, Response
from fastapi.concurrency import run_in_threadpool
from pydantic import BaseModel, ConfigDict

from api.deps import FeedsDep, Services, ServicesDep, TenantDep
from api.errors import ApiError
from api.feeds import happened
from jobs.errors import UnknownJob
from jobs.job import END_STATES, Job, State
from jobs.spec import JobSpec, Kind, Resolved, job_spec

router = APIRouter(tags=["jobs"])

LOOK_SECONDS = 1.0
"""Between two looks at a job while a long poll waits and no event comes: its place in the queue changes without."""


class JobPage(BaseModel):
    """Jobs, newest first; `next` is the `after` of the following page, null on the last."""

    model_config = ConfigDict(frozen=True)

    items: tuple[Job, ...]
    next: str | None


@router.post("/jobs", status_code=201)
def submit(
    spec: JobSpec,
    response: Response,
    services: ServicesDep,
    tenant: TenantDep,
    idempotency_key: Annotated[str | None, Header(min_length=1, max_length=200)] = None,
) -> Job:
    """Check a spec and queue it. The same Idempotency-Key and spec give the same job again."""
    # first: the answer stays, even if the data has gone since
    job = services.store.submitted(spec, idempotency_key, tenant=tenant)
    if job is None:
        resolved = services.resolve(spec, tenant)
        job, _ = services.store.submit(spec, resolved, idempotency_key=idempotency_key, tenant=tenant)
    services.doorbell.ring(job)  # after the commit; where the broker is away, a worker's sweep rings again
    response.headers["Location"] = f"/jobs/{job.id}"
    return job


@router.post("/jobs/validate")
def validate(spec: JobSpec, services: ServicesDep, tenant: TenantDep) -> Resolved:
    """What a spec comes to and what was found in its data set, or what is wrong with it. Nothing is queued."""
    return services.resolve(spec, tenant)


@router.get("/jobs")
def list_jobs(
    services: ServicesDep,
    tenant: TenantDep,
    state: State | None = None,
    kind: Kind | None = None,
    tag: Annotated[str | None, Query(description="key, or key:value")] = None,
    after: Annotated[str | None, Query(description="`next` of the page before")] = None,
    limit: Annotated[int, Query(ge=1, le=500)] = 50,
) -> JobPage:
    """Jobs, newest first."""
    try:
        page = services.store.list_jobs(
            state=state, kind=kind, tag=tag, after=after, limit=limit, tenant=tenant
        )
    except UnknownJob:
        detail = f"{after!r} is not the `next` of an earlier page"
        raise ApiError(422, "invalid_request", detail) from None
    return JobPage(items=page.items, next=page.next)


@router.get(
    "/jobs/{job_id}", response_model=Job, responses={304: {"description": "still as If-None-Match says"}}
)
async def get_job(
    job_id: str,
    request: Request,
    services: ServicesDep,
    feeds: FeedsDep,
    tenant: TenantDep,
    wait: Annotated[float, Query(ge=0, le=60, description="seconds")] = 0,
    if_none_match: Annotated[str | None, Header()] = None,
) -> Response:
    """One job.

    With `wait` the answer comes as soon as the job is no longer as If-None-Match says, or, without that header,
    as soon as it has ended; after `wait` seconds at the latest.
    """
    seen = await _look(services, job_id, tenant)

    def arrived() -> bool:
        return seen.tag not in if_none_match if if_none_match else seen.ended

    deadline = time.monotonic() + wait
    if wait and not arrived():
        with feeds.follow(job_id) as feed:
            while not arrived() and (left := deadline - time.monotonic()) > 0:
                if feeds.closed or await request.is_disconnected():
                    break
                await happened(feed.news, min(LOOK_SECONDS, left))
                if if_none_match or feed.ended:
                    seen = await _look(services, job_id, tenant)
    headers = {"ETag": seen.tag, "Cache-Control": "no-cache"}
    if seen.tag in (if_none_match or ""):
        return Response(status_code=304, headers=headers)
    return Response(seen.body, headers=headers, media_type="application/json")


class _Seen(NamedTuple):
    """A job as it was a moment ago."""

    ended: bool
    body: bytes
    tag: str


async def _look(services: Services, job_id: str, tenant: str) -> _Seen:
    job = await run_in_threadpool(services.store.get, job_id, tenant=tenant)
    body = job.model_dump_json().encode()
    return _Seen(job.state in END_STATES, body, f'W/"{hashlib.sha256(body).hexdigest()[:32]}"')


@router.post("/jobs/{job_id}/cancel", status_code=202)
def cancel(job_id: str, services: ServicesDep, tenant: TenantDep) -> Job:
    """End a job: at once where it does not run, otherwise as soon as its worker hears of it."""
    return services.store.cancel_requested(job_id, tenant=tenant)


@router.post("/jobs/{job_id}/pause", status_code=202)
def pause(job_id: str, services: ServicesDep, tenant: TenantDep) -> Job:
    """Stop a running job after a checkpoint and free its device until it is resumed."""
    return services.store.pause_requested(job_id, tenant=tenant)


@router.post("/jobs/{job_id}/resume", status_code=202)
def resume(job_id: str, services: ServicesDep, tenant: TenantDep) -> Job:
    """Queue a paused job again; it goes on from its checkpoint."""
    job = services.store.resume(job_id, tenant=tenant)
    services.doorbell.ring(job)
    return job


@router.get("/jobs/{job_id}/report")
def get_report(job_id: str, services: ServicesDep, tenant: TenantDep) -> dict[str, Any]:
    """Teacher, control and student side by side, and what distillation gained."""
    report = services.store.report(job_id, tenant=tenant)
    if report is None:
        raise ApiError(404, "no_report", _why_no_report(services, job_id, tenant))
    return report


def _why_no_report(services: Services, job_id: str, tenant: str) -> str:
    job = services.store.get(job_id, tenant=tenant)
    return f"job {job_id} has no report, which is written at its end; now: {job.reason}"


@router.get("/schema/job")
def schema() -> dict[str, Any]:
    """The JSON schema of a job spec."""
    return job_spec.json_schema()
