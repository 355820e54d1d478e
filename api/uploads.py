"""Uploads: request bodies that are streamed to disk, never whole in memory."""

from __future__ import annotations

import asyncio
import errno
import shutil
from collections.abc import AsyncIterator, Callable, Collection, Iterator
from contextlib import asynccontextmanager, contextmanager
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

from fastapi import Request, Response
from fastapi.concurrency import run_in_threadpool
from fastapi.exceptions import RequestValidationError
from pydantic import ValidationError
from starlette.requests import ClientDisconnect

from api.deps import Services, StillAdmitted
from api.errors import ApiError
from gkd_core.config import Strict
from jobs.artifacts.base import Blob
from jobs.errors import QuotaExceeded
from jobs.resources import NewResource, Resource
from jobs.uploads.incoming import Arriving, Incoming

SILENCE_SECONDS = 60.0
"""Timeout for a client that sends nothing."""
_WRITTEN_BYTES = 4 << 20
"""Bytes that are buffered before a write: each write takes a thread."""
_CHECK_SPACE_EVERY_BYTES = _AHEAD_BYTES = 64 << 20


def requested(new: type[Strict], media_types: Collection[str]) -> dict[str, Any]:
    """Return the OpenAPI request body of a route that accepts JSON with a path, or a file.

    Args:
        new: The model of the JSON.
        media_types: Accepted content types of the file.
    """
    content: dict[str, Any] = {
        "application/json": {"schema": {"$ref": f"#/components/schemas/{new.__name__}"}}
    }
    for media_type in media_types:
        content[media_type] = {"schema": {"type": "string", "format": "binary"}}
    return {"requestBody": {"required": True, "content": content}}


async def read_json(request: Request, new: type[Strict]) -> Any:
    """Return the parsed and validated JSON body.

    Raises:
        RequestValidationError: it is not valid.
        ApiError: it is no JSON.
    """
    try:
        return new.model_validate_json(await request.body())
    except ValidationError as error:
        found = error.errors(include_context=False, include_url=False)
        if found[0]["type"] == "json_invalid":
            raise ApiError(400, "invalid_json", f"the body is not JSON; {found[0]['msg']}") from None
        raise RequestValidationError([{**each, "loc": ("body", *each["loc"])} for each in found]) from None


def must_be_one_of(request: Request, media_types: Collection[str]) -> None:
    """Check the content type of an upload.

    Raises:
        ApiError: it is not an accepted one.
    """
    sent = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if sent not in media_types:
        wanted = " or ".join(("application/json", *media_types))
        detail = f"send {wanted} as Content-Type, not {sent[:80]!r}; with curl: -X POST -H 'Content-Type: ...' -T FILE"
        raise ApiError(415, "unsupported_media_type", detail)


@asynccontextmanager
async def received(request: Request, services: Services, tenant: str) -> AsyncIterator[Path]:
    """Receive the body as a file, which is removed at the end. While it exists it counts in the tenant's quota.

    Raises:
        ApiError: it is too large, the disk too full, or the body incomplete.
        QuotaExceeded: it exceeds the tenant's quota.
    """
    announced = _announced(request)
    if announced > services.settings.upload_bytes:
        raise ApiError(413, "too_large", f"an upload has at most {services.settings.upload_bytes} bytes")
    must_fit = partial(services.store.keys.must_store, tenant)
    with _reporting_full_disk():
        arriving = await run_in_threadpool(Incoming(services.settings.incoming).create, tenant)
        try:
            await run_in_threadpool(arriving.reserve, max(1, announced), must_fit)
            await _fill(arriving, request, services.settings.free_bytes, must_fit)
            yield arriving.path
        finally:
            # Removing a large file takes long; it continues if the client disconnects.
            await asyncio.shield(run_in_threadpool(arriving.end))


@contextmanager
def _reporting_full_disk() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise _no_room() from error


