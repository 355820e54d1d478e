"""Feeds of job events: one periodic query of the database serves all followers, however many they are.

A `Feed` holds a job's newest events while it has followers. A follower that is behind reads pages of the
database until it has caught up, so a slow one costs no memory and delays nobody.
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
"""Polling interval of the query for all followed jobs."""
MEMORY = 1000
"""Number of a job's events that are kept in memory; also how many are read at once."""


class SseEvent(NamedTuple):
    """An event as it is sent; formatted once for all followers."""

    number: int
    block: bytes


def format_sse(event: StoredEvent) -> SseEvent:
    """Return an event as a server-sent event, in ASCII: many clients take U+2028 for the end of a line, too."""
    data = json.dumps(event.model_dump(mode="json"))
    return SseEvent(event.number, format_sse_event(id=str(event.number), event=event.kind, data_str=data))


class Feed:
    """The newest events of one job."""

    def __init__(self) -> None:
        self.followers = 0
        self.last: int | None = None
        """Number of the newest known event; None before the first query."""
        self.ended = False
        """No event comes after `last`: the job is in an end state, or was deleted."""
        self.news = asyncio.Event()
        """Set when something changes, and replaced by a new one: take it before reading, then wait for it."""
        self._recent: deque[SseEvent] = deque(maxlen=MEMORY)

    def since(self, after: int) -> list[SseEvent] | None:
        """Return the events with numbers above `after`; None if they are no longer all in memory."""
        if self.last is None or after >= self.last:
            return []
        behind = self.last - after
        if behind > len(self._recent):
            return None
        return list(islice(self._recent, len(self._recent) - behind, None))

    def begin(self, head: Head) -> None:
        """Start the feed with the first query's result: earlier events are in the database."""
        self.last = head.last
        self.ended = head.state in END_STATES
        self.announce()

    def add(self, events: tuple[StoredEvent, ...], head: Head) -> None:
        """Add the result of another query."""
        self._recent.extend(map(format_sse, events))
        if events:
            self.last = events[-1].number
        self.ended = head.state in END_STATES and self.last == head.last
        if events or self.ended:
            self.announce()

    def end(self) -> None:
        """End the feed: the job was deleted."""
        self.last = self.last or 0
        self.ended = True
        self.announce()

    def announce(self) -> None:
        """Wake all followers."""
        self.news.set()
        self.news = asyncio.Event()


class Feeds:
    """The feeds of all followed jobs. For one event loop; `close` ends every stream.

    Args:
        store: The job store.
    """

    def __init__(self, store: Store) -> None:
        self.closed = False
        self._store = store
        self._feeds: dict[str, Feed] = {}
        self._polling: asyncio.Task[None] | None = None
        self._joined = asyncio.Event()

    def followers(self) -> int:
        """Return the number of followers."""
        return sum(feed.followers for feed in tuple(self._feeds.values()))

    @contextmanager
    def follow(self, job_id: str) -> Iterator[Feed]:
        """Follow a job: yield its feed, which exists as long as it has followers."""
        feed = self._feeds.setdefault(job_id, Feed())
        feed.followers += 1
        self._joined.set()
        if self._polling is None:
            self._polling = asyncio.create_task(self._keep_polling())
        try:
            yield feed
        finally:
            feed.followers -= 1
            if feed.followers == 0:
                del self._feeds[job_id]

    async def since(self, job_id: str, feed: Feed, after: int) -> list[SseEvent]:
        """Return the next events of a job, from memory or the database; empty if there is nothing new.

        Raises:
            UnknownJob: it was deleted.
            StoreUnavailable: the database does not answer.
        """
        told = feed.since(after)
        if told is None:
            told = list(map(format_sse, await self._events(job_id, after)))
        return told

    def close(self) -> None:
        """End every stream, for a shutdown. Call it in the event loop."""
        self.closed = True
        for feed in self._feeds.values():
            feed.announce()

    async def _keep_polling(self) -> None:
        """Poll for new events until there are no followers any more."""
        while self._feeds:
            self._joined.clear()
            try:
                await self._poll()
            except Exception as error:  # the database may be unavailable; followers get heartbeats meanwhile
                log.warning("cannot look for events: %s", error)
            await wait_for(self._joined, LOOK_SECONDS)
        self._polling = None

    async def _poll(self) -> None:
        followed = dict(self._feeds)
        heads = await run_in_threadpool(self._store.following.heads, tuple(followed))
        for job_id, feed in followed.items():
            with suppress(UnknownJob):  # deleted a moment ago: the next query finds no head
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
    """Wait at most `seconds` for an event. Return whether it was set."""
    with suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await event.wait()
    return event.is_set()
