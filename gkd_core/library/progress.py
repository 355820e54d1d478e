"""A progress line on stderr."""

from __future__ import annotations

import sys
import time
from typing import TextIO

from gkd_core.events import Evaluation, Event, Progress, Warning

EVERY_SECONDS = 10.0
"""Between two lines if stderr is a file; on a terminal the line is rewritten."""


class ProgressLine:
    """Shows the events of a run on a stream."""

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = stream or sys.stderr
        self._rewrites = self._stream.isatty()
        self._width = 0
        self._last = -EVERY_SECONDS

    def show(self, event: Event) -> None:
        """Show an event: progress on the current line, other events on lines of their own."""
        match event:
            case Progress():
                self._progress(event)
            case Evaluation():
                self._line(f"{event.run}, epoch {event.epoch}: AP {event.metrics['AP']:.3f}")
            case Warning():
                self._line(f"warning: {event.message}")

    def end(self) -> None:
        """End the current line."""
        if self._width:
            print(file=self._stream, flush=True)
        self._width = 0

    def _progress(self, event: Progress) -> None:
        if self._rewrites:
            self._rewrite(worded(event))
        elif (now := time.monotonic()) - self._last >= EVERY_SECONDS:
            self._last = now
            self._line(worded(event))

    def _rewrite(self, text: str) -> None:
        print(f"\r{text:<{self._width}}", end="", file=self._stream, flush=True)
        self._width = len(text)

    def _line(self, text: str) -> None:
        if self._width:
            self._rewrite("")
            print("\r", end="", file=self._stream)
            self._width = 0
        print(text, file=self._stream, flush=True)


def worded(event: Progress) -> str:
    """Return the progress of a run as text."""
    doing = "" if event.activity == "train" else f", {event.activity}"
    epoch = f", epoch {min(event.epoch + 1, event.epochs)} of {event.epochs}" if event.epochs else ""
    loss = f", loss {sum(event.losses.values()):.3f}" if event.losses else ""
    left = f", {_duration(event.seconds_left)} left" if event.seconds_left is not None else ""
    return f"{event.fraction:4.0%} {event.run}{epoch}{doing}{loss}{left}"


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60} h {minutes % 60} min" if minutes >= 60 else f"{minutes} min {rest} s"
