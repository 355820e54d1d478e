"""Following a job: its numbered events and its log."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

from fastapi import APIRouter, Query
from fastapi.responses import PlainTextResponse
from pydantic import BaseModel, ConfigDict

from api.deps import ServicesDep, TenantDep
from gkd_core.run_dir import RunDir
from jobs.job import StoredEvent

router = APIRouter(prefix="/jobs/{job_id}", tags=["following"])

LOG_BYTES = 256 * 1024
"""Maximum bytes of the log in one answer."""

LONGEST_CHARACTER = 4
"""Bytes of the longest UTF-8 character. A shorter answer might be empty, and the client would make no
progress."""

MOST_EVENTS = 2**31 - 1
"""Maximum of the database's column of event numbers."""


class EventPage(BaseModel):
    """Events in order; `next` is the `after` of the next page."""

    model_config = ConfigDict(frozen=True, use_attribute_docstrings=True)

    items: tuple[StoredEvent, ...]
    next: int


@router.get("/events")
def events(
    job_id: str,
    services: ServicesDep,
    tenant: TenantDep,
    after: Annotated[
        int, Query(ge=0, le=MOST_EVENTS, description="number of the last known event", examples=[1])
    ] = 0,
    limit: Annotated[
        int, Query(ge=1, le=10_000, description="maximum number of events in one answer", examples=[100])
    ] = 1000,
) -> EventPage:
    """Return the events of a job with numbers above `after`."""
    items = services.store.reading.events(job_id, after=after, limit=limit, tenant=tenant)
    return EventPage(items=items, next=items[-1].number if items else after)


@router.get("/log", response_class=PlainTextResponse)
def log(
    job_id: str,
    services: ServicesDep,
    tenant: TenantDep,
    offset: Annotated[
        int, Query(description="offset in bytes from the start; negative: from the end", examples=[-4096])
    ] = 0,
    limit: Annotated[
        int,
        Query(
            ge=LONGEST_CHARACTER,
            le=LOG_BYTES,
            description="maximum number of bytes in one answer",
            examples=[4096],
        ),
    ] = LOG_BYTES,
) -> PlainTextResponse:
    """Return the engine's log from `offset` on; the header X-Next-Offset is the offset of the next part."""
    job = services.store.reading.get(
        job_id, tenant=tenant
    )  # an id that the store knows cannot leave the folder
    text, following = _read(RunDir(services.settings.runs / job.id).log, offset, limit)
    return PlainTextResponse(text, headers={"X-Next-Offset": str(following), "Cache-Control": "no-cache"})


def _read(path: Path, offset: int, limit: int) -> tuple[str, int]:
    """Return text from an offset in a growing file, and the next offset: never in the middle of a character."""
    try:
        with path.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            start = file.seek(min(offset, size) if offset >= 0 else max(size + offset, 0))
            data = file.read(limit)
    except FileNotFoundError:
        return "", 0
    cut = _count_incomplete(data)
    return data[: len(data) - cut].decode(errors="replace"), start + len(data) - cut


def _count_incomplete(data: bytes) -> int:
    """Return the number of bytes at the end that begin a UTF-8 character without completing it."""
    for back in range(1, min(3, len(data)) + 1):
        byte = data[-back]
        if byte >= 0xC0:
            length = 2 if byte < 0xE0 else 3 if byte < 0xF0 else 4
            return back if length > back else 0
        if byte < 0x80:
            break
    return 0
