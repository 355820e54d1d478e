"""Connections and transactions on SQLite or PostgreSQL, and the database's clock."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sqlalchemy import Connection, Double, Engine, create_engine, event, inspect, make_url, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.functions import FunctionElement

from jobs.errors import StoreRefuses, StoreUnavailable, WrongRevision
from jobs.store.database_errors import meaning

if TYPE_CHECKING:
    from alembic.config import Config

_PATIENCE_SECONDS = 15
"""Timeout for a lock held by another writer. Longer than any transaction here takes, shorter than a lease."""

_MOST_CONNECTIONS = 10
"""Maximum PostgreSQL connections of one process. Waiting for one of them is faster than having more queries
compute at once."""
IDLE_CONNECTIONS = _MOST_CONNECTIONS
"""Connections kept open by default: opening one costs PostgreSQL more than a request does."""

_LIBPQ_WITH_USER_TIMEOUT = 120_000
"""libpq 12; older versions reject the option `tcp_user_timeout`."""

_MIGRATION_LOCK = 0x676B64
"""Key of the advisory lock around migrations: any number that nobody else uses in the same database."""


class now(FunctionElement[float]):  # noqa: N801 - an SQL function, written like those of SQLAlchemy
    """Unix seconds on the database's clock, the only clock that all machines share."""

    type = Double()
    inherit_cache = True


@compiles(now, "sqlite")
def _now_in_sqlite(element: now, compiler: Any, **kwargs: Any) -> str:
    return "((julianday('now') - 2440587.5) * 86400.0)"


@compiles(now, "postgresql")
def _now_in_postgresql(element: now, compiler: Any, **kwargs: Any) -> str:
    return "(extract(epoch from clock_timestamp())::double precision)"


class Database:
    """A database and its transactions; safe to share between threads.

    Args:
        url: `sqlite:///FILE` or `postgresql://USER@HOST/NAME` (psycopg 3 is used).
        idle_connections: Idle connections to PostgreSQL that stay open.
    """

    def __init__(self, url: str, *, idle_connections: int = IDLE_CONNECTIONS) -> None:
        is_sqlite = url.startswith("sqlite")
        self.engine = _connect_sqlite(url) if is_sqlite else _connect_postgresql(url, idle_connections)
        self._writer = self.engine.execution_options(gkd_write=True)
        self._writer_lock: AbstractContextManager[object] = (
            _writer_lock_of(url) if is_sqlite else nullcontext()
        )
        self._refused_at = -math.inf
        self._refusal: StoreRefuses | None = None
        # In PostgreSQL each statement sees what is committed when it begins, in a transaction or not.
        # Autocommit saves two round trips to the server, which is half of the round trips of most reads.
        self._reader = (
            self.engine if is_sqlite else self.engine.execution_options(isolation_level="AUTOCOMMIT")
        )

    @contextmanager
    def read(self) -> Iterator[Connection]:
        """Open a connection for statements that only read. Other transactions may commit between two of them.

        Raises:
            StoreUnavailable: the database does not answer.
        """
        with _translating_errors(), self._reader.begin() as connection:
            yield connection

    @contextmanager
    def scan(self) -> Iterator[Connection]:
        """Open a read transaction for streaming more rows than should be in memory at once.

        Raises:
            StoreUnavailable: the database does not answer.
        """
        with _translating_errors(), self.engine.begin() as connection:
            yield connection

    @contextmanager
    def write(self) -> Iterator[Connection]:
        """Open a transaction that writes: committed at the end, rolled back on an error.

        Raises:
            StoreRefuses: the database accepts no writes.
            StoreUnavailable: the database does not answer; it is unknown whether the transaction was committed.
        """
        try:
            with _translating_errors(), self._writer_lock, self._writer.begin() as connection:
                yield connection
        except StoreRefuses as error:
            self._refused_at, self._refusal = time.monotonic(), error
            raise

    def refusal(self, seconds: float) -> StoreRefuses | None:
        """Return the error of the last refused write if it is less than `seconds` old, otherwise None."""
        return self._refusal if time.monotonic() - self._refused_at < seconds else None

    def ping(self) -> None:
        """Check that the database answers and that its revision is the one this release needs.

        Raises:
            StoreUnavailable: it does not answer.
            WrongRevision: it was not upgraded, or a later release has upgraded it.
        """
        with self.read() as connection:
            _must_be_current(connection)

    def migrate(self) -> None:
        """Migrate the tables to the newest revision. Idempotent, and safe if several processes start at once.

        Raises:
            WrongRevision: a later release has upgraded them.
        """
        from alembic import command  # imported here: only migrations need it, and it is slow to import

        if file := self.engine.url.database if self.engine.dialect.name == "sqlite" else None:
            Path(file).parent.mkdir(parents=True, exist_ok=True)
        config = _alembic()
        with self.write() as connection:
            if connection.dialect.name == "postgresql":
                connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _MIGRATION_LOCK})
            if (revision := _revision(connection)) not in (None, *_revisions()):
                raise _too_new(revision)
            config.attributes["connection"] = connection
            command.upgrade(config, "head")

    def close(self) -> None:
        """Close every connection."""
        self.engine.dispose()


