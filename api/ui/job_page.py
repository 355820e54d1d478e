"""The page of one job: verdict, curves, classes, losses, events, log, spec, files."""

from __future__ import annotations

import json
import secrets
import time
from collections import OrderedDict
from threading import Lock
from typing import Annotated, Any, NamedTuple

from fastapi import APIRouter, Query, Request, Response

from api.deps import FeedsDep, PrincipalDep, Services, ServicesDep, StillAdmittedDep, TenantDep
from api.entity_tags import KnownTagsDep
from api.routes import artifacts as artifact_routes
from api.routes import events as event_routes
from api.routes import stream as stream_routes
from api.ui import job_charts
from api.ui.event_text import event_text
from api.ui.pages import render
from api.ui.summary import summary_of
from api.ui.verdict import verdict_of
from gkd_core.events import in_order
from jobs.curves import JobCurves
from jobs.job import END_STATES
from jobs.keys import Scope

router = APIRouter(include_in_schema=False)

CURVE_POINTS = 300
"""Points of each curve: more cannot be seen on a small chart."""
_LOG_BYTES = 24 * 1024
_LOG_LINES = 200
_MOST_CACHED = 64
"""Jobs whose curves are kept: to compute them reads all events."""
_TIMES_AS_LONG = 10
"""So that computing curves takes a tenth of one core at most for each job, however many look at it."""


@router.get("/ui/jobs/{job_id}")
def job_page(
    job_id: str,
    request: Request,
    services: ServicesDep,
    tenant: TenantDep,
    principal: PrincipalDep,
    metric: Annotated[str, Query(max_length=20)] = "AP",
) -> Response:
    """Show everything about a job."""
    reading = services.store.reading
    last = _last_event(services, job_id)  # read first: what happens meanwhile is sent by the stream
    job, report = reading.get(job_id, tenant=tenant), reading.report(job_id, tenant=tenant)
    curves = curves_of(request, services, job_id, tenant)
    happened = services.store.overview.milestones(job_id, tenant=tenant)
    files = reading.artifacts(job_id, tenant=tenant)
    titles = {event.body["file"]: event.body["title"] for event in happened if event.kind == "file"}
    return render(
        request,
        "job.html",
        job=job,
        is_open=job.state not in END_STATES,
        last=last,
        row=summary_of(job, report),
        actions=job.actions if principal.may(Scope.WRITE) else (),
        once=secrets.token_hex(16),
        verdict=verdict_of(job, report, curves),
        ap=job_charts.ap_chart(curves, metric, job_charts.epochs_of(job)),
        classes=job_charts.class_rows(curves, report),
        losses=job_charts.loss_charts(curves),
        models=_models(report),
        headline=(report or {}).get("headline", ()),
        notes=(report or {}).get("notes", ()),
        events=[(event, event_text(event)) for event in happened],
        log=_log_end(services, job_id, tenant),
        spec=json.dumps(job.spec, indent=2, ensure_ascii=False),
        resolved=json.dumps(job.resolved, indent=2, ensure_ascii=False),
        files=files,
        figures=[(file.name, titles.get(file.name, "")) for file in files if _is_picture(file.name)],
    )


@router.get("/ui/jobs/{job_id}/log")
def log(job_id: str, services: ServicesDep, tenant: TenantDep, offset: int = 0) -> Response:
    """Show the log as text, from an offset on."""
    return event_routes.log(job_id, services, tenant, offset, event_routes.LOG_BYTES)


@router.get("/ui/jobs/{job_id}/stream")
async def stream(
    job_id: str,
    services: ServicesDep,
    feeds: FeedsDep,
    tenant: TenantDep,
    still_admitted: StillAdmittedDep,
    after: stream_routes.Number = 0,
    last_event_id: stream_routes.LastEventId = None,
) -> Response:
    """Stream the events of a job, as the API does."""
    return await stream_routes.stream(job_id, services, feeds, tenant, still_admitted, after, last_event_id)


@router.get("/ui/jobs/{job_id}/files/{name}")
def file(
    job_id: str, name: str, request: Request, services: ServicesDep, tenant: TenantDep, known: KnownTagsDep
) -> Response:
    """Send a published file, as the API does."""
    return artifact_routes.download(job_id, name, request, services, tenant, known)


class _Cached(NamedTuple):
    last: int
    curves: JobCurves
    until: float


class CurveCache:
    """Curves of the jobs seen last: as long as no event is added, and for a multiple of the time that they took.

    Curves of a job of many steps take long, and while it runs each event would make them out of date.
    """

    def __init__(self) -> None:
        self._lock = Lock()
        self._known: OrderedDict[str, _Cached] = OrderedDict()

    def get(self, job_id: str, last: int) -> JobCurves | None:
        """Return the curves that are good enough when the newest event has this number."""
        with self._lock:
            found = self._known.get(job_id)
        return found.curves if found and (found.last == last or time.monotonic() < found.until) else None

    def put(self, job_id: str, last: int, curves: JobCurves, seconds: float) -> None:
        """Keep curves that took so many seconds; those put earliest are dropped beyond a limit."""
        with self._lock:
            self._known[job_id] = _Cached(last, curves, time.monotonic() + _TIMES_AS_LONG * seconds)
            self._known.move_to_end(job_id)
            if len(self._known) > _MOST_CACHED:
                self._known.popitem(last=False)


def _last_event(services: Services, job_id: str) -> int:
    head = services.store.following.heads((job_id,)).get(job_id)
    return head.last if head else 0


def curves_of(request: Request, services: Services, job_id: str, tenant: str) -> JobCurves:
    """Return the curves of a job of this tenant; the caller has read the job, so it exists and is the tenant's."""
    last = _last_event(services, job_id)
    cache: CurveCache = request.app.state.curve_cache
    if (known := cache.get(job_id, last)) is not None:
        return known
    began = time.monotonic()
    curves = services.store.following.curves(job_id, points=CURVE_POINTS, tenant=tenant)
    cache.put(job_id, last, curves, time.monotonic() - began)
    return curves


def _models(report: dict[str, Any] | None) -> list[tuple[str, dict[str, Any]]]:
    models = (report or {}).get("models") or {}
    return [(role, models[role]) for role in in_order(models)]


def _log_end(services: Services, job_id: str, tenant: str) -> str:
    """Return the last lines of the log, the first of them whole."""
    answer = event_routes.log(job_id, services, tenant, -_LOG_BYTES, _LOG_BYTES)
    text = bytes(answer.body).decode()
    lines = text.splitlines()
    if len(answer.body) >= _LOG_BYTES - event_routes.LONGEST_CHARACTER:
        del lines[0]
    return "\n".join(lines[-_LOG_LINES:])


def _is_picture(name: str) -> bool:
    return name.lower().endswith((".png", ".jpg", ".jpeg"))
