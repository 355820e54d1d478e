"""Jobs: submit, get, list, cancel, pause, resume, retry, clone, change, delete."""

from __future__ import annotations

import time
from functools import partial
from typing import Annotated, Any, NamedTuple

from fastapi import APIRouter, Body, Header, Query, Request, Response
from fastapi.concurrency import run_in_threadpool
from pydantic import BaseModel, ConfigDict

from api.deps import FeedsDep, Services, ServicesDep, StillAdmittedDep, TenantDep
from api.entity_tags import KnownTagsDep, weak_tag
from api.errors import ApiError, no_cursor
from api.feeds import wait_for
from jobs.errors import NotAllowed, UnknownCursor
from jobs.job import END_STATES, Job, State
from jobs.specs import spec_errors
from jobs.specs.spec import AnySpec, JobChange, JobSpec, Kind, Resolved, job_spec, merged

router = APIRouter(tags=["jobs"])

LOOK_SECONDS = 1.0
"""Polling interval of a long poll while no event arrives: the position in the queue changes without events."""


IdempotencyKey = Annotated[
    str | None,
    Header(
        min_length=1,
        max_length=200,
        description="Any text that is unique for each job: the same key and body return the same job again.",
        examples=["3f6c2a9e-cells-r18"],
    ),
]

_NOT_NOW: dict[int | str, dict[str, Any]] = {
    409: {
        "description": "the job's state does not allow that; `actions` are the allowed ones (`not_allowed`)"
    }
}
_NOT_JSON: dict[int | str, dict[str, Any]] = {
    415: {"description": "the body is not sent as JSON (`unsupported_media_type`)"}
}


class JobPage(BaseModel):
    """Jobs, newest first; `next` is the `after` of the next page, null on the last."""

    model_config = ConfigDict(frozen=True, use_attribute_docstrings=True)

    items: tuple[Job, ...]
    next: str | None


@router.post("/jobs", status_code=201, responses=_NOT_JSON)
async def submit(
    spec: JobSpec,
    response: Response,
    services: ServicesDep,
    tenant: TenantDep,
    idempotency_key: IdempotencyKey = None,
) -> Job:
    """Check a spec and queue it. The same Idempotency-Key and spec return the same job again."""
    job = await services.in_line(partial(_submit, spec, services, tenant, idempotency_key))
    return await _notified(job, services, response)


def _submit(spec: AnySpec, services: Services, tenant: str, key: str | None) -> Job:
    job = services.store.submission.find_by_idempotency_key(spec, key, tenant=tenant)
    if job is None:  # looked up first: the answer stays the same, even if the data are gone since
        resolved = services.resolve(spec, tenant)
        job, _ = services.store.submission.submit(spec, resolved, idempotency_key=key, tenant=tenant)
    return job


async def _notified(job: Job, services: Services, response: Response) -> Job:
    await services.notify(
        job
    )  # after the commit; if the broker is unavailable, a worker's sweep notifies again
    response.headers["Location"] = f"/jobs/{job.id}"
    return job


@router.post("/jobs/validate", responses=_NOT_JSON)
async def validate(spec: JobSpec, services: ServicesDep, tenant: TenantDep) -> Resolved:
    """Return what a spec resolves to and the report on its data set, or all its errors. Nothing is queued."""
    return await services.in_line(partial(services.resolve, spec, tenant))


