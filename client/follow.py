"""Display of a stream of events: a progress bar on a terminal, a line every few seconds elsewhere."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Protocol

from rich.console import Console, ConsoleOptions, RenderResult
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from client import show_events
from gkd_core.events import Event, Progress
from jobs.job import StoredEvent

LINE_SECONDS = 5.0
"""Time between two lines of progress in a log file."""


class Board(Protocol):
    """A display of events."""

    def progress(self, event: Progress) -> None:
        """Show the current progress."""

    def say(self, line: str) -> None:
        """Show a permanent line."""


class ProgressLine:
    """One line as wide as the terminal: bar, percent, time left, and as much of the rest as fits.

    Earlier parts are never shortened in favour of later ones.
    """

    def __init__(self, event: Progress | None = None) -> None:
        self.event = event

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Lay the line out for the current width."""
        width, event = options.max_width, self.event
        bar = ProgressBar(
            total=1.0, completed=event.fraction if event else 0.0, width=min(24, max(8, width // 6))
        )
        percent = f"{100 * event.fraction:3.0f}%" if event else ""
        left = show_events.time_left(event) if event else "waiting"
        used = int(bar.width or 0) + sum(1 + len(cell) for cell in (percent, left) if cell)
        rest = show_events.standing(event, width - used - 1) if event else ""
        cells = [cell for cell in (percent, left, rest) if cell]
        line = Table.grid(*([""] * (1 + len(cells))), padding=(0, 1, 0, 0), pad_edge=False)
        for column in line.columns:
            column.no_wrap = True
        line.add_row(bar, *map(Text, cells))
        yield line


class Bars:
    """A moving progress bar with lines above it."""

    def __init__(self, live: Live) -> None:
        self._live = live

    def progress(self, event: Progress) -> None:
        """Move the bar."""
        self._live.update(ProgressLine(event))

    def say(self, line: str) -> None:
        """Print above the bar."""
        self._live.console.print(Text(line))


class Lines:
    """Plain lines, for logs: progress at intervals, everything else at once."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._spoke = float("-inf")

    def progress(self, event: Progress) -> None:
        """Print the progress, if it is due."""
        if time.monotonic() - self._spoke >= LINE_SECONDS:
            self.say(f"{100 * event.fraction:3.0f} %  {show_events.line(event)}")
            self._spoke = time.monotonic()

    def say(self, line: str) -> None:
        """Print a line, unbroken."""
        self._console.print(Text(line), soft_wrap=True)


@contextmanager
def board(console: Console) -> Iterator[Board]:
    """Open the display that suits the console."""
    if not console.is_terminal:
        yield Lines(console)
        return
    with Live(ProgressLine(), console=console, transient=True, refresh_per_second=4) as live:
        yield Bars(live)


def follow(stream: Iterable[StoredEvent | Event], console: Console) -> None:
    """Show events as they arrive, until the stream ends."""
    with board(console) as shown:
        for item in stream:
            event = show_events.event_of(item) if isinstance(item, StoredEvent) else item
            if isinstance(event, Progress):
                shown.progress(event)
            elif event is not None:
                shown.say(show_events.line(event))
            elif isinstance(item, StoredEvent):
                shown.say(show_events.stored_line(item))
