"""Following a stream of events: a bar with a terminal, a line every few seconds without one."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Protocol

from rich.console import Console
from rich.progress import BarColumn, TaskProgressColumn, TextColumn
from rich.progress import Progress as Bar
from rich.text import Text

from client import show
from gkd_core.events import Event, Progress
from jobs.job import StoredEvent

LINE_SECONDS = 5.0
"""Between two lines of progress in a log file."""


class Board(Protocol):
    """Where events are shown."""

    def progress(self, event: Progress) -> None:
        """Show where the job stands now."""

    def say(self, line: str) -> None:
        """Show something that stays."""


class Bars:
    """One bar that moves, and lines above it."""

    def __init__(self, bar: Bar) -> None:
        self._bar = bar
        self._task = bar.add_task("waiting", total=1.0)

    def progress(self, event: Progress) -> None:
        """Move the bar."""
        self._bar.update(self._task, completed=event.fraction, description=show.line(event))

    def say(self, line: str) -> None:
        """Print above the bar."""
        self._bar.console.print(Text(line))


class Lines:
    """Plain lines, for logs: progress now and then, everything else at once."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._spoke = float("-inf")

    def progress(self, event: Progress) -> None:
        """Print where the job stands, if that is due."""
        if time.monotonic() - self._spoke >= LINE_SECONDS:
            self.say(f"{100 * event.fraction:3.0f} %  {show.line(event)}")
            self._spoke = time.monotonic()

    def say(self, line: str) -> None:
        """Print a line, unbroken."""
        self._console.print(Text(line), soft_wrap=True)


@contextmanager
def board(console: Console) -> Iterator[Board]:
    """The board that suits where the output goes."""
    if not console.is_terminal:
        yield Lines(console)
        return
    columns = (BarColumn(bar_width=24), TaskProgressColumn(), TextColumn("{task.description}", markup=False))
    with Bar(*columns, console=console, transient=True) as bar:
        yield Bars(bar)


def follow(stream: Iterable[StoredEvent | Event], console: Console) -> None:
    """Show events as they come, until the stream ends."""
    with board(console) as shown:
        for item in stream:
            event = show.event_of(item) if isinstance(item, StoredEvent) else item
            if isinstance(event, Progress):
                shown.progress(event)
            elif event is not None:
                shown.say(show.line(event))
            elif isinstance(item, StoredEvent):
                shown.say(show.stored_line(item))