@router.get("/jobs")
def list_jobs(
    services: ServicesDep,
    tenant: TenantDep,
    state: Annotated[State | None, Query(description="only jobs in this state", examples=["running"])] = None,
    kind: Annotated[Kind | None, Query(description="only jobs of this kind", examples=["distill"])] = None,
    tag: Annotated[
        list[str] | None,
        Query(
            max_length=32,
            description="key, or key:value; jobs must have all of several tags",
            examples=[["team:lab"]],
        ),
    ] = None,
    q: Annotated[
        str | None,
        Query(
            min_length=1,
            max_length=300,
            description="a part of the name, in any case, or the beginning of the id",
            examples=["cells"],
        ),
    ] = None,
    after: Annotated[
        str | None, Query(description="`next` of the previous page", examples=["e4hnK1JkY9w8pWzr2mVbXQ"])
    ] = None,
    limit: Annotated[
        int, Query(ge=1, le=500, description="maximum number of jobs in one answer", examples=[20])
    ] = 50,
) -> JobPage:
    """List jobs, newest first."""
    try:
        page = services.store.reading.list_jobs(
            state=state, kind=kind, tags=tag or (), search=q, after=after, limit=limit, tenant=tenant
        )
    except UnknownCursor as error:
        raise no_cursor(error) from None
    return JobPage(items=page.items, next=page.next)


@router.get(
    "/jobs/{job_id}",
    response_model=Job,
    responses={304: {"description": "not modified since the If-None-Match tag"}},
)
async def get_job(
    job_id: str,
    request: Request,
    services: ServicesDep,
    feeds: FeedsDep,
    tenant: TenantDep,
    known: KnownTagsDep,
    still_admitted: StillAdmittedDep,
    wait: Annotated[
        float, Query(ge=0, le=60, description="maximum seconds to wait for a change", examples=[0.5])
    ] = 0,
) -> Response:
    """Return one job.

    With `wait` the answer comes as soon as the job no longer matches If-None-Match, or, without that header, as
    soon as it has ended; after `wait` seconds at the latest.
    """
    seen = await _read_job(services, job_id, tenant)

    def arrived() -> bool:
        return not known.hold(seen.tag) if known else seen.ended

    deadline = time.monotonic() + wait
    if wait and not arrived():
        with feeds.follow(job_id) as feed:
            while True:
                news = feed.news  # taken first: a change during the read is not missed
                if known or feed.ended:
                    seen = await _read_job(services, job_id, tenant)
                left = deadline - time.monotonic()
                if arrived() or left <= 0 or feeds.closed or await request.is_disconnected():
                    break
                await wait_for(news, min(LOOK_SECONDS, left))
                await still_admitted()
    headers = {"ETag": seen.tag, "Cache-Control": "no-cache"}
    if known.hold(seen.tag):
        return Response(status_code=304, headers=headers)
    return Response(seen.body, headers=headers, media_type="application/json")


class _Seen(NamedTuple):
    """A job at the time of the read."""

    ended: bool
    body: bytes
    tag: str


async def _read_job(services: Services, job_id: str, tenant: str) -> _Seen:
    job = await run_in_threadpool(services.store.reading.get, job_id, tenant=tenant)
    body = job.model_dump_json().encode()
    return _Seen(job.state in END_STATES, body, weak_tag(body))


@router.post("/jobs/{job_id}/cancel", status_code=202, responses=_NOT_NOW)
def cancel(job_id: str, services: ServicesDep, tenant: TenantDep) -> Job:
    """Cancel a job: at once if it is not running, otherwise as soon as its worker is informed."""
    return services.store.submission.cancel_requested(job_id, tenant=tenant)


@router.post("/jobs/{job_id}/pause", status_code=202, responses=_NOT_NOW)
def pause(job_id: str, services: ServicesDep, tenant: TenantDep) -> Job:
    """Stop a running job after a checkpoint and free its device until it is resumed."""
    return services.store.submission.pause_requested(job_id, tenant=tenant)


@router.post("/jobs/{job_id}/resume", status_code=202, responses=_NOT_NOW)
async def resume(job_id: str, services: ServicesDep, tenant: TenantDep) -> Job:
    """Queue a paused job again; it resumes from its checkpoint."""
    job = await run_in_threadpool(services.store.submission.resume, job_id, tenant=tenant)
    await services.notify(job)
    return job


