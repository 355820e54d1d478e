"""Many who follow one job by its stream: does each hear everything, and how late."""

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
"""Between two events."""


def follow(store: Store, port: int, prefix: str, *, listeners: int, events: int) -> dict[str, Any]:
    """Let so many listen to a job while it tells so many events.

    Returns:
        Events that somebody did not hear (0), and milliseconds from an event's time until it was heard.
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
    await asyncio.to_thread(_tell, store, ticket, events)
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
    """Seconds from each event's time until it was heard, by number."""
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


def _tell(store: Store, ticket: Ticket, events: int) -> None:
    for step in range(2, events + 2):
        store.commands.record(ticket, rows.progress(step), step)
        time.sleep(_PAUSE_SECONDS)
    store.commands.succeed(ticket)
