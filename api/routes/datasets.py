"""Data sets: registered under a data root, or uploaded; checked before jobs may use them."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query, Request, Response
from fastapi.concurrency import run_in_threadpool

from api.deps import Services, ServicesDep, StillAdmittedDep, TenantDep
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
from api.uploads import added, must_be_one_of, read_json, requested, taken_in
from gkd_core.config import SPLITS
from jobs.resources import (
    CheckedResource,
    Format,
    Layout,
    NewDataset,
    NewResource,
    Resource,
    ResourceKind,
)

router = APIRouter(prefix="/datasets", tags=["datasets"])

ARCHIVES = (
    *("application/zip", "application/x-tar", "application/gzip", "application/x-gzip"),
    "application/octet-stream",
)
"""Accepted content types of an archive; its format is detected by its bytes."""

FormatOfUpload = Annotated[
    Format, Query(description="of an upload: its layout; `auto` detects it", examples=["coco"])
]


@router.post("", status_code=201, responses=ADDED, openapi_extra=requested(NewDataset, ARCHIVES))
async def add_dataset(
    request: Request,
    response: Response,
    services: ServicesDep,
    tenant: TenantDep,
    still_admitted: StillAdmittedDep,
    name: NameOfUpload = None,
    format: FormatOfUpload = "auto",
) -> Resource:
    """Register a data set under a data root (JSON), or upload one (zip, tar or tar.gz as the body).

    The answer comes before it is checked: poll until `state` is `ready` or `refused`. A spec then names it as
    `dataset:<id>`.
    """
    if is_json(request.headers):
        new = await read_json(request, NewDataset)
        found = await run_in_threadpool(_placed, services, new)
        return await added(response, services, tenant, found)
    must_be_one_of(request, ARCHIVES)
    sent = NewResource(ResourceKind.DATASET, named(name), layout=Layout(format=format))
    return await taken_in(request, response, services, tenant, sent, still_admitted)


@router.get("")
def list_datasets(
    services: ServicesDep,
    tenant: TenantDep,
    state: OnlyState = None,
    after: Annotated[
        str | None, Query(description="`next` of the previous page", examples=["Jq0c7xSg2nP4mTzVbD8w1A"])
    ] = None,
    limit: Limit = 50,
) -> ResourcePage:
    """List data sets, newest first, without their reports."""
    return listed(services, ResourceKind.DATASET, tenant, state, after, limit)


@router.get("/{dataset_id}", response_model=CheckedResource, responses=SEEN)
def get_dataset(
    dataset_id: str,
    services: ServicesDep,
    tenant: TenantDep,
    known: KnownTagsDep,
) -> Response:
    """Return one data set with its report: the same as `gkd data check --json` prints."""
    return shown(services, ResourceKind.DATASET, dataset_id, tenant, known)


@router.delete("/{dataset_id}", status_code=204, responses=IN_USE)
def delete_dataset(dataset_id: str, services: ServicesDep, tenant: TenantDep) -> None:
    """Delete a data set that no unfinished job needs. Files under a data root stay there."""
    services.store.resources.delete_resource(ResourceKind.DATASET, dataset_id, tenant=tenant)


def _placed(services: Services, new: NewDataset) -> NewResource:
    """Return a data set with absolute paths.

    Raises:
        SpecError: a path does not exist, or jobs may not read it.
    """
    splits = {
        name: split.model_copy(
            update={
                field: placed(services, path, name, field)
                for field in ("images", "annotations", "names")
                if (path := getattr(split, field)) is not None
            }
        )
        for name in SPLITS
        if (split := getattr(new, name)) is not None
    }
    path = None if new.path is None else placed(services, new.path, "path")
    return NewResource(ResourceKind.DATASET, new.name, path, Layout(format=new.format, **splits))
