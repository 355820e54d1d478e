"""Connections that are all busy, that do not read, and how many a process can afford."""

from __future__ import annotations

import asyncio
import resource
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
import uvicorn
from fastapi import FastAPI, Response

from api import connections
from api.connections import affordable, server_config
from jobs.settings import Settings

from ..faults.conftest import wait_until

LARGE = 64 * 1024 * 1024
"""Bytes; more than a system buffers of what is not read."""


class Server:
    """A real server with few connections, over an app that answers on demand, or with a very large body."""

    def __init__(self, settings: Settings) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = self._listener.getsockname()
        self.asked = 0
        self._told = asyncio.Event()
        self._server = uvicorn.Server(server_config(self._app(), settings, grace_seconds=1))
        self._thread = threading.Thread(target=self._server.run, kwargs={"sockets": [self._listener]})
        self._thread.start()

    def _app(self) -> FastAPI:
        app = FastAPI()

        @app.get("/slow")
        async def slow() -> str:
            self.asked += 1
            await self._told.wait()
            return "at last"

        @app.get("/large")
        async def large() -> Response:
            return Response(bytes(LARGE))

        return app

    def ask(self, path: str) -> socket.socket:
        made = socket.create_connection(self.address, timeout=30)
        made.sendall(f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
        return made

    def open_connections(self) -> int:
        return len(self._server.server_state.connections)

    def close(self) -> None:
        self._server.should_exit = True
        self._thread.join(30)
        self._listener.close()


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    server = Server(Settings(home=tmp_path, connections=4))
    yield server
    server.close()


def test_where_all_are_being_answered_the_newcomer_is_told_to_come_back(server):
    held = [server.ask("/slow") for _ in range(4)]
    wait_until(lambda: server.asked == 4)
    answer = httpx.get("http://{}:{}/slow".format(*server.address), timeout=30)
    assert (answer.status_code, answer.json()["code"]) == (503, "too_many_connections")
    assert answer.headers["Content-Type"] == "application/problem+json"
    assert answer.headers["X-Request-ID"] == answer.json()["request_id"]
    assert int(answer.headers["Retry-After"]) > 0
    held.pop().close()
    wait_until(lambda: server.open_connections() == 3)
    with server.ask("/slow"):
        wait_until(lambda: server.asked == 5)
    for each in held:
        each.close()


def test_who_reads_nothing_of_an_answer_is_not_waited_for_for_ever(server, monkeypatch):
    monkeypatch.setattr(connections, "STALL_SECONDS", 0.5)
    with server.ask("/large"):
        wait_until(lambda: server.open_connections() == 1)
        wait_until(lambda: server.open_connections() == 0)


def test_who_reads_slowly_gets_all_of_it(server, monkeypatch):
    monkeypatch.setattr(connections, "STALL_SECONDS", 5.0)
    read = 0
    with server.ask("/large") as made:
        while read < LARGE and (block := made.recv(1024 * 1024)):
            read += len(block)
    assert read >= LARGE


@pytest.fixture
def files(monkeypatch: pytest.MonkeyPatch) -> dict[str, tuple[int, int]]:
    """Set how many files the process may open, now and at most; the real limits stay."""
    limit = {"now": (1024, 1024)}
    monkeypatch.setattr(resource, "getrlimit", lambda _: limit["now"])
    monkeypatch.setattr(resource, "setrlimit", lambda _, new: limit.update(now=new))
    return limit


def test_there_are_no_more_connections_than_files_for_them(files):
    assert affordable(100) == 100
    most = affordable(1000)
    assert 16 < most < 1024 / 2
    assert files["now"] == (1024, 1024)


def test_more_files_are_asked_for_where_the_system_has_them(files):
    files["now"] = (1024, 524288)
    assert affordable(1000) == 1000
    assert 2000 < files["now"][0] < 4096
    assert files["now"][1] == 524288


def test_without_a_limit_on_files_there_are_as_many_as_wanted(files):
    files["now"] = (resource.RLIM_INFINITY, resource.RLIM_INFINITY)
    assert affordable(100_000) == 100_000
