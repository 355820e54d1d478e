"""A database that is away for a while. A proxy stands between the worker and a real PostgreSQL."""

from __future__ import annotations

import os
import selectors
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path

import pytest
from sqlalchemy import make_url

from jobs.job import State
from jobs.settings import Settings
from jobs.store.store import Store

from .conftest import Service, no_engine_runs, wait_until


class Proxy:
    """Passes bytes on to a PostgreSQL server, until it is cut."""

    def __init__(self, url: str) -> None:
        self._target = make_url(url)
        self._cut = False
        self._flowing = threading.Event()
        self._flowing.set()
        self._sockets: set[socket.socket] = set()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = self._target.set(
            host="127.0.0.1", port=self._listener.getsockname()[1], query={}
        ).render_as_string(hide_password=False)
        threading.Thread(target=self._accept, daemon=True).start()

    def cut(self) -> None:
        """Break every connection, present and future."""
        self._cut = True
        self._flowing.set()
        for each in list(self._sockets):
            with suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)

    def stall(self) -> None:
        """Keep connections, and pass nothing on."""
        self._flowing.clear()

    def mend(self) -> None:
        self._cut = False

    def close(self) -> None:
        self._listener.close()
        self.cut()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                threading.Thread(target=self._pass_on, args=(client,), daemon=True).start()

    def _pass_on(self, client: socket.socket) -> None:
        with client, suppress(OSError):
            if self._cut:
                return
            with self._connect() as server, selectors.DefaultSelector() as ready:
                self._sockets |= {client, server}
                ready.register(client, selectors.EVENT_READ, server)
                ready.register(server, selectors.EVENT_READ, client)
                while True:
                    for key, _ in ready.select():
                        if not (data := key.fileobj.recv(65536)):
                            return
                        self._flowing.wait()
                        key.data.sendall(data)

    def _connect(self) -> socket.socket:
        host = self._target.query.get("host") or self._target.host
        port = self._target.port or 5432
        if not str(host).startswith("/"):
            return socket.create_connection((host, port))
        connection = socket.socket(socket.AF_UNIX)
        connection.connect(f"{host}/.s.PGSQL.{port}")
        return connection


@pytest.fixture
def proxy(postgres_url: str) -> Iterator[Proxy]:
    proxy = Proxy(postgres_url)
    yield proxy
    proxy.close()


@pytest.fixture
def service(tmp_path: Path, postgres_url: str, plan: object) -> Iterator[Service]:
    service = Service(tmp_path / "home", postgres_url)
    yield service
    service.store.close()


@pytest.fixture
def distant(service: Service, proxy: Proxy):
    """Yield a runner that reaches the database through the proxy."""
    store = service.open_store(proxy.url)
    yield service.runner("distant", store)
    store.close()


def test_a_server_that_vanished_is_noticed_within_a_lease(proxy):
    with closing(Store(proxy.url)) as store, store.database.read() as connection:
        descriptor = connection.connection.driver_connection.fileno()
        with socket.socket(fileno=os.dup(descriptor)) as tcp:
            idle, interval, count = (
                tcp.getsockopt(socket.IPPROTO_TCP, getattr(socket, name))
                for name in ("TCP_KEEPIDLE", "TCP_KEEPINTVL", "TCP_KEEPCNT")
            )
            assert tcp.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
            assert idle + interval * count < Settings().lease_seconds / 2
            assert tcp.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == 15_000


def test_a_run_outlives_a_database_that_comes_back_within_the_lease(service, plan, proxy, distant):
    plan(epochs=8, seconds=0.2)
    job_id = service.submit()
    with service.running(job_id, distant):
        proxy.cut()
        time.sleep(0.7)
        proxy.mend()
    assert service.job(job_id).state is State.SUCCEEDED
    assert service.outcomes(job_id) == ["succeeded"]
    assert service.epochs(job_id) == list(range(1, 9))


def test_who_cannot_renew_for_the_whole_lease_stops_its_engine_after_a_checkpoint(
    service, plan, proxy, distant
):
    plan(epochs=500, seconds=0.2)
    job_id = service.submit()
    with service.running(job_id, distant):
        proxy.cut()
    done = int((service.settings.runs / job_id / "checkpoints" / "state.json").read_text())
    service.sweep_until_queued(job_id)
    plan(epochs=done + 1)
    service.runner("second").run(job_id)
    assert service.job(job_id).state is State.SUCCEEDED
    assert service.outcomes(job_id) == ["lost", "succeeded"]
    assert service.epochs(job_id) == list(range(1, done + 2))


def test_a_database_that_hangs_is_no_better_than_one_that_is_away(service, plan, proxy, distant):
    plan(epochs=500, seconds=0.2)
    job_id = service.submit()
    with service.running(job_id, distant):
        proxy.stall()
        wait_until(no_engine_runs)
        proxy.cut()
    service.sweep_until_queued(job_id)
    done = int((service.settings.runs / job_id / "checkpoints" / "state.json").read_text())
    assert done >= service.epochs(job_id)[-1]


def test_a_job_that_ends_while_the_database_is_away_is_reported_when_it_is_back(
    service, plan, proxy, distant
):
    plan(epochs=2, seconds=0.3)
    job_id = service.submit()
    with service.running(job_id, distant):
        proxy.cut()
        wait_until(lambda: (service.settings.runs / job_id / "report.json").exists())
        proxy.mend()
    assert service.job(job_id).state is State.SUCCEEDED


def test_a_notification_that_comes_while_the_database_is_away_is_no_error(
    service, plan, proxy, distant, caplog
):
    plan(epochs=1)
    job_id = service.submit()
    proxy.cut()
    distant.run(job_id)
    assert "a sweep will notify them again" in caplog.text
    proxy.mend()
    distant.run(job_id)
    assert service.job(job_id).state is State.SUCCEEDED
