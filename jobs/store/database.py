"""One way to reach SQLite and PostgreSQL: connections, transactions and the database's own clock."""

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
"""How long a writer waits for another one. Longer than any transaction here takes, shorter than a lease."""

_MOST_CONNECTIONS = 10
"""Of one process to PostgreSQL at once; who wants one more waits for it, which is quicker than more that compute."""
IDLE_CONNECTIONS = _MOST_CONNECTIONS
"""That stay open, unless a process says otherwise: to open one costs PostgreSQL more than a request does."""

_LIBPQ_WITH_USER_TIMEOUT = 120_000
"""Version 12. Older ones refuse the option."""

_MIGRATION_LOCK = 0x676B64
"""Any number will do, as long as nobody else uses it in the same database."""


class now(FunctionElement[float]):  # noqa: N801 - an SQL function, written like those of SQLAlchemy
    """Unix seconds on the database's clock: the only clock that all machines share."""

    type = Double()
    inherit_cache = True


@compiles(now, "sqlite")
def _now_in_sqlite(element: now, compiler: Any, **kwargs: Any) -> str:
    return "((julianday('now') - 2440587.5) * 86400.0)"


@compiles(now, "postgresql")
def _now_in_postgresql(element: now, compiler: Any, **kwargs: Any) -> str:
    return "(extract(epoch from clock_timestamp())::double precision)"


class Database:
    """A database and its transactions; threads may share one.

    Args:
        url: `sqlite:///FILE` or `postgresql://USER@HOST/NAME` (psycopg 3 is used).
        idle_connections: How many stay open to PostgreSQL while nobody needs them.
    """

    def __init__(self, url: str, *, idle_connections: int = IDLE_CONNECTIONS) -> None:
        is_sqlite = url.startswith("sqlite")
        self.engine = _connect_sqlite(url) if is_sqlite else _connect_postgresql(url, idle_connections)
        self._writer = self.engine.execution_options(gkd_write=True)
        self._turn: AbstractContextManager[object] = _turn_at(url) if is_sqlite else nullcontext()
        self._refused_at = -math.inf
        self._refusal: StoreRefuses | None = None
        # In PostgreSQL each statement sees what is committed when it begins, in a transaction or not. Without one two
        # ways to the server are saved, which for most reads are half of them.
        self._reader = (
            self.engine if is_sqlite else self.engine.execution_options(isolation_level="AUTOCOMMIT")
        )

    @contextmanager
    def read(self) -> Iterator[Connection]:
        """For statements that only read. Between two of them others may write.

        Raises:
            StoreUnavailable: the database does not answer.
        """
        with _translated(), self._reader.begin() as connection:
            yield connection

    @contextmanager
    def scan(self) -> Iterator[Connection]:
        """For reading more rows than should be in memory at once, some at a time, which takes a transaction.

        Raises:
            StoreUnavailable: the database does not answer.
        """
        with _translated(), self.engine.begin() as connection:
            yield connection

    @contextmanager
    def write(self) -> Iterator[Connection]:
        """A transaction that writes: committed at the end, undone on an error.

        Raises:
            StoreRefuses: the database takes no writes.
            StoreUnavailable: the database does not answer; whether the end was reached is not known.
        """
        try:
            with _translated(), self._turn, self._writer.begin() as connection:
                yield connection
        except StoreRefuses as error:
            self._refused_at, self._refusal = time.monotonic(), error
            raise

    def refusal(self, seconds: float) -> StoreRefuses | None:
        """Return the last write that was refused, if that was less than so many seconds ago."""
        return self._refusal if time.monotonic() - self._refused_at < seconds else None

    def ping(self) -> None:
        """Find out whether the database answers and is as this release needs it.

        Raises:
            StoreUnavailable: it does not answer.
            WrongRevision: it was not upgraded, or a later release has upgraded it.
        """
        with self.read() as connection:
            _must_be_current(connection)

    def migrate(self) -> None:
        """Bring the tables up to date. Harmless twice, and when several processes start at once.

        Raises:
            WrongRevision: a later release has upgraded them.
        """
        from alembic import command  # not needed by those who only read and write

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


class _Turn:
    """One writer after the other, of the threads of one process, however often it opened the database.

    SQLite lets whoever finds a writer at work sleep for up to a tenth of a second and look again, so that newcomers
    overtake those who wait. It still does so between processes; threads are woken as soon as it is their turn.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()

    def __enter__(self) -> None:
        if not self._lock.acquire(timeout=_PATIENCE_SECONDS):
            raise StoreUnavailable(TimeoutError(f"others have been writing for {_PATIENCE_SECONDS} s"))

    def __exit__(self, *_: object) -> None:
        self._lock.release()


@cache
def _turn_at(url: str) -> _Turn:
    return _Turn()


def _alembic() -> Config:
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", "jobs:migrations")
    return config


@cache
def _revisions() -> tuple[str, ...]:
    """Every revision that this release knows, the newest first."""
    from alembic.script import ScriptDirectory

    return tuple(script.revision for script in ScriptDirectory.from_config(_alembic()).walk_revisions())


def _revision(connection: Connection) -> str | None:
    """The revision of the tables; None: there are none."""
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
    """The text without what PostgreSQL cannot hold: NUL and halves of characters become replacements.

    A log may hold anything. And an id from outside that holds such a thing is found nowhere, which is right.
    """
    return text.encode("utf-8", "replace").decode().replace("\0", "\ufffd")


@contextmanager
def _translated() -> Iterator[None]:
    """Callers wait and try again when the database is away; they need not know SQLAlchemy for that."""
    try:
        yield
    except PoolTimeout as error:
        raise StoreUnavailable(error) from error
    except DBAPIError as error:
        if told := meaning(error):
            raise told from error
        raise


def _connect_postgresql(url: str, idle_connections: int) -> Engine:
    # A worker that is frozen inside a transaction must not keep others from its rows for ever.
    options = (
        f"-c idle_in_transaction_session_timeout={_PATIENCE_SECONDS}s -c lock_timeout={_PATIENCE_SECONDS}s"
    )
    return create_engine(
        make_url(url).set(drivername="postgresql+psycopg"),
        pool_pre_ping=True,
        pool_size=idle_connections,
        max_overflow=_MOST_CONNECTIONS - idle_connections,
        connect_args={"connect_timeout": 5, "options": options} | _lively_tcp(),
    )


def _lively_tcp() -> dict[str, int]:
    """A server that vanished (power, network, failover) says nothing; without these TCP waits for it for hours.

    An idle connection is given up after 25 s, one that waits for an answer to what it sent after 15 s: both leave
    time for further tries within a lease. Connections through a Unix socket ignore them.
    """
    from psycopg import pq  # needs libpq, which those on SQLite may lack

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
        # A writer takes the lock at once: one that starts as a reader can fail when it begins to write.
        writes = connection.get_execution_options().get("gkd_write", False)
        connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")

    return engine
