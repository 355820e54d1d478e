"""Migrations, and a database that is lost."""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import Connection, event, select, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.schema import CreateIndex

from jobs.errors import StoreRefuses, WrongRevision
from jobs.store.database import Database, _revisions, now
from jobs.store.store import Store, StoreUnavailable
from jobs.store.tables import metadata

NEWEST = _revisions()[0]


def test_migrations_lead_to_the_tables(empty_url: str) -> None:
    with closing(Database(empty_url)) as database:
        database.migrate()
        with database.read() as connection:
            options = {"compare_type": True, "include_object": _comparable(connection)}
            assert compare_metadata(MigrationContext.configure(connection, opts=options), metadata) == []


def _comparable(connection: Connection):
    """Return a filter of what SQLite reflects: all but the one index with a direction, which is compared as text."""
    if connection.dialect.name != "sqlite":
        return lambda *_: True
    made = connection.scalar(text("SELECT sql FROM sqlite_master WHERE name = 'jobs_by_state'"))
    (meant,) = (index for index in metadata.tables["jobs"].indexes if index.name == "jobs_by_state")
    assert made == str(CreateIndex(meant))
    return lambda _, name, *__: name != "jobs_by_state"


def test_several_processes_may_migrate_at_once_and_again(empty_url: str) -> None:
    with closing(Database(empty_url)) as database:
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(lambda _: Database.migrate(database), range(4)))
        with database.read() as connection:
            assert len(connection.scalars(text("SELECT version_num FROM alembic_version")).all()) == 1


def test_the_first_migration_makes_the_folder_of_the_file(tmp_path: Path) -> None:
    with closing(Store(f"sqlite:///{tmp_path}/home/of/gkd.db")) as store:
        store.migrate()
        assert store.reading.list_jobs().items == ()


def test_the_clock_is_unix_time(database_url: str) -> None:
    with closing(Database(database_url)) as database, database.read() as connection:
        assert connection.scalar(select(now())) == pytest.approx(time.time(), abs=60)


def test_a_transaction_that_fails_is_undone(store: Store, ask: Any) -> None:
    job = ask.submit()
    with pytest.raises(DBAPIError), store.database.write() as connection:  # noqa: PT012
        connection.execute(text("UPDATE jobs SET name = 'other'"))
        connection.execute(text("UPDATE no_such_table SET name = 'other'"))
    assert store.reading.get(job.id).name == job.name


def test_a_database_without_tables_is_no_store(empty_url: str) -> None:
    with closing(Store(empty_url)) as store:
        with pytest.raises(DBAPIError, match=r"jobs|about"):
            store.reading.list_jobs()
        with pytest.raises(WrongRevision, match=r"its revision is none, this release .* `gkd migrate`"):
            store.ping()


def test_a_database_that_a_later_release_has_upgraded_is_left_alone(store: Store) -> None:
    with store.database.write() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = '0099'"))
    try:
        for ask in (store.migrate, store.ping):
            with pytest.raises(WrongRevision, match=r"later release .* 0099, .* Upgrade GKD here too"):
                ask()
    finally:  # other tests use this database afterwards
        with store.database.write() as connection:
            connection.execute(text(f"UPDATE alembic_version SET version_num = '{NEWEST}'"))


@pytest.mark.parametrize("url", ["postgresql://nobody@127.0.0.1:1/gkd", "sqlite:////nowhere/at/all/gkd.db"])
def test_a_database_that_does_not_answer_is_away(url: str) -> None:
    with closing(Store(url)) as store, pytest.raises(StoreUnavailable, match="the database does not answer"):
        store.ping()


