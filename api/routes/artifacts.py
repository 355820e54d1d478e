"""Published files: listed while the job still runs, downloaded with Range and ETag."""

from __future__ import annotations

import mimetypes
from typing import Annotated

from fastapi import APIRouter, Header, Response
from fastapi.responses import FileResponse

from api.deps import ServicesDep
from jobs.job import Artifact

router = APIRouter(prefix="/jobs/{job_id}/artifacts", tags=["artifacts"])


@router.get("")
def artifacts(job_id: str, services: ServicesDep) -> tuple[Artifact, ...]:
    """What a job has published so far, with sizes, SHA-256 and metrics."""
    return services.store.artifacts(job_id)


@router.api_route("/{name}", methods=["GET", "HEAD"], response_class=FileResponse)
def download(
    job_id: str, name: str, services: ServicesDep, if_none_match: Annotated[str | None, Header()] = None
) -> Response:
    """One file. Its ETag is its SHA-256; Range, If-Range and If-None-Match are understood."""
    artifact = services.store.artifact(job_id, name)
    headers = {
        "ETag": f'"{artifact.sha256}"',
        "Cache-Control": "no-cache",  # a name may be published anew ("best"), so it is asked for again each time
        "X-Content-Type-Options": "nosniff",
    }
    if if_none_match is not None and _matches(if_none_match, artifact.sha256):
        return Response(status_code=304, headers=headers)
    path = services.artifacts.path(artifact.sha256)
    media_type = mimetypes.guess_type(name)[0] or "application/octet-stream"
    return FileResponse(path, headers=headers, media_type=media_type, filename=name)


def _matches(if_none_match: str, sha256: str) -> bool:
    """Starlette's FileResponse knows Range and If-Range, but not this one."""
    tags = (tag.strip().removeprefix("W/") for tag in if_none_match.split(","))
    return any(tag in ("*", f'"{sha256}"') for tag in tags)
