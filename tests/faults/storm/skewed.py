"""`gkd` with a clock that can be set while it runs: `python -m tests.faults.storm.skewed worker`.

`GKD_STORM_CLOCK` names a file with the seconds to add. They apply to `time.time` in this process and, where the
database is SQLite, to the database's clock, which is this process's too. Engines keep the machine's.
"""

from __future__ import annotations

import os
import sqlite3
import sys
import time
from pathlib import Path
from typing import Any

from sqlalchemy import Engine, event

_LOOK_SECONDS = 0.1
_EPOCH = 2440587.5
"""The Julian day of 1970-01-01."""


class Clock:
    """The machine's clock, so many seconds ahead."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._real = time.time
        self._look_at = self._ahead = 0.0

    def __call__(self) -> float:
        """Return Unix seconds."""
        if time.monotonic() > self._look_at:
            self._look_at = time.monotonic() + _LOOK_SECONDS
            self._ahead = float(self._file.read_text() or 0) if self._file.exists() else 0.0
        return self._real() + self._ahead

    def julian_day(self, _now: str) -> float:
        """Return the Julian day, as SQLite counts."""
        return self() / 86400.0 + _EPOCH


def main() -> None:
    """Set the clock, then run `gkd`."""
    clock = Clock(Path(os.environ["GKD_STORM_CLOCK"]))
    time.time = clock

    @event.listens_for(Engine, "connect")
    def skew(connection: Any, record: Any) -> None:
        if isinstance(connection, sqlite3.Connection):
            connection.create_function("julianday", 1, clock.julian_day)
            connection.execute("PRAGMA synchronous = OFF")  # no fault cuts the power

    from client.cli import app

    app(sys.argv[1:])


if __name__ == "__main__":
    main()
