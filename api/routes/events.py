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
"""Of the log in one answer, at most."""

LONGEST_CHARACTER = 4
"""Bytes of UTF-8. Pieces that are shorter might hold nothing, and reading on would stand still."""

MOST_EVENTS = 2**31 - 1
"""The largest number that the database's column of event numbers holds."""


class EventPage(BaseModel):
    """Events in order; `next` is the `after` that continues them."""

    model_config = ConfigDict(frozen=True, use_attribute_docstrings=True)

    items: tuple[StoredEvent, ...]
    next: int


@router.get("/events")
def events(
    job_id: str,
    services: ServicesDep,
    tenant: TenantDep,
    after: Annotated[
        int, Query(ge=0, le=MOST_EVENTS, description="number of the last event that is known", examples=[1])
    ] = 0,
    limit: Annotated[int, Query(ge=1, le=10_000, description="events in one answer", examples=[100])] = 1000,
) -> EventPage:
    """What happened to a job since event number `after`."""
    items = services.store.reading.events(job_id, after=after, limit=limit, tenant=tenant)
    return EventPage(items=items, next=items[-1].number if items else after)


@router.get("/log", response_class=PlainTextResponse)
def log(
    job_id: str,
    services: ServicesDep,
    tenant: TenantDep,
    offset: Annotated[
        int, Query(description="bytes from the start; negative: from the end", examples=[-4096])
    ] = 0,
    limit: Annotated[
        int, Query(ge=LONGEST_CHARACTER, le=LOG_BYTES, description="bytes in one answer", examples=[4096])
    ] = LOG_BYTES,
) -> PlainTextResponse:
    """The engine's log from `offset` on; the header X-Next-Offset says where the next piece starts."""
    job = services.store.reading.get(job_id, tenant=tenant)  # an id that the store knows leaves no folder
    text, following = _read(RunDir(services.settings.runs / job.id).log, offset, limit)
    return PlainTextResponse(text, headers={"X-Next-Offset": str(following), "Cache-Control": "no-cache"})


def _read(path: Path, offset: int, limit: int) -> tuple[str, int]:
    """Text from a place in a growing file, and the place to go on from: never in the middle of a character."""
    try:
        with path.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            start = file.seek(min(offset, size) if offset >= 0 else max(size + offset, 0))
            data = file.read(limit)
    except FileNotFoundError:
        return "", 0
    cut = _torn(data)
    return data[: len(data) - cut].decode(errors="replace"), start + len(data) - cut


def _torn(data: bytes) -> int:
    """How many bytes at the end begin a UTF-8 character without finishing it."""
    for back in range(1, min(3, len(data)) + 1):
        byte = data[-back]
        if byte >= 0xC0:
            length = 2 if byte < 0xE0 else 3 if byte < 0xF0 else 4
            return back if length > back else 0
        if byte < 0x80:
            break
    return 0