class _WriterLock:
    """A lock that admits one writer at a time among the threads of one process, per database URL.

    SQLite lets a writer that finds the database locked sleep for up to a tenth of a second before it retries,
    so that newcomers overtake those who wait. It still does so between processes; threads are woken as soon as
    the lock is free.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()

    def __enter__(self) -> None:
        if not self._lock.acquire(timeout=_PATIENCE_SECONDS):
            raise StoreUnavailable(TimeoutError(f"others have been writing for {_PATIENCE_SECONDS} s"))

    def __exit__(self, *_: object) -> None:
        self._lock.release()


@cache
def _writer_lock_of(url: str) -> _WriterLock:
    return _WriterLock()


def _alembic() -> Config:
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", "jobs:migrations")
    return config


@cache
def _revisions() -> tuple[str, ...]:
    """Return every revision that this release knows, the newest first."""
    from alembic.script import ScriptDirectory

    return tuple(script.revision for script in ScriptDirectory.from_config(_alembic()).walk_revisions())


def _revision(connection: Connection) -> str | None:
    """Return the revision of the tables; None if there are no tables."""
    if not inspect(connection).has_table("alembic_version"):
        return None
    revision: str | None = connection.scalar(text("SELECT version_num FROM alembic_version"))
    return revision


def _must_be_current(connection: Connection) -> None:
    newest = _revisions()[0]
    revision = _revision(connection)
    if revision == newest:
        return
    if revision is not None and revision not in _revisions():
        raise _too_new(revision)
    message = (
        f"the database is behind: its revision is {revision or 'none'}, this release of GKD needs {newest}"
    )
    raise WrongRevision(message, "Make a backup and run `gkd migrate`.")


def _too_new(revision: str | None) -> WrongRevision:
    known = _revisions()[0]
    message = f"a later release of GKD has upgraded the database: its revision is {revision}, this one knows {known}"
    return WrongRevision(message, "Upgrade GKD here too, or go back to the backup from before.")


def storable(text: str) -> str:
    """Return the text with what PostgreSQL cannot store (NUL, lone surrogates) replaced.

    A log may contain anything. An id from outside with such characters matches no row, as it should.
    """
    return text.encode("utf-8", "replace").decode().replace("\0", "\ufffd")


@contextmanager
def _translating_errors() -> Iterator[None]:
    """Translate SQLAlchemy's errors to `StoreUnavailable`, so that callers can retry without knowing SQLAlchemy."""
    try:
        yield
    except PoolTimeout as error:
        raise StoreUnavailable(error) from error
    except DBAPIError as error:
        if told := meaning(error):
            raise told from error
        raise


def _connect_postgresql(url: str, idle_connections: int) -> Engine:
    # A worker that is frozen inside a transaction must not block others from its rows for ever.
    options = (
        f"-c idle_in_transaction_session_timeout={_PATIENCE_SECONDS}s -c lock_timeout={_PATIENCE_SECONDS}s"
    )
    return create_engine(
        make_url(url).set(drivername="postgresql+psycopg"),
        pool_pre_ping=True,
        pool_size=idle_connections,
        max_overflow=_MOST_CONNECTIONS - idle_connections,
        connect_args={"connect_timeout": 5, "options": options} | _tcp_keepalive(),
    )


def _tcp_keepalive() -> dict[str, int]:
    """Return TCP options that detect a vanished server.

    A server that vanished (power, network, failover) sends nothing; without these options TCP waits for it for
    hours. An idle connection is closed after 25 s, one that waits for an answer after 15 s: both leave time for
    retries within a lease. Connections through a Unix socket ignore them.
    """
    from psycopg import pq  # imported here: it needs libpq, which an installation for SQLite may lack

    patience = {"keepalives": 1, "keepalives_idle": 10, "keepalives_interval": 5, "keepalives_count": 3}
    if pq.version() >= _LIBPQ_WITH_USER_TIMEOUT:
        patience["tcp_user_timeout"] = _PATIENCE_SECONDS * 1000
    return patience


def _connect_sqlite(url: str) -> Engine:
    engine = create_engine(url, connect_args={"timeout": _PATIENCE_SECONDS})

    @event.listens_for(engine, "connect")
    def prepare(connection: Any, record: Any) -> None:
        connection.isolation_level = None  # the driver must not begin transactions; `begin` below does
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA foreign_keys = ON")

    @event.listens_for(engine, "begin")
    def begin(connection: Connection) -> None:
        # A writer takes the lock at once: a transaction that begins as a reader can fail when it begins to
        # write.
        writes = connection.get_execution_options().get("gkd_write", False)
        connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")

    return engine
