"""Files that are sent as the body of a request: written to the disk as they come, never whole in memory."""

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
"""After which a sender that sends nothing has gone."""
_WRITTEN_BYTES = 4 << 20
"""Gathered before they are written: each time takes a thread."""
_LOOK_FOR_ROOM_BYTES = _AHEAD_BYTES = 64 << 20


def requested(new: type[Strict], media_types: Collection[str]) -> dict[str, Any]:
    """The body in the description of the API: JSON that names a path, or a file.

    Args:
        new: What the JSON holds.
        media_types: What the file may be said to be.
    """
    content: dict[str, Any] = {
        "application/json": {"schema": {"$ref": f"#/components/schemas/{new.__name__}"}}
    }
    for media_type in media_types:
        content[media_type] = {"schema": {"type": "string", "format": "binary"}}
    return {"requestBody": {"required": True, "content": content}}


async def read_json(request: Request, new: type[Strict]) -> Any:
    """The body as a value.

    Raises:
        RequestValidationError: it is none.
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
    """Refuse a body of another type.

    Raises:
        ApiError: it is.
    """
    sent = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if sent not in media_types:
        wanted = " or ".join(("application/json", *media_types))
        detail = f"send {wanted} as Content-Type, not {sent[:80]!r}; with curl: -X POST -H 'Content-Type: ...' -T FILE"
        raise ApiError(415, "unsupported_media_type", detail)


@asynccontextmanager
async def received(request: Request, services: Services, tenant: str) -> AsyncIterator[Path]:
    """The body as a file, which is gone at the end. As long as it is there it counts among the tenant's bytes.

    Raises:
        ApiError: it is too large, the disk too full, or it never came to its end.
        QuotaExceeded: the tenant has no room for it.
    """
    announced = _announced(request)
    if announced > services.settings.upload_bytes:
        raise ApiError(413, "too_large", f"an upload has at most {services.settings.upload_bytes} bytes")
    must_fit = partial(services.store.keys.must_store, tenant)
    with _full_disks_told():
        arriving = await run_in_threadpool(Incoming(services.settings.incoming).begin, tenant)
        try:
            await run_in_threadpool(arriving.reserve, max(1, announced), must_fit)
            await _fill(arriving, request, services.settings.free_bytes, must_fit)
            yield arriving.path
        finally:
            # To remove a large file takes long; it goes on if nobody waits for it any more.
            await asyncio.shield(run_in_threadpool(arriving.end))


@contextmanager
def _full_disks_told() -> Iterator[None]:
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
    """Keep the body's file, then name it in the store: a crash between the two leaves a file that is tidied away."""
    async with received(request, services, tenant) as path:
        await still_admitted()  # it may have come for hours
        blob = await run_in_threadpool(_kept, services, path)
        sent = new._replace(size=blob.size, sha256=blob.sha256)
        return await added(response, services, tenant, sent)


def _kept(services: Services, path: Path) -> Blob:
    """What was received, among the published files. On another disk that is a copy, for which there must be room."""
    place = services.settings.artifacts_url
    if isinstance(place, Path):
        place.mkdir(parents=True, exist_ok=True)
        about = path.stat()
        if about.st_dev != place.stat().st_dev:
            _must_have_room(place, services.settings.free_bytes + about.st_size)
    return services.artifacts.take(path)


async def added(response: Response, services: Services, tenant: str, new: NewResource) -> Resource:
    """Name something in the store, and have it checked soon. What was sent before is answered with 200."""
    resource, made = await run_in_threadpool(services.store.resources.add_resource, new, tenant=tenant)
    if made:
        services.checks.hurry()
    else:
        response.status_code = 200
    response.headers["Location"] = f"/{resource.kind}s/{resource.id}"
    return resource


def _announced(request: Request) -> int:
    """Bytes that the sender says will come; 0 where it does not."""
    length = request.headers.get("content-length", "")
    return int(length) if length.isdecimal() and len(length) < 20 else 0


async def _fill(
    arriving: Arriving, request: Request, free_bytes: int, must_fit: Callable[[int], None]
) -> None:
    """Write the body as it comes."""
    size = looked_at = 0
    await run_in_threadpool(_must_have_room, arriving.path.parent, free_bytes + arriving.size)
    async with _opened(arriving.path) as file:
        async for block in _blocks(request):
            size += len(block)
            if size > arriving.size:
                await run_in_threadpool(_reserve_more, arriving, size, must_fit)
            await run_in_threadpool(file.write, block)
            if size - looked_at > _LOOK_FOR_ROOM_BYTES:
                looked_at = size
                await run_in_threadpool(_must_have_room, arriving.path.parent, free_bytes)
    if size == 0:
        raise ApiError(422, "invalid_request", "the body is empty: send the file as the body")
    await run_in_threadpool(arriving.cut, size)


@asynccontextmanager
async def _opened(path: Path) -> AsyncIterator[BinaryIO]:
    """The file, to be written. A network disk writes when it is closed, so that happens in a thread, too."""
    file = await run_in_threadpool(path.open, "r+b")
    try:
        yield file
    finally:
        await asyncio.shield(run_in_threadpool(file.close))


def _reserve_more(arriving: Arriving, size: int, must_fit: Callable[[int], None]) -> None:
    """For who does not announce how much will come: some ahead, for each time asks the database."""
    try:
        arriving.reserve(size + _AHEAD_BYTES, must_fit)
    except QuotaExceeded:
        arriving.reserve(size, must_fit)


async def _blocks(request: Request) -> AsyncIterator[bytes]:
    """The body in larger pieces than the network's."""
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
