"""Temporary handlers of SIGINT and SIGTERM."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def answered_by(answer: Callable[[], None]) -> Iterator[None]:
    """Call `answer` for each SIGINT and SIGTERM; restore the previous handlers at the end.

    Needs the main thread.
    """
    numbers = (signal.SIGINT, signal.SIGTERM)
    earlier = {number: signal.signal(number, lambda *_: answer()) for number in numbers}
    try:
        yield
    finally:
        for number, handler in earlier.items():
            signal.signal(number, handler)
