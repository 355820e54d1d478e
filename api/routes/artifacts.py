"""Published files: listed while the job still runs, downloaded with Range and ETag."""

from __future__ import annotations

import mimetypes
from typing import Annotated, Any

from fastapi import APIRouter, Header, Request, Response
from fastapi.responses import FileResponse
from starlette.datastructures import Headers
from starlette.types import Message, Receive, Scope, Send

from api.deps import ServicesDep, TenantDep
from api.errors import problem
from jobs.job import Artifact

router = APIRouter(prefix="/jobs/{job_id}/artifacts", tags=["artifacts"])


_FILE = {"content": {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}}}
_DOWNLOADS: dict[int | str, dict[str, Any]] = {
    200: {**_FILE, "description": "the file"},
    206: {**_FILE, "description": "the part of it that Range asks for"},
    304: {"description": "still as If-None-Match says"},
}


class Download(FileResponse):
    """A file whose refusals of a Range are problems like all others, not plain text."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the file, a part of it, or why not."""
        refused = False

        async def worded(message: Message) -> None:
            nonlocal refused
            if message["type"] == "http.response.start" and message["status"] >= 400:
                refused = True
                await _refuse_range(scope, message)(scope, receive, send)
            elif not refused:
                await send(message)

        await super().__call__(scope, receive, worded)


def _refuse_range(scope: Scope, message: Message) -> Response:
    seen, size = Headers(scope=scope).get("range"), Headers(raw=message["headers"]).get("content-range")
    if message["status"] == 416 and size:
        detail = f"the range {seen!r} lies beyond the end of the file, {size}"
        return problem(Request(scope), 416, "range_not_satisfiable", detail, headers={"Content-Range": size})
    return problem(
        Request(scope), 400, "invalid_range", f"{seen!r} is no range of bytes, such as bytes=0-1023"
    )


@router.get("")
def artifacts(job_id: str, services: ServicesDep, tenant: TenantDep) -> tuple[Artifact, ...]:
    """What a job has published so far, with sizes, SHA-256 and metrics."""
    return services.store.artifacts(job_id, tenant=tenant)


@router.head("/{name}", include_in_schema=False)
@router.get("/{name}", response_class=FileResponse, responses=_DOWNLOADS)
def download(
    job_id: str,
    name: str,
    services: ServicesDep,
    tenant: TenantDep,
    if_none_match: Annotated[str | None, Header()] = None,
) -> Response:
    """One file. Its ETag is its SHA-256; Range, If-Range and If-None-Match are understood."""
    artifact = services.store.artifact(job_id, name, tenant=tenant)
    headers = {
        "ETag": f'"{artifact.sha256}"',
        "Cache-Control": "no-cache",  # a name may be published anew ("best"), so it is asked for again each time
        "X-Content-Type-Options": "nosniff",
    }
    if if_none_match is not None and _matches(if_none_match, artifact.sha256):
        return Response(status_code=304, headers=headers)
    path = services.artifacts.path(artifact.sha256)
    media_type = mimetypes.guess_type(name)[0] or "application/octet-stream"
    return Download(path, headers=headers, media_type=media_type, filename=name)


def _matches(if_none_match: str, sha256: str) -> bool:
    """Starlette's FileResponse knows Range and If-Range, but not this one."""
    tags = (tag.strip().removeprefix("W/") for tag in if_none_match.split(","))
    return any(tag in ("*", f'"{sha256}"') for tag in tags)
