"""Pages of data sets, models and workers: lists, and what the check found in a data set or model."""

from __future__ import annotations

import json
from typing import Any

from fastapi import APIRouter, Request, Response

from api import resources
from api.deps import PrincipalDep, Services, ServicesDep, TenantDep
from api.routes import workers as worker_routes
from api.ui.pages import render
from jobs.resources import ResourceKind

router = APIRouter(include_in_schema=False)

A_PAGE = 50
_SPLITS = ("train", "val", "test")
_HEADINGS = {ResourceKind.DATASET: "Data sets", ResourceKind.MODEL: "Models"}


@router.get("/ui/workers")
def worker_list(request: Request, services: ServicesDep, principal: PrincipalDep) -> Response:
    """Show the workers with their GPUs."""
    return render(request, "workers.html", workers=worker_routes.list_workers(services, principal))


@router.get("/ui/datasets")
def dataset_list(
    request: Request, services: ServicesDep, tenant: TenantDep, after: str | None = None
) -> Response:
    """Show the data sets of the tenant, newest first."""
    return _list(request, services, ResourceKind.DATASET, tenant, after)


@router.get("/ui/models")
def model_list(
    request: Request, services: ServicesDep, tenant: TenantDep, after: str | None = None
) -> Response:
    """Show the models of the tenant, newest first."""
    return _list(request, services, ResourceKind.MODEL, tenant, after)


@router.get("/ui/datasets/{dataset_id}")
def dataset_page(dataset_id: str, request: Request, services: ServicesDep, tenant: TenantDep) -> Response:
    """Show a data set with what its check found."""
    return _resource(request, services, ResourceKind.DATASET, dataset_id, tenant)


@router.get("/ui/models/{model_id}")
def model_page(model_id: str, request: Request, services: ServicesDep, tenant: TenantDep) -> Response:
    """Show a model with what its check found."""
    return _resource(request, services, ResourceKind.MODEL, model_id, tenant)


def _list(
    request: Request, services: Services, kind: ResourceKind, tenant: str, after: str | None
) -> Response:
    page = resources.listed(services, kind, tenant, None, after, A_PAGE)
    return render(
        request,
        "resources.html",
        kind=kind,
        shown=f"{kind}s",
        heading=_HEADINGS[kind],
        page=page,
        first=after is None,
    )


def _resource(
    request: Request, services: Services, kind: ResourceKind, resource_id: str, tenant: str
) -> Response:
    found = services.store.resources.get_resource(kind, resource_id, tenant=tenant)
    report = found.report or {}
    return render(
        request,
        "resource.html",
        resource=found,
        heading=_HEADINGS[kind],
        shown=f"{kind}s",
        splits=_splits(report),
        classes=_classes(report),
        warnings=report.get("warnings") or report.get("problems") or (),
        report=json.dumps(found.report, indent=2, ensure_ascii=False) if found.report else "",
    )


def _splits(report: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    """Return the splits that a data set has, by name."""
    return [(name, report[name]) for name in _SPLITS if isinstance(report.get(name), dict)]


def _classes(report: dict[str, Any]) -> list[tuple[str, list[int]]]:
    """Return each class with its boxes in each split."""
    splits = [split for _, split in _splits(report)]
    names = report.get("classes") or () if splits else ()
    return [(name, [split["boxes_per_class"].get(name, 0) for split in splits]) for name in names]
