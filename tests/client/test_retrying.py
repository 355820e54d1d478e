"""The client against a server that drops connections, answers 503 and restarts in the middle of a download."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from client import connection
from client.client import ApiError, Client, DamagedDownload, Unreachable

CONTENT = bytes(range(256)) * 4096
SHA256 = hashlib.sha256(CONTENT).hexdigest()
JOB = {
    "id": "4f1c0a9be27d",
    "name": "cells",
    "kind": "train",
    "state": "queued",
    "desired": "run",
    "reason": "waits",
    "priority": 5,
    "tags": {},
    "queue": "cpu",
    "attempt": 0,
    "worker": None,
    "lease_until": None,
    "created_at": "2026-01-01T00:00:00Z",
    "started_at": None,
    "finished_at": None,
    "waits_for": [],
    "spec": {},
    "resolved": {},
    "progress": None,
    "evaluation": None,
    "failure": None,
    "attempts": [],
}
Fault = Callable[["Handler"], None]


class Handler(BaseHTTPRequestHandler):
    """Does one of the server's faults for each request, or else what the service does."""

    protocol_version = "HTTP/1.1"
    server: Server

    def handle_one_request(self) -> None:
        self.close_connection = True
        super().handle_one_request()

    def do_GET(self) -> None:
        self.answer()

    def do_POST(self) -> None:
        self.body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.answer()

    def answer(self) -> None:
        self.close_connection = True
        self.server.seen.append(dict(self.headers))
        fault = self.server.faults.pop(0) if self.server.faults else well
        fault(self)

    def send(self, status: int, body: bytes, announced: int | None = None, **headers: str) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(body) if announced is None else announced))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Write nothing."""


class Server(ThreadingHTTPServer):
    """A server with the faults to come, and the headers of what it was asked."""

    allow_reuse_address = True

    def __init__(self, port: int = 0) -> None:
        super().__init__(("127.0.0.1", port), Handler)
        self.faults: list[Fault] = []
        self.seen: list[dict[str, str]] = []
        self.jobs: dict[str, Any] = {}
        self.etag = SHA256
        self.content = CONTENT


def well(handler: Handler, stop: int | None = None) -> None:
    """Answer as the service does; a file only up to byte `stop`, as if the connection broke there."""
    if handler.command == "POST":
        handler.server.jobs.setdefault(handler.headers["Idempotency-Key"], JOB)
        handler.send(201, json.dumps(JOB).encode())
        return
    etag = f'"{handler.server.etag}"'
    content = handler.server.content
    wanted = handler.headers.get("Range", "") if handler.headers.get("If-Range", etag) == etag else ""
    start = int(wanted.removeprefix("bytes=").removesuffix("-") or 0)
    handler.send(206 if wanted else 200, content[start:stop], len(content) - start, ETag=etag)


def drops(handler: Handler) -> None:
    """Do what was asked, and drop the connection before the answer."""
    if handler.command == "POST":
        handler.server.jobs.setdefault(handler.headers["Idempotency-Key"], JOB)
    handler.connection.close()


def away(handler: Handler) -> None:
    handler.send(503, b"{}", Retry_After="1")


def away_for_an_hour(handler: Handler) -> None:
    handler.send(503, b"{}", Retry_After="3600")


def breaks_at(stop: int) -> Fault:
    return lambda handler: well(handler, stop)


@contextmanager
def served(port: int = 0) -> Iterator[Server]:
    with Server(port) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


@pytest.fixture
def server() -> Iterator[Server]:
    with served() as server:
        yield server


@pytest.fixture
def client(server: Server) -> Iterator[Client]:
    with Client(f"http://127.0.0.1:{server.server_port}") as client:
        yield client


def test_a_job_is_submitted_once_however_often_it_is_sent(server: Server, client: Client):
    server.faults = [drops, away, drops]
    assert client.submit({"kind": "train"}).id == JOB["id"]
    assert len(server.seen) == 4
    assert len(server.jobs) == 1


def test_two_submissions_are_two_jobs(server: Server, client: Client):
    client.submit({"kind": "train"})
    client.submit({"kind": "train"})
    assert len(server.jobs) == 2


def test_a_request_that_would_do_more_the_second_time_is_sent_once(server: Server, client: Client):
    server.faults = [drops]
    with pytest.raises(Unreachable):
        client.cancel("4f1c0a9be27d")
    server.faults = [away]
    with pytest.raises(ApiError):
        client.cancel("4f1c0a9be27d")
    assert len(server.seen) == 2


def test_a_pause_longer_than_the_patience_is_an_error_at_once(server: Server, client: Client):
    server.faults = [away_for_an_hour]
    with pytest.raises(ApiError) as caught:
        client.submit({"kind": "train"})
    assert caught.value.status == 503
    assert len(server.seen) == 1


def test_a_download_goes_on_where_it_broke(server: Server, client: Client, tmp_path: Path):
    server.faults = [drops, breaks_at(300_000), away, drops, breaks_at(700_000)]
    assert client.download("4f1c0a9be27d", "a.bin", tmp_path / "a.bin") == SHA256
    assert (tmp_path / "a.bin").read_bytes() == CONTENT
    assert [path.name for path in tmp_path.iterdir()] == ["a.bin"]
    ranges = [headers.get("Range") for headers in server.seen]
    assert ranges == [None, None, *["bytes=300000-"] * 3, "bytes=700000-"]


def test_a_file_that_changed_meanwhile_is_fetched_anew(server: Server, client: Client, tmp_path: Path):
    server.etag, server.content = "0" * 64, bytes(len(CONTENT))

    def breaks_and_changes(handler: Handler) -> None:
        well(handler, 300_000)
        handler.server.etag, handler.server.content = SHA256, CONTENT

    server.faults = [breaks_and_changes]
    assert client.download("4f1c0a9be27d", "a.bin", tmp_path / "a.bin") == SHA256
    assert (tmp_path / "a.bin").read_bytes() == CONTENT


def test_a_file_of_another_hash_is_not_kept(server: Server, client: Client, tmp_path: Path):
    server.etag = "0" * 64
    with pytest.raises(DamagedDownload, match=SHA256):
        client.download("4f1c0a9be27d", "a.bin", tmp_path / "a.bin")
    assert list(tmp_path.iterdir()) == []


def test_a_download_outlasts_a_restart(tmp_path: Path):
    with served() as first:
        port = first.server_port
        client = Client(f"http://127.0.0.1:{port}")
        broken = threading.Event()

        def breaks(handler: Handler) -> None:
            well(handler, 300_000)
            broken.set()

        first.faults = [breaks, *[drops] * 100]
        thread = threading.Thread(target=client.download, args=("4f1c0a9be27d", "a.bin", tmp_path / "a.bin"))
        thread.start()
        assert broken.wait(10)
    with served(port) as second:
        thread.join(20)
        assert second.seen[0]["Range"] == "bytes=300000-"
    client.close()
    assert (tmp_path / "a.bin").read_bytes() == CONTENT


def test_a_service_that_stays_away_is_an_error_and_leaves_no_file(
    server: Server, client: Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(connection, "RETRY_SECONDS", 0.2)
    server.faults = [drops] * 100
    with pytest.raises(Unreachable):
        client.download("4f1c0a9be27d", "a.bin", tmp_path / "a.bin")
    assert list(tmp_path.iterdir()) == []