async def taken_in(
    request: Request,
    response: Response,
    services: Services,
    tenant: str,
    new: NewResource,
    still_admitted: StillAdmitted,
) -> Resource:
    """Store the uploaded file, then register it: a crash between the two leaves a file that tidying removes."""
    async with received(request, services, tenant) as path:
        await still_admitted()  # the upload may have taken hours
        blob = await run_in_threadpool(_kept, services, path)
        sent = new._replace(size=blob.size, sha256=blob.sha256)
        return await added(response, services, tenant, sent)


def _kept(services: Services, path: Path) -> Blob:
    """Move the received file to the artifacts. On another disk that is a copy, which needs space."""
    place = services.settings.artifacts_url
    if isinstance(place, Path):
        place.mkdir(parents=True, exist_ok=True)
        about = path.stat()
        if about.st_dev != place.stat().st_dev:
            _must_have_room(place, services.settings.free_bytes + about.st_size)
    return services.artifacts.take(path)


async def added(response: Response, services: Services, tenant: str, new: NewResource) -> Resource:
    """Register a resource and start its check. If it was uploaded before, the answer is 200."""
    resource, made = await run_in_threadpool(services.store.resources.add_resource, new, tenant=tenant)
    if made:
        services.checks.hurry()
    else:
        response.status_code = 200
    response.headers["Location"] = f"/{resource.kind}s/{resource.id}"
    return resource


def _announced(request: Request) -> int:
    """Return the announced bytes of a body; 0 if the client announces none."""
    length = request.headers.get("content-length", "")
    return int(length) if length.isdecimal() and len(length) < 20 else 0


async def _fill(
    arriving: Arriving, request: Request, free_bytes: int, must_fit: Callable[[int], None]
) -> None:
    """Write the body to disk as it arrives."""
    size = checked_at = 0
    await run_in_threadpool(_must_have_room, arriving.path.parent, free_bytes + arriving.size)
    async with _open(arriving.path) as file:
        async for block in _blocks(request):
            size += len(block)
            if size > arriving.size:
                await run_in_threadpool(_reserve_more, arriving, size, must_fit)
            await run_in_threadpool(file.write, block)
            if size - checked_at > _CHECK_SPACE_EVERY_BYTES:
                checked_at = size
                await run_in_threadpool(_must_have_room, arriving.path.parent, free_bytes)
    if size == 0:
        raise ApiError(422, "invalid_request", "the body is empty: send the file as the body")
    await run_in_threadpool(arriving.cut, size)


@asynccontextmanager
async def _open(path: Path) -> AsyncIterator[BinaryIO]:
    """Open the file for writing. A network file system writes on closing, so that happens in a thread, too."""
    file = await run_in_threadpool(path.open, "r+b")
    try:
        yield file
    finally:
        await asyncio.shield(run_in_threadpool(file.close))


def _reserve_more(arriving: Arriving, size: int, must_fit: Callable[[int], None]) -> None:
    """Reserve more of the quota for a body of unknown size, some of it ahead: each reservation is a query."""
    try:
        arriving.reserve(size + _AHEAD_BYTES, must_fit)
    except QuotaExceeded:
        arriving.reserve(size, must_fit)


async def _blocks(request: Request) -> AsyncIterator[bytes]:
    """Yield the body in larger blocks than the network's."""
    gathered = bytearray()
    pieces = aiter(request.stream())
    try:
        while True:
            async with asyncio.timeout(SILENCE_SECONDS):
                piece = await anext(pieces, None)
            if piece is None:
                break
            gathered += piece
            if len(gathered) >= _WRITTEN_BYTES:
                yield bytes(gathered)
                gathered.clear()
    except (ClientDisconnect, TimeoutError):
        raise ApiError(400, "incomplete", "the upload broke off; nothing of it is kept") from None
    if gathered:
        yield bytes(gathered)


def _must_have_room(folder: Path, free_bytes: int) -> None:
    if shutil.disk_usage(folder).free < free_bytes:
        raise _no_room()


def _no_room() -> ApiError:
    detail = "the disk of the service is nearly full; nothing is kept until there is room"
    return ApiError(507, "no_room", detail)
