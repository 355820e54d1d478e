"""Following jobs: one look at the database serves all who follow, however many they are.

A `Feed` holds a job's newest events while somebody follows it. Whoever is behind it reads pages of the database until
he has caught up, so a slow reader costs no memory and holds up nobody.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from itertools import islice
from typing import NamedTuple

from fastapi.concurrency import run_in_threadpool
from fastapi.sse import format_sse_event

from jobs.errors import UnknownJob
from jobs.job import END_STATES, StoredEvent
from jobs.store.store import Head, Store

log = logging.getLogger(__name__)

LOOK_SECONDS = 0.25
"""Between two looks at all jobs that are followed."""
MEMORY = 1000
"""Events of a job that are kept in memory; also how many are read at once."""


class SseEvent(NamedTuple):
    """An event as it goes over the wire; made once for all who follow."""

    number: int
    block: bytes


def format_sse(event: StoredEvent) -> SseEvent:
    """Return an event as Server-Sent Events write it, in ASCII: to many a reader U+2028 ends a line, too."""
    data = json.dumps(event.model_dump(mode="json"))
    return SseEvent(event.number, format_sse_event(id=str(event.number), event=event.kind, data_str=data))


class Feed:
    """The newest events of one job."""

    def __init__(self) -> None:
        self.followers = 0
        self.last: int | None = None
        """Number of the newest event that is known; None before the first look."""
        self.ended = False
        """No event comes after `last`: the job is in an end state, or there is no such job any more."""
        self.news = asyncio.Event()
        """Set once something has changed, and replaced by a new one: take it before looking, then wait for it."""
        self._recent: deque[SseEvent] = deque(maxlen=MEMORY)

    def since(self, after: int) -> list[SseEvent] | None:
        """Events with numbers above `after`; None where memory does not reach back so far."""
        if self.last is None or after >= self.last:
            return []
        behind = self.last - after
        if behind > len(self._recent):
            return None
        return list(islice(self._recent, len(self._recent) - behind, None))

    def begin(self, head: Head) -> None:
        """The first look: what came before is in the database."""
        self.last = head.last
        self.ended = head.state in END_STATES
        self.announce()

    def add(self, events: tuple[StoredEvent, ...], head: Head) -> None:
        """Another look."""
        self._recent.extend(map(format_sse, events))
        if events:
            self.last = events[-1].number
        self.ended = head.state in END_STATES and self.last == head.last
        if events or self.ended:
            self.announce()

    def end(self) -> None:
        """The job is gone."""
        self.last = self.last or 0
        self.ended = True
        self.announce()

    def announce(self) -> None:
        """Wake all who wait."""
        self.news.set()
        self.news = asyncio.Event()


class Feeds:
    """The feeds of all jobs that somebody follows now. For one event loop; `close` is the end of every stream.

    Args:
        store: Where events are.
    """

    def __init__(self, store: Store) -> None:
        self.closed = False
        self._store = store
        self._feeds: dict[str, Feed] = {}
        self._looking: asyncio.Task[None] | None = None
        self._joined = asyncio.Event()

    def followers(self) -> int:
        """How many follow jobs now."""
        return sum(feed.followers for feed in tuple(self._feeds.values()))

    @contextmanager
    def follow(self, job_id: str) -> Iterator[Feed]:
        """The feed of a job, kept as long as anybody is in such a `with` block."""
        feed = self._feeds.setdefault(job_id, Feed())
        feed.followers += 1
        self._joined.set()
        if self._looking is None:
            self._looking = asyncio.create_task(self._keep_looking())
        try:
            yield feed
        finally:
            feed.followers -= 1
            if feed.followers == 0:
                del self._feeds[job_id]

    async def since(self, job_id: str, feed: Feed, after: int) -> list[SseEvent]:
        """The next events of a job, out of memory or the database; none when there is nothing new.

        Raises:
            UnknownJob: it was deleted.
            StoreUnavailable: the database does not answer.
        """
        told = feed.since(after)
        if told is None:
            told = list(map(format_sse, await self._events(job_id, after)))
        return told

    def close(self) -> None:
        """End every stream: the server is shutting down. Call it in the event loop."""
        self.closed = True
        for feed in self._feeds.values():
            feed.announce()

    async def _keep_looking(self) -> None:
        """Look for news until nobody follows any more."""
        while self._feeds:
            self._joined.clear()
            try:
                await self._look()
            except Exception as error:  # the database may be away; followers get heartbeats meanwhile
                log.warning("cannot look for events: %s", error)
            await wait_for(self._joined, LOOK_SECONDS)
        self._looking = None

    async def _look(self) -> None:
        followed = dict(self._feeds)
        heads = await run_in_threadpool(self._store.following.heads, tuple(followed))
        for job_id, feed in followed.items():
            with suppress(UnknownJob):  # deleted a moment ago: the next look finds no head
                await self._renew(job_id, feed, heads.get(job_id))

    async def _renew(self, job_id: str, feed: Feed, head: Head | None) -> None:
        if feed.ended:
            return
        if head is None:
            feed.end()
        elif feed.last is None:
            feed.begin(head)
        else:
            new = await self._events(job_id, feed.last) if head.last > feed.last else ()
            feed.add(new, head)

    async def _events(self, job_id: str, after: int) -> tuple[StoredEvent, ...]:
        return await run_in_threadpool(self._store.reading.events, job_id, after=after, limit=MEMORY)


async def wait_for(event: asyncio.Event, seconds: float) -> bool:
    """Whether an event was set within so many seconds."""
    with suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await event.wait()
    return event.is_set()
