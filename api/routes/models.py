"""Models: registered under a data root, or uploaded; checked before jobs may use them."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query, Request, Response
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import StreamingResponse

from api.deps import ServicesDep, StillAdmittedDep, TenantDep
from api.entity_tags import KnownTagsDep
from api.request_guard import is_json
from api.resources import (
    ADDED,
    IN_USE,
    SEEN,
    Limit,
    NameOfUpload,
    OnlyState,
    ResourcePage,
    listed,
    named,
    placed,
    shown,
)
from api.routes.artifacts import DOWNLOADS, PARTS, sent
from api.uploads import added, must_be_one_of, read_json, requested, taken_in
from jobs.errors import UnknownModelFile
from jobs.job import Artifact
from jobs.resources import CheckedResource, NewModel, NewResource, Resource, ResourceKind

router = APIRouter(prefix="/models", tags=["models"])

WEIGHTS = ("application/octet-stream",)


@router.post("", status_code=201, responses=ADDED, openapi_extra=requested(NewModel, WEIGHTS))
async def add_model(
    request: Request,
    response: Response,
    services: ServicesDep,
    tenant: TenantDep,
    still_admitted: StillAdmittedDep,
    name: NameOfUpload = None,
) -> Resource:
    """Register a model under a data root (JSON), or upload one (`.safetensors` or `.pth` as the body).

    The answer comes before it is checked: poll until `state` is `ready` or `refused`. A spec then names it as
    `model:<id>`. No code in the file is run, neither now nor later.
    """
    if is_json(request.headers):
        new: NewModel = await read_json(request, NewModel)
        path = await run_in_threadpool(placed, services, new.path, "path")
        found = NewResource(ResourceKind.MODEL, new.name, path)
        return await added(response, services, tenant, found)
    must_be_one_of(request, WEIGHTS)
    sent = NewResource(ResourceKind.MODEL, named(name))
    return await taken_in(request, response, services, tenant, sent, still_admitted)


@router.get("")
def list_models(
    services: ServicesDep,
    tenant: TenantDep,
    state: OnlyState = None,
    after: Annotated[
        str | None, Query(description="`next` of the previous page", examples=["yL5uR3kXh9aWf6oQeC2d7g"])
    ] = None,
    limit: Limit = 50,
) -> ResourcePage:
    """List models, newest first, without their reports."""
    return listed(services, ResourceKind.MODEL, tenant, state, after, limit)


@router.get("/{model_id}", response_model=CheckedResource, responses=SEEN)
def get_model(
    model_id: str,
    services: ServicesDep,
    tenant: TenantDep,
    known: KnownTagsDep,
) -> Response:
    """Return one model with its report: format, tensors, parameters, and the card of a GKD model."""
    return shown(services, ResourceKind.MODEL, model_id, tenant, known)


@router.head("/{model_id}/file", include_in_schema=False)
@router.get("/{model_id}/file", response_class=StreamingResponse, responses=DOWNLOADS, openapi_extra=PARTS)
def model_file(
    model_id: str, request: Request, services: ServicesDep, tenant: TenantDep, known: KnownTagsDep
) -> Response:
    """Download an uploaded model. Its ETag is its SHA-256; Range, If-Range and If-None-Match are supported.

    A model under a data root is not sent (404): whoever may read that folder has it.
    """
    found = services.store.resources.get_resource(ResourceKind.MODEL, model_id, tenant=tenant)
    if not found.uploaded or found.sha256 is None:
        raise UnknownModelFile(model_id)
    name = f"{found.id}.safetensors"
    file = Artifact(name=name, size=found.size, sha256=found.sha256, created_at=found.created_at)
    return sent(file, request, services, known)


@router.delete("/{model_id}", status_code=204, responses=IN_USE)
def delete_model(model_id: str, services: ServicesDep, tenant: TenantDep) -> None:
    """Delete a model that no unfinished job needs. Files under a data root stay there."""
    services.store.resources.delete_resource(ResourceKind.MODEL, model_id, tenant=tenant)