@router.post("/jobs/{job_id}/retry", status_code=202, responses=_NOT_NOW)
async def retry(
    job_id: str,
    response: Response,
    services: ServicesDep,
    tenant: TenantDep,
    idempotency_key: IdempotencyKey = None,
) -> Job:
    """Retry a failed or cancelled job: a new job of the same spec, which resumes from the last checkpoint kept."""
    job = await services.in_line(partial(_retry, job_id, services, tenant, idempotency_key))
    return await _notified(job, services, response)


def _retry(job_id: str, services: Services, tenant: str, key: str | None) -> Job:
    job = services.store.submission.find_retry_by_idempotency_key(job_id, key, tenant=tenant)
    if job is None:
        old = services.store.reading.get(job_id, tenant=tenant)
        if "retry" not in old.actions:
            raise NotAllowed(job_id, "retry", old.state.value, old.actions)
        spec = spec_errors.read_spec(old.spec)
        resolved = services.resolve(spec, tenant)
        job = services.store.submission.retry(job_id, spec, resolved, idempotency_key=key, tenant=tenant)
    return job


@router.post("/jobs/{job_id}/clone", status_code=201)
async def clone(
    job_id: str,
    response: Response,
    services: ServicesDep,
    tenant: TenantDep,
    changes: Annotated[dict[str, Any] | None, Body(examples=[{"train": {"epochs": 24}}])] = None,
    idempotency_key: IdempotencyKey = None,
) -> Job:
    """Queue a new job of this one's spec, changed by a JSON merge patch (RFC 7396) if one is sent."""
    try:
        job = await services.in_line(
            partial(_clone, job_id, changes or {}, services, tenant, idempotency_key)
        )
    except RecursionError:
        raise ApiError(400, "invalid_json", "the body is nested too deeply") from None
    return await _notified(job, services, response)


def _clone(job_id: str, changes: dict[str, Any], services: Services, tenant: str, key: str | None) -> Job:
    job = services.store.submission.find_clone_by_idempotency_key(job_id, changes, key, tenant=tenant)
    if job is None:
        old = services.store.reading.get(job_id, tenant=tenant)
        spec = spec_errors.read_spec(merged(old.spec, changes))
        resolved = services.resolve(spec, tenant)
        job = services.store.submission.clone(
            job_id, changes, spec, resolved, idempotency_key=key, tenant=tenant
        )
    return job


@router.patch("/jobs/{job_id}", responses=_NOT_NOW)
async def change(job_id: str, wanted: JobChange, services: ServicesDep, tenant: TenantDep) -> Job:
    """Change name, tags or, while it is queued, priority: fields that are sent are set, null removes."""
    job = await run_in_threadpool(services.store.editing.change, job_id, wanted, tenant=tenant)
    if "priority" in wanted.model_fields_set and job.state is State.QUEUED:
        await services.notify(job)  # the old notification has the old priority
    return job


@router.delete(
    "/jobs/{job_id}",
    status_code=204,
    responses={
        409: {"description": "it has not ended (`not_allowed`), or other jobs need its model (`in_use`)"}
    },
)
def delete(job_id: str, services: ServicesDep, tenant: TenantDep) -> None:
    """Delete a job that has ended, with its events, its log and the files that no other job names."""
    services.store.editing.delete(job_id, tenant=tenant)


@router.get("/jobs/{job_id}/report")
def get_report(job_id: str, services: ServicesDep, tenant: TenantDep) -> dict[str, Any]:
    """Return the report: teacher, control and student side by side, and the gain of distillation."""
    report = services.store.reading.report(job_id, tenant=tenant)
    if report is None:
        raise ApiError(404, "no_report", _why_no_report(services, job_id, tenant))
    return report


def _why_no_report(services: Services, job_id: str, tenant: str) -> str:
    job = services.store.reading.get(job_id, tenant=tenant)
    return f"job {job_id} has no report, which is written at its end; now: {job.reason}"


@router.get("/schema/job")
def schema() -> dict[str, Any]:
    """Return the JSON schema of a job spec."""
    return job_spec.json_schema()
