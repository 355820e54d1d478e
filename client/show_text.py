"""Numbers, times, warnings and narrow tables on the terminal, which the other `show_...` modules are made of."""

from __future__ import annotations

from datetime import datetime, timedelta

from rich.table import Table
from rich.text import Text


def number(value: float | None) -> str:
    """Return a COCO metric as text; -1 means that there is no such object."""
    return "-" if value is None or value < 0 else f"{value:.3f}"


def size(count: int) -> str:
    """Return a number of bytes as text."""
    return f"{count / 1e6:.1f} MB" if count >= 1e6 else f"{count / 1e3:.1f} kB"


def duration(seconds: float) -> str:
    """Return a duration in seconds as text."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def age(moment: datetime) -> str:
    """Return how long ago a moment was, as text."""
    passed: timedelta = datetime.now(moment.tzinfo) - moment
    return f"{duration(max(passed.total_seconds(), 0))} ago"


FLEXIBLE = ("name", "why", "where", "worker", "listens to", "SHA-256")
"""Columns that shrink if the terminal is narrow."""


def compact_table(*names: str) -> Table:
    """Return a table for 80 columns: short cells stay whole, `Cropped` cells share the remaining width."""
    table = Table(*names, box=None, pad_edge=False, padding=(0, 1, 0, 0))
    for column in table.columns:
        column.no_wrap = column.header not in FLEXIBLE
    return table


def warning_text(message: str, hint: str) -> Text:
    """Return a warning in colour."""
    return Text(f"warning: {message} {hint}".rstrip(), style="yellow")
