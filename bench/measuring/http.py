"""An HTTP client for measurements: HTTP/1.1 over plain sockets, with a twentieth of a usual client's work.

It supports the responses of this service (`Content-Length`, or chunks of a stream) and no others.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from typing import NamedTuple


class Answer(NamedTuple):
    """Status and body of a response."""

    status: int
    body: bytes


class Connection:
    """One connection that is used again and again."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    @classmethod
    async def open(cls, port: int) -> Connection:
        """Connect to a port of this machine."""
        return cls(*await asyncio.open_connection("127.0.0.1", port))

    async def ask(self, request: bytes) -> Answer:
        """Send a request and read the whole response."""
        self._writer.write(request)
        status, length = await self._head()
        return Answer(status, await self._reader.readexactly(length) if length else b"")

    async def lines(self, request: bytes) -> AsyncIterator[bytes]:
        """Send a request and yield lines of the response as they come, without the framing of chunks."""
        self._writer.write(request)
        status, _ = await self._head()
        if status != 200:
            raise RuntimeError(f"HTTP {status}")
        while size := int(await self._reader.readline(), 16):
            chunk = await self._reader.readexactly(size + 2)
            for line in chunk[:-2].splitlines():
                yield line

    def close(self) -> None:
        """Close the connection."""
        self._writer.close()

    async def _head(self) -> tuple[int, int]:
        head = await self._reader.readuntil(b"\r\n\r\n")
        status = int(head[9:12])
        _, found, rest = head.lower().partition(b"\r\ncontent-length:")
        return status, int(rest.partition(b"\r\n")[0]) if found else 0


def get(path: str) -> bytes:
    """Return a GET request."""
    return f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode()


def post(path: str, body: bytes) -> bytes:
    """Return a POST request with JSON."""
    head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    return head.encode() + b"Content-Length: %d\r\n\r\n" % len(body) + body


async def rate(port: int, request: bytes, *, connections: int, seconds: float) -> float:
    """Return the requests a second that are answered with 200 when each connection repeats its request at once."""
    opened = [await Connection.open(port) for _ in range(connections)]
    started = time.perf_counter()
    asked = await asyncio.gather(*(_ask_until(each, request, started + seconds) for each in opened))
    taken = time.perf_counter() - started
    for each in opened:
        each.close()
    return sum(asked) / taken


async def _ask_until(connection: Connection, request: bytes, end: float) -> int:
    count = 0
    while time.perf_counter() < end:
        answer = await connection.ask(request)
        if answer.status != 200:
            raise RuntimeError(f"HTTP {answer.status}: {answer.body[:200]!r}")
        count += 1
    return count


async def latencies(
    port: int,
    make: Callable[[int], bytes],
    *,
    per_second: float,
    seconds: float,
    connections: int,
    expected: int,
) -> list[float]:
    """Return the seconds until each response, with requests sent at fixed times, however slow the responses are.

    Counted from when a request was due: a service that stalls delays all requests that are due meanwhile, too.
    """
    free: asyncio.Queue[Connection] = asyncio.Queue()
    opened = [await Connection.open(port) for _ in range(connections)]
    for each in opened:
        free.put_nowait(each)
    started = time.perf_counter() + 0.1

    async def one(number: int) -> float:
        due = started + number / per_second
        await asyncio.sleep(due - time.perf_counter())
        connection = await free.get()
        answer = await connection.ask(make(number))
        free.put_nowait(connection)
        if answer.status != expected:
            raise RuntimeError(f"HTTP {answer.status}: {answer.body[:200]!r}")
        return time.perf_counter() - due

    taken = await asyncio.gather(*map(one, range(int(per_second * seconds))))
    for each in opened:
        each.close()
    return list(taken)
