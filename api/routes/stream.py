"""Streams of job events as server-sent events, for browsers, `gkd watch` and any other client."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Annotated, Any

from fastapi import APIRouter, Header, Query, Response
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import StreamingResponse
from fastapi.sse import EventSourceResponse, format_sse_event
from starlette.types import Send

from api.deps import (
    ADMITTED_SECONDS,
    FeedsDep,
    ServicesDep,
    StillAdmitted,
    StillAdmittedDep,
    TenantDep,
)
from api.errors import ApiError
from api.feeds import Feeds, wait_for
from api.routes.events import MOST_EVENTS
from jobs.errors import StoreUnavailable, UnknownJob
from jobs.job import END_STATES

router = APIRouter(prefix="/jobs/{job_id}", tags=["following"])

HEARTBEAT_SECONDS = 15.0
"""Silence after which a comment is sent as a heartbeat; proxies close a stream that is silent for a minute."""
LONGEST_SECONDS = 3600
"""Maximum duration of a stream. A client that reads on reconnects, and is authenticated again."""
RETRY_MILLISECONDS = 1000
"""Time after which a browser reconnects."""
PATIENCE_SECONDS = 1.0
"""Time before the database is queried again after it did not answer."""


class EventStream(EventSourceResponse):
    """A stream whose generator is closed as soon as the client disconnects, wherever it was.

    A route that is a generator itself would cost the framework two tasks and two queues for each client;
    docs/decisions/0063 has the measurements.
    """

    body_iterator: AsyncGenerator[bytes, None]

    def __init__(self, blocks: AsyncGenerator[bytes, None]) -> None:
        # The second header disables buffering in nginx.
        super().__init__(blocks, headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no"})

    async def stream_response(self, send: Send) -> None:
        """Send block after block."""
        async with aclosing(self.body_iterator):
            await super().stream_response(send)


_STILL_THERE = format_sse_event(comment="still there")
_EVENT = {
    "type": "object",
    "properties": {name: {"type": "string"} for name in ("id", "event", "data", "retry")},
}
_ANSWERS: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "events, each with `id` (its number), `event` (its kind) and `data` (as in /events)",
        "content": {"text/event-stream": {"itemSchema": _EVENT}},
    },
    204: {"description": "the job has ended and all its events are known: do not reconnect"},
}

Number = Annotated[
    int, Query(ge=0, le=MOST_EVENTS, description="number of the last known event", examples=[0])
]
LastEventId = Annotated[
    int | None,
    Header(ge=0, le=MOST_EVENTS, description="the same, as browsers send it; takes precedence", examples=[0]),
]
Seconds = Annotated[
    int, Query(ge=0, le=LONGEST_SECONDS, description="maximum seconds until the stream ends", examples=[1])
]


@router.get("/stream", response_class=StreamingResponse, responses=_ANSWERS)
async def stream(
    job_id: str,
    services: ServicesDep,
    feeds: FeedsDep,
    tenant: TenantDep,
    still_admitted: StillAdmittedDep,
    after: Number = 0,
    last_event_id: LastEventId = None,
    wait: Seconds = LONGEST_SECONDS,
) -> Response:
    """Stream the events of a job as they happen, up to its last one.

    Reconnect with Last-Event-ID to miss nothing.
    """
    job = await run_in_threadpool(services.store.reading.get, job_id, tenant=tenant)
    seen = after if last_event_id is None else last_event_id
    if job.state in END_STATES and not await run_in_threadpool(
        services.store.reading.events, job_id, after=seen, limit=1, tenant=tenant
    ):
        return Response(status_code=204)
    blocks = _blocks(feeds, job_id, seen, time.monotonic() + wait)
    return EventStream(_while_admitted(blocks, still_admitted))


async def _while_admitted(
    blocks: AsyncGenerator[bytes, None], still_admitted: StillAdmitted
) -> AsyncGenerator[bytes, None]:
    """Pass blocks on as long as the key is valid; b"" is an occasion to check the key, and is not sent."""
    async with aclosing(blocks):
        async for block in blocks:
            try:
                await still_admitted()
            except ApiError as error:
                yield format_sse_event(comment=error.detail)
                return
            if block:
                yield block


async def _blocks(feeds: Feeds, job_id: str, after: int, deadline: float) -> AsyncGenerator[bytes, None]:
    """Yield a block for each event and heartbeat; b"" every `ADMITTED_SECONDS` without one."""
    yield format_sse_event(retry=RETRY_MILLISECONDS)
    with feeds.follow(job_id) as feed:
        if feed.last is None:
            await wait_for(feed.news, HEARTBEAT_SECONDS)  # the first query
        said = time.monotonic()
        while True:
            news = feed.news  # taken first: a change during the read is not missed
            try:
                told = await feeds.since(job_id, feed, after)
            except UnknownJob:
                return
            except StoreUnavailable:
                told = []
                await asyncio.sleep(PATIENCE_SECONDS)
            for number, block in told:
                yield block
                after, said = number, time.monotonic()
            left = deadline - time.monotonic()
            if feeds.closed or left <= 0 or (feed.ended and after >= (feed.last or 0)):
                return
            if not told and not await wait_for(news, min(ADMITTED_SECONDS, HEARTBEAT_SECONDS, left)):
                silent = time.monotonic() - said >= HEARTBEAT_SECONDS
                yield _STILL_THERE if silent else b""
                said = time.monotonic() if silent else said
