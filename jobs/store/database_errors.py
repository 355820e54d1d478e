"""Classification of SQLite's and PostgreSQL's error codes: unavailable, refused, or a mistake in the statement.

A code is SQLite's primary result code (a number, https://sqlite.org/rescode.html) or PostgreSQL's SQLSTATE (a
text, https://www.postgresql.org/docs/current/errcodes-appendix.html).
"""

from __future__ import annotations

import sqlite3

from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError

from jobs.errors import StoreRefuses, StoreUnavailable

_REFUSALS: dict[int | str, str] = {
    sqlite3.SQLITE_READONLY: "it is read-only",
    sqlite3.SQLITE_FULL: "its disk is full",
    sqlite3.SQLITE_IOERR: "its disk fails, or is full",
    sqlite3.SQLITE_CORRUPT: "its file is damaged",
    sqlite3.SQLITE_NOTADB: "its file is damaged",
    "25006": "it is read-only",
    "42501": "its user has not the right to",
    "53100": "its disk is full",
    "58030": "its disk fails",
    "XX001": "its files are damaged",
    "XX002": "its files are damaged",
}
"""Codes of a database that answers but refuses a valid statement, with the reason. Drivers sort these under
many exception classes, some of them meant for programming errors."""

_MISTAKES: frozenset[int | str] = frozenset(
    (sqlite3.SQLITE_ERROR, sqlite3.SQLITE_MISUSE, sqlite3.SQLITE_RANGE, "54000", "54001", "54011", "54023")
)
"""Codes of a wrong statement that drivers report like an unavailable database: in SQLite a missing table, in
PostgreSQL a statement that is too complex."""


def meaning(error: DBAPIError) -> StoreUnavailable | None:
    """Return the store error that an error of the driver stands for; None if the statement itself is wrong."""
    code = _code(error)
    if code in _REFUSALS:
        return StoreRefuses(_REFUSALS[code], error)
    if code in _MISTAKES:
        return None
    is_away = error.connection_invalidated or isinstance(error, OperationalError | InterfaceError)
    return StoreUnavailable(error) if is_away else None


def _code(error: DBAPIError) -> int | str:
    """Return SQLite's primary code or the SQLSTATE; "" if the driver gives none, as for a broken connection."""
    if (extended := getattr(error.orig, "sqlite_errorcode", None)) is not None:
        return int(extended) & 0xFF
    return str(getattr(error.orig, "sqlstate", None) or "")
