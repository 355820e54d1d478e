"""What the forms of a job's page send: the same as the routes of the API take."""

from __future__ import annotations

from typing import Literal

from fastapi import APIRouter, Request, Response
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import RedirectResponse

from api.deps import ServicesDep, TenantDep
from api.routes import jobs as job_routes
from api.ui.session import read_form

router = APIRouter(include_in_schema=False)

Action = Literal["cancel", "pause", "resume", "retry", "clone", "delete"]


@router.post("/ui/jobs/{job_id}/{action}")
async def act(
    job_id: str, action: Action, request: Request, services: ServicesDep, tenant: TenantDep
) -> Response:
    """Carry out an action, then show the job, the new job, or, after deleting, the list."""
    fields = await read_form(request)
    once = fields.get("once") or None
    ignored = Response()  # of which the routes set headers
    shown = job_id
    match action:
        case "cancel":
            await run_in_threadpool(job_routes.cancel, job_id, services, tenant)
        case "pause":
            await run_in_threadpool(job_routes.pause, job_id, services, tenant)
        case "resume":
            await job_routes.resume(job_id, services, tenant)
        case "retry":
            shown = (await job_routes.retry(job_id, ignored, services, tenant, once)).id
        case "clone":
            shown = (await job_routes.clone(job_id, ignored, services, tenant, None, once)).id
        case "delete":
            await run_in_threadpool(job_routes.delete, job_id, services, tenant)
            return RedirectResponse("/ui/jobs", 303)
    return RedirectResponse(f"/ui/jobs/{shown}", 303)