def test_connections_that_were_cut_are_replaced(postgres_url: str) -> None:
    others = "datname = current_database() AND pid <> pg_backend_pid()"
    with closing(Store(postgres_url)) as store, closing(Store(postgres_url)) as admin:
        store.ping()
        with admin.database.write() as connection:
            connection.execute(text(f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE {others}"))
        store.ping()


def test_a_connection_that_is_cut_inside_a_verb_means_away(postgres_url: str) -> None:
    with closing(Store(postgres_url)) as store, pytest.raises(StoreUnavailable):  # noqa: SIM117
        with store.database.write() as connection:
            connection.execute(text("SELECT pg_terminate_backend(pg_backend_pid())"))


def test_a_writer_that_is_frozen_does_not_keep_others_from_its_rows_for_ever(
    postgres_url: str, asker: Any
) -> None:
    with closing(Store(postgres_url)) as store:
        job = asker(store).submit()
        with store.database.read() as connection:
            assert connection.scalar(text("SHOW idle_in_transaction_session_timeout")) == "15s"
        with pytest.raises(StoreUnavailable), store.database.write() as connection:  # noqa: PT012
            connection.execute(text("SET LOCAL idle_in_transaction_session_timeout = '50ms'"))
            connection.execute(text("UPDATE jobs SET name = 'other'"))
            time.sleep(0.5)  # frozen, with every row locked
            renamed = store.submission.cancel_requested(job.id).name
            connection.execute(text("UPDATE jobs SET name = 'other'"))
        assert renamed == job.name


def test_readers_do_not_wait_for_a_writer(store: Store, ask: Any) -> None:
    job = ask.submit()
    with store.database.write() as connection:
        connection.execute(text("UPDATE jobs SET name = 'other'"))
        with ThreadPoolExecutor(1) as pool:
            assert pool.submit(store.reading.get, job.id).result(timeout=5).name == job.name


# ---- one writer after the other --------------------------------------------------------------------------


@pytest.fixture
def sqlite(tmp_path: Path) -> Iterator[Database]:
    with closing(Database(f"sqlite:///{tmp_path}/gkd.db")) as database:
        database.migrate()
        yield database


def test_threads_that_write_to_sqlite_never_find_another_one_at_work(
    sqlite: Database, tmp_path: Path
) -> None:
    """Open the database twice, as an API and a worker in one process do."""
    with closing(Database(f"sqlite:///{tmp_path}/gkd.db")) as other:
        for each in (sqlite, other):
            impatient(each)

        def write(number: int) -> None:
            with (sqlite, other)[number % 2].write() as connection:
                connection.execute(text("INSERT INTO about VALUES (:name, '')"), {"name": str(number)})

        with ThreadPoolExecutor(8) as pool:
            list(pool.map(write, range(200)))
    with sqlite.read() as connection:
        assert connection.scalar(text("SELECT count(*) FROM about WHERE value = ''")) == 200


def impatient(database: Database) -> None:
    """Make every later connection fail at once where another one writes, rather than wait."""
    event.listen(
        database.engine, "connect", lambda connection, _: connection.execute("PRAGMA busy_timeout = 0")
    )
    database.engine.dispose()


def test_who_never_gets_a_turn_is_told_that_the_database_is_away(
    sqlite: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("jobs.store.database._PATIENCE_SECONDS", 0.05)
    with (
        sqlite.write(),
        ThreadPoolExecutor(1) as pool,
        pytest.raises(StoreUnavailable, match="others have been writing"),
    ):
        pool.submit(sqlite.write().__enter__).result()
    with sqlite.write() as connection:  # and no lock is left
        connection.execute(text("SELECT 1"))


# ---- what errors mean ------------------------------------------------------------------------------------


@pytest.mark.parametrize("code", ["25006", "42501", "53100", "58030", "XX001", "XX002"])
def test_a_server_that_will_not_write_refuses(postgres_url: str, code: str) -> None:
    with closing(Store(postgres_url)) as store, pytest.raises(StoreRefuses, match="takes no writes: it"):
        fail_with(store, code)


@pytest.mark.parametrize("code", ["08006", "40001", "40P01", "53200", "53300", "55P03", "57014", "57P01"])
def test_a_server_that_cannot_now_is_away(postgres_url: str, code: str) -> None:
    with closing(Store(postgres_url)) as store, pytest.raises(StoreUnavailable) as caught:
        fail_with(store, code)
    assert not isinstance(caught.value, StoreRefuses)


@pytest.mark.parametrize("code", ["22012", "42P01", "42601", "54000", "54001", "23505", "XX000"])
def test_what_was_asked_wrongly_is_not_waited_for(postgres_url: str, code: str) -> None:
    with closing(Store(postgres_url)) as store, pytest.raises(DBAPIError):
        fail_with(store, code)


def fail_with(store: Store, code: str) -> None:
    """Let a real server report an error of this SQLSTATE."""
    with store.database.write() as connection:
        connection.execute(text(f"DO $$ BEGIN RAISE EXCEPTION 'no' USING ERRCODE = '{code}'; END $$"))


def test_a_damaged_file_of_sqlite_refuses(tmp_path: Path) -> None:
    (tmp_path / "gkd.db").write_bytes(b"no database at all" * 1000)
    with (
        closing(Store(f"sqlite:///{tmp_path}/gkd.db")) as store,
        pytest.raises(StoreRefuses, match="damaged"),
    ):
        store.ping()


def test_a_missing_table_of_sqlite_is_not_waited_for(sqlite: Database) -> None:
    with pytest.raises(DBAPIError), sqlite.write() as connection:
        connection.execute(text("SELECT * FROM nothing"))
