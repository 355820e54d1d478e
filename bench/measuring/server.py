"""Runs the service in a process of its own, beside a bare route with one SELECT that it is compared with."""

from __future__ import annotations

import multiprocessing
import socket
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import uvicorn
from fastapi import FastAPI
from sqlalchemy import text
from starlette.types import ASGIApp, Receive, Scope, Send

from api.app import create_app
from jobs.artifacts import open_artifacts
from jobs.queue import JobQueue, make_app
from jobs.settings import Settings
from jobs.store.store import Store


class Where(NamedTuple):
    """What a server needs to start."""

    home: str
    data: str
    broker_url: str
    databases: dict[str, str]
    """URLs, migrated; each is served under its name: `/NAME/jobs`, and bare: `/NAME-bare/ID`."""


@contextmanager
def serving(where: Where) -> Iterator[int]:
    """Run a server and yield its port."""
    ours, theirs = multiprocessing.Pipe()
    process = multiprocessing.get_context("spawn").Process(target=_serve, args=(where, theirs), daemon=True)
    process.start()
    theirs.close()  # so that a server that fails is noticed at once
    try:
        if not ours.poll(60):
            raise RuntimeError("the server does not start")
        yield ours.recv()
    finally:
        process.terminate()
        process.join(10)


def _serve(where: Where, port: Any) -> None:
    with ExitStack() as stack:
        apps: dict[str, ASGIApp] = {}
        for name, url in where.databases.items():
            store = stack.enter_context(closing(Store(url)))
            apps[name] = _service(where, store, url)
            apps[f"{name}-bare"] = _bare(store)
        listener = stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP))
        listener.bind(("127.0.0.1", 0))
        listener.listen(1024)
        server = uvicorn.Server(
            uvicorn.Config(_by_name(apps), log_config=None, access_log=False, lifespan="off")
        )
        port.send(listener.getsockname()[1])
        server.run(sockets=[listener])


def _service(where: Where, store: Store, url: str) -> FastAPI:
    settings = Settings(
        home=Path(where.home), data_roots=(Path(where.data),), database_url=url, broker_url=where.broker_url
    )
    return create_app(
        store, open_artifacts(settings.artifacts_url), JobQueue(make_app(where.broker_url)), settings
    )


def _bare(store: Store) -> FastAPI:
    """Return an application that costs only what framework, driver and network do."""
    app = FastAPI()

    @app.get("/{job_id}")
    def one(job_id: str) -> dict[str, Any]:
        query = text("SELECT id, state FROM jobs WHERE id = :id")
        with store.database.engine.connect() as connection:
            return dict(connection.execute(query, {"id": job_id}).one()._mapping)

    return app


def _by_name(apps: dict[str, ASGIApp]) -> ASGIApp:
    async def pass_on(scope: Scope, receive: Receive, send: Send) -> None:
        _, name, rest = scope["path"].split("/", 2)
        await apps[name]({**scope, "path": f"/{rest}"}, receive, send)

    return pass_on
