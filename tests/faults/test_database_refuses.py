"""A database that answers and refuses to write: it is read-only, or its disk is full."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import create_engine, event, text

from jobs.job import State
from jobs.settings import Settings
from jobs.store.store import Store

from ..api.conftest import Server, running, server  # noqa: F401 - pytest finds fixtures by their names here
from .conftest import wait_until

SPEC = {"kind": "train", "data": "discs", "train": {"epochs": 2, "image_size": 64}}


@contextmanager
def pragma(store: Store, words: str, undo: str) -> Iterator[None]:
    """Set a pragma on each connection of a store to SQLite."""

    def set_it(connection: Any, *_: object) -> None:
        connection.execute(words)

    def undo_it(connection: Any, *_: object) -> None:
        connection.execute(undo)

    engine = store.database.engine
    event.listen(engine, "checkout", set_it)
    try:
        yield
    finally:
        event.remove(engine, "checkout", set_it)
        event.listen(engine, "checkout", undo_it)


@contextmanager
def read_only_sqlite(store: Store) -> Iterator[None]:
    with pragma(store, "PRAGMA query_only = ON", "PRAGMA query_only = OFF"):
        yield


@contextmanager
def full_sqlite(store: Store) -> Iterator[None]:
    with pragma(store, "PRAGMA max_page_count = 1", "PRAGMA max_page_count = 1000000"):
        yield


@contextmanager
def read_only_postgresql(store: Store) -> Iterator[None]:
    """Make the whole database read-only, like a standby, or one that its provider locked for a full disk."""
    url = store.database.engine.url
    alter = f'ALTER DATABASE "{url.database}"'
    others = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = :name AND pid <> pg_backend_pid()"

    def do(statement: str) -> None:
        admin = create_engine(url, isolation_level="AUTOCOMMIT")
        with admin.connect() as connection:
            connection.execute(text("SET default_transaction_read_only = off"))
            connection.execute(text(f"{alter} {statement}"))
            connection.execute(text(others), {"name": url.database})
        admin.dispose()

    do("SET default_transaction_read_only = on")
    try:
        yield
    finally:
        do("RESET default_transaction_read_only")


REFUSALS: dict[str, Any] = {
    "SQLite, read-only": ("sqlite", read_only_sqlite),
    "SQLite, full": ("sqlite", full_sqlite),
    "PostgreSQL, read-only": ("postgresql", read_only_postgresql),
}


@pytest.fixture(params=REFUSALS)
def refusal(request: pytest.FixtureRequest) -> Any:
    """Return the kind of the database, and a context in which it refuses to write."""
    return REFUSALS[request.param]


@pytest.fixture
def database_url(request: pytest.FixtureRequest, refusal: Any) -> str:
    """Return the URL of a fresh, migrated database of that kind."""
    return str(request.getfixturevalue({"sqlite": "sqlite_url", "postgresql": "postgres_url"}[refusal[0]]))


@pytest.fixture
def api(server: Server, tmp_path: Path, database_url: str, draw: Callable[..., Path]) -> Iterator[Any]:  # noqa: F811
    """Yield the API over that database."""
    draw(tmp_path / "data" / "discs")
    settings = Settings(home=tmp_path / "api", data_roots=(tmp_path / "data",), database_url=database_url)
    yield from running(server, settings)


def tags(count: int) -> dict[str, str]:
    """Return enough text for SQLite to need another page."""
    return {f"tag{number}": "x" * 50 for number in range(count)}


def test_who_asks_for_what_must_be_written_is_told_to_come_back(api, refusal, monkeypatch):
    monkeypatch.setattr("api.routes.health.REFUSED_SECONDS", 0.5)
    _, refusing = refusal
    kept = api.submit(SPEC)
    assert api.http.get("/readyz").status_code == 200
    with refusing(api.store):
        large = SPEC | {"tags": tags(30)}
        for method, path, body in (
            ("POST", "/jobs", large),
            ("POST", f"/jobs/{kept['id']}/clone", large),
            ("PATCH", f"/jobs/{kept['id']}", {"tags": tags(31)}),
        ):
            answer = api.http.request(method, path, json=body)
            assert (answer.status_code, answer.json()["code"]) == (503, "database_refuses"), answer.text
            assert answer.headers["Content-Type"] == "application/problem+json"
            assert int(answer.headers["Retry-After"]) > 0
        assert api.http.get(f"/jobs/{kept['id']}").status_code == 200
        answer = api.http.get("/readyz")
        assert answer.status_code == 503
        parts = answer.json()["parts"]
        assert "takes no writes" in parts.pop("database")
        assert set(parts.values()) == {"ready"}
    wait_until(lambda: api.http.get("/readyz").status_code == 200)
    assert api.submit(SPEC | {"tags": tags(30)})["state"] == "queued"


@pytest.mark.parametrize("refusal", [("sqlite", read_only_sqlite), ("postgresql", read_only_postgresql)])
def test_readiness_finds_out_by_itself(api, refusal, monkeypatch):
    monkeypatch.setattr("api.routes.health.WRITE_SECONDS", 0.0)
    monkeypatch.setattr("api.routes.health.REFUSED_SECONDS", 0.0)
    assert api.http.get("/readyz").status_code == 200
    with refusal[1](api.store):
        assert "takes no writes" in api.http.get("/readyz").json()["parts"]["database"]
    wait_until(lambda: api.http.get("/readyz").status_code == 200)


@pytest.mark.parametrize("refusal", [("sqlite", None), ("postgresql", None)])
def test_readiness_writes_seldom_and_nothing_grows(api):
    def written() -> list[tuple[str, float]]:
        with api.store.database.read() as connection:
            return [tuple(row) for row in connection.execute(text("SELECT * FROM turns"))]

    assert api.http.get("/readyz").status_code == 200
    first = written()
    for _ in range(20):
        assert api.http.get("/readyz").status_code == 200
    assert written() == first
    assert len(first) == 1


def test_a_run_outlives_a_database_that_refuses_for_a_while(service, plan, refusal):
    _, refusing = refusal
    plan(epochs=12, seconds=0.2)
    service.settings = service.settings.model_copy(update={"lease_seconds": 6.0})
    job_id = service.submit()
    with service.running(job_id), refusing(service.store):
        time.sleep(0.7)
    assert service.job(job_id).state is State.SUCCEEDED
    assert service.outcomes(job_id) == ["succeeded"]
    assert service.epochs(job_id) == list(range(1, 13))


@pytest.mark.parametrize("refusal", [("sqlite", read_only_sqlite), ("postgresql", read_only_postgresql)])
def test_a_notification_that_comes_meanwhile_is_no_error(service, plan, refusal, caplog):
    plan(epochs=1)
    job_id = service.submit()
    with refusal[1](service.store):
        service.runner().run(job_id)
    assert "a sweep will notify them again" in caplog.text
    service.runner().run(job_id)
    assert service.outcomes(job_id) == ["succeeded"]
