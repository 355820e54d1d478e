"""The API over a real SQLite store, with a real data set under its one data root."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvicorn
from fastapi import FastAPI
from starlette.types import ASGIApp, Receive, Scope, Send

from api.app import create_app
from jobs.artifacts import open_artifacts
from jobs.artifacts.base import Artifacts
from jobs.job import Job, Ticket
from jobs.queue import JobQueue, make_app
from jobs.settings import Settings
from jobs.store.store import Store


class Server:
    """A real HTTP server for all tests; each puts its own app behind it."""

    app: ASGIApp

    def __init__(self) -> None:
        self._socket = socket.create_server(("127.0.0.1", 0))
        config = uvicorn.Config(self._pass_on, log_config=None, lifespan="off", interface="asgi3")
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=self._server.run, kwargs={"sockets": [self._socket]})
        self._thread.start()
        while not self._server.started:
            time.sleep(0.01)
        self.url = "http://127.0.0.1:{1}".format(*self._socket.getsockname())

    async def _pass_on(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self.app(scope, receive, send)

    def stop(self) -> None:
        self._server.should_exit = True
        self._thread.join()
        self._socket.close()


@dataclass(frozen=True)
class Service:
    """The app with its store, files and settings."""

    http: httpx.Client
    store: Store
    artifacts: Artifacts
    settings: Settings
    app: FastAPI

    def submit(self, spec: dict[str, Any], **headers: str) -> dict[str, Any]:
        answer = self.http.post("/jobs", json=spec, headers=headers)
        assert answer.status_code == 201, answer.text
        job: dict[str, Any] = answer.json()
        return job

    def check_next(self) -> bool:
        """Check the resource that has waited longest, as a thread of the API would."""
        return bool(self.app.state.services.checks.check_next())

    def claim(self, job_id: str) -> Ticket:
        claim = self.store.commands.claim(job_id, "a-worker")
        assert claim is not None
        return claim.ticket

    def jobs(self) -> tuple[Job, ...]:
        return self.store.reading.list_jobs().items


@pytest.fixture
def root(tmp_path: Path, draw: Callable[..., Path]) -> Path:
    """Return the data root, with one data set in it."""
    draw(tmp_path / "data" / "discs")
    return tmp_path / "data"


@pytest.fixture
def settings(tmp_path: Path, root: Path, sqlite_url: str) -> Settings:
    return Settings(home=tmp_path / "home", data_roots=(root,), database_url=sqlite_url)


@pytest.fixture(scope="session")
def server() -> Iterator[Server]:
    server = Server()
    yield server
    server.stop()


@pytest.fixture
def service(server: Server, settings: Settings) -> Iterator[Service]:
    yield from running(server, settings)


@pytest.fixture
def service_on_postgresql(server: Server, settings: Settings, postgres_url: str) -> Iterator[Service]:
    yield from running(server, settings.model_copy(update={"database_url": postgres_url}))


def running(server: Server, settings: Settings, broker_url: str = "memory://") -> Iterator[Service]:
    store, artifacts = Store(settings.database_url), open_artifacts(settings.artifacts_url)
    server.app = app = create_app(store, artifacts, JobQueue(make_app(broker_url)), settings)
    with httpx.Client(base_url=server.url, timeout=40) as http:
        yield Service(http, store, artifacts, settings, app)
    store.close()


@pytest.fixture
def service_without_broker(server: Server, settings: Settings) -> Iterator[Service]:
    yield from running(server, settings, broker_url="redis://127.0.0.1:1/0")


@pytest.fixture
def train_spec() -> dict[str, Any]:
    return {"kind": "train", "data": "discs", "train": {"epochs": 2, "image_size": 64, "batch_size": 2}}


@pytest.fixture
def service_with_names(server: Server, settings: Settings) -> Iterator[Service]:
    """Yield a service that answers to the names of a list only."""
    yield from running(server, settings.model_copy(update={"allowed_hosts": ("gkd.example.org",)}))
