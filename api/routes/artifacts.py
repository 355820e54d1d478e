"""Artifacts: listed while the job is still running, downloaded with Range and ETag."""

from __future__ import annotations

import mimetypes
from itertools import chain
from typing import Annotated, Any
from urllib.parse import quote

from fastapi import APIRouter, Path, Request, Response
from fastapi.responses import StreamingResponse

from api.deps import ServicesDep, TenantDep
from api.entity_tags import KnownTagsDep
from api.ranges import asked_part
from jobs.job import Artifact

router = APIRouter(prefix="/jobs/{job_id}/artifacts", tags=["artifacts"])


_FILE = {
    "content": {"*/*": {"schema": {"type": "string", "format": "binary"}}}
}  # the media type depends on the name
DOWNLOADS: dict[int | str, dict[str, Any]] = {
    200: {**_FILE, "description": "the file"},
    206: {**_FILE, "description": "the part of the file that Range asks for"},
    304: {"description": "not modified since the If-None-Match tag"},
    400: {"description": "Range is not a range of bytes (`invalid_range`)"},
    410: {
        "description": "the file was published and is missing (`artifact_gone`), or its content has changed "
        "(`artifact_damaged`)"
    },
    416: {"description": "Range lies beyond the end of the file (`range_not_satisfiable`)"},
    503: {
        "description": "the database, or the storage of published files, does not answer (`artifacts_away`)"
    },
}
PARTS: dict[str, Any] = {  # parsed from the request by `asked_part`
    "parameters": [
        {
            "name": "Range",
            "in": "header",
            "description": "one part of the file",
            "schema": {"type": "string", "examples": ["bytes=0-3"]},
        },
        {
            "name": "If-Range",
            "in": "header",
            "description": "`ETag` of the file of which a part is wanted; if it has changed, the whole file is sent",
            "schema": {"type": "string", "examples": ['"0"']},
        },
    ]
}


@router.get("")
def artifacts(job_id: str, services: ServicesDep, tenant: TenantDep) -> tuple[Artifact, ...]:
    """List the files that a job has published so far, with sizes, SHA-256 and metrics."""
    return services.store.reading.artifacts(job_id, tenant=tenant)


@router.head("/{name}", include_in_schema=False)
@router.get("/{name}", response_class=StreamingResponse, responses=DOWNLOADS, openapi_extra=PARTS)
def download(
    job_id: str,
    name: Annotated[
        str, Path(description="Name of the file, as listed by `artifacts`.", examples=["student.safetensors"])
    ],
    request: Request,
    services: ServicesDep,
    tenant: TenantDep,
    known: KnownTagsDep,
) -> Response:
    """Download one file. Its ETag is its SHA-256; Range (one part), If-Range and If-None-Match are supported."""
    return sent(services.store.reading.artifact(job_id, name, tenant=tenant), request, services, known)


def sent(artifact: Artifact, request: Request, services: ServicesDep, known: KnownTagsDep) -> Response:
    """Return the answer with a published file, or with the requested part of it."""
    headers = _headers(artifact)
    if known.hold(headers["ETag"]):
        return Response(status_code=304, headers=headers)
    if request.method == "HEAD":
        size = services.artifacts.size(artifact.sha256)
        return Response(headers=_described(artifact) | headers | {"Content-Length": str(size)})
    part = asked_part(request.headers, artifact.size, headers["ETag"])
    start, stop = part or (0, artifact.size)
    content = services.artifacts.read(artifact.sha256, *(part or ()))
    first = next(content, b"")  # now, while the status can still report that the storage does not answer
    if part:
        headers["Content-Range"] = f"bytes {start}-{stop - 1}/{artifact.size}"
    headers["Content-Length"] = str(stop - start)
    return StreamingResponse(
        chain((first,), content), 206 if part else 200, headers=_described(artifact) | headers
    )


def _headers(artifact: Artifact) -> dict[str, str]:
    return {
        "ETag": f'"{artifact.sha256}"',
        "Cache-Control": "no-cache",  # a name may be published anew ("best"), so clients must revalidate
        "X-Content-Type-Options": "nosniff",
        "Accept-Ranges": "bytes",
    }


def _described(artifact: Artifact) -> dict[str, str]:
    """Return the headers for the file's type, and for saving it under its name instead of showing it."""
    return {
        "Content-Type": mimetypes.guess_type(artifact.name)[0] or "application/octet-stream",
        "Content-Disposition": f"attachment; filename*=utf-8''{quote(artifact.name, safe='')}",
    }
