"""Shared parts of the routes of data sets and models."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import Query, Response
from pydantic import BaseModel, ConfigDict

from api.deps import Services
from api.entity_tags import KnownTags, weak_tag
from api.errors import no_cursor
from gkd_core.errors import Problem, SpecError
from jobs.errors import UnknownCursor
from jobs.paths.data_roots import DataRootError, DataRoots
from jobs.resources import Resource, ResourceKind, ResourceName, ResourceState

OnlyState = Annotated[ResourceState | None, Query(description="only those in this state", examples=["ready"])]
Limit = Annotated[int, Query(ge=1, le=500, description="maximum number in one answer", examples=[20])]
NameOfUpload = Annotated[
    ResourceName | None,
    Query(description="of an upload: its name, which is required", examples=["blood cells"]),
]

ADDED: dict[int | str, dict[str, Any]] = {
    200: {
        "model": Resource,
        "description": "the same file was uploaded under this name before, as the resource returned",
    },
    415: {"description": "the body is of another type (`unsupported_media_type`)"},
    507: {"description": "the disk of the service is nearly full (`no_room`)"},
}
"""Possible answers to an upload or registration."""
SEEN: dict[int | str, dict[str, Any]] = {304: {"description": "not modified since the If-None-Match tag"}}
IN_USE: dict[int | str, dict[str, Any]] = {
    409: {"description": "jobs that have not ended need it (`in_use`)"}
}


class ResourcePage(BaseModel):
    """Data sets or models, newest first; `next` is the `after` of the next page, null on the last."""

    model_config = ConfigDict(frozen=True)

    items: tuple[Resource, ...]
    next: str | None


def listed(
    services: Services, kind: ResourceKind, tenant: str, state: str | None, after: str | None, limit: int
) -> ResourcePage:
    """Return a page of data sets or models."""
    try:
        page = services.store.resources.list_resources(
            kind, tenant=tenant, state=state, after=after, limit=limit
        )
    except UnknownCursor as error:
        raise no_cursor(error) from None
    return ResourcePage(items=page.items, next=page.next)


def shown(
    services: Services, kind: ResourceKind, resource_id: str, tenant: str, known: KnownTags
) -> Response:
    """Return a data set or model, with its report and an ETag."""
    body = services.store.resources.get_resource(kind, resource_id, tenant=tenant).model_dump_json().encode()
    headers = {"ETag": weak_tag(body), "Cache-Control": "no-cache"}
    if known.hold(headers["ETag"]):
        return Response(status_code=304, headers=headers)
    return Response(body, headers=headers, media_type="application/json")


def placed(services: Services, text: str, *loc: str) -> str:
    """Return the absolute path of a file or folder that jobs may read.

    Raises:
        SpecError: there is none under the data roots; `loc` is the field that named it.
    """
    try:
        return str(DataRoots(services.settings.data_roots).find(text))
    except DataRootError as error:
        raise SpecError([Problem(loc=loc, message=error.message, hint=error.hint)]) from None


def named(name: str | None) -> str:
    """Return the name of an upload.

    Raises:
        SpecError: it is missing.
    """
    if name is None:
        problem = Problem(loc=("query", "name"), message="an upload needs a name", hint="Add ?name=...")
        raise SpecError([problem])
    return name
