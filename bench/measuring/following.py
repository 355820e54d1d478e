"""Measures many clients that follow one job's stream: whether each receives every event, and how late."""

from __future__ import annotations

import asyncio
import json
import statistics
import time
from datetime import datetime
from typing import Any

from jobs.job import Ticket
from jobs.store.store import Store
from measuring import http, rows

_PAUSE_SECONDS = 0.05
"""Pause between two events."""


def follow(store: Store, port: int, prefix: str, *, listeners: int, events: int) -> dict[str, Any]:
    """Open so many streams of a job while it records so many events.

    Returns:
        Events that a client did not receive (0), and milliseconds from an event's time until it was received.
    """
    ticket = rows.begin(store, rows.submit(store))
    return asyncio.run(
        _follow(store, ticket, port, f"{prefix}/jobs/{ticket.job_id}/stream", listeners, events)
    )


async def _follow(
    store: Store, ticket: Ticket, port: int, path: str, listeners: int, events: int
) -> dict[str, Any]:
    there = asyncio.Semaphore(0)
    listening = [asyncio.create_task(_listen(port, path, there)) for _ in range(listeners)]
    for _ in listening:
        await there.acquire()
    await asyncio.to_thread(_record_events, store, ticket, events)
    heard = await asyncio.gather(*listening)
    last = max(number for each in heard for number in each)
    late = [delay for each in heard for number, delay in each.items() if last - events <= number < last]
    return {
        "listeners": listeners,
        "events": events,
        "not_heard": sum(last - len(each) for each in heard),
        "delay_median_ms": statistics.median(late) * 1e3,
        "delay_p99_ms": statistics.quantiles(late, n=100)[98] * 1e3,
    }


async def _listen(port: int, path: str, there: asyncio.Semaphore) -> dict[int, float]:
    """Return the seconds from each event's time until it was received, by number."""
    connection = await http.Connection.open(port)
    heard: dict[int, float] = {}
    async for line in connection.lines(http.get(path)):
        if line.startswith(b"data: "):
            event = json.loads(line[6:])
            if not heard:
                there.release()
            heard[event["number"]] = time.time() - datetime.fromisoformat(event["time"]).timestamp()
    connection.close()
    return heard


def _record_events(store: Store, ticket: Ticket, events: int) -> None:
    for step in range(2, events + 2):
        store.commands.record(ticket, rows.progress(step), step)
        time.sleep(_PAUSE_SECONDS)
    store.commands.succeed(ticket)
