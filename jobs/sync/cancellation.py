"""Long work that nobody may want any more before it is done: it looks between two blocks whether that is so."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator
from typing import TypeVar

from jobs.errors import OperationCancelled

T = TypeVar("T")

NEVER = threading.Event()
"""For work that is always done to its end: nobody sets it."""


def cancellable(cancelled: threading.Event, source: Iterable[T]) -> Iterator[T]:
    """What comes from a source, as long as it is wanted.

    Args:
        cancelled: Set by whoever wants no more of it.
        source: Gives blocks, or other things between which it is safe to stop.

    Raises:
        OperationCancelled: The event was set; seen before the next block is handed on.
    """
    for each in source:
        if cancelled.is_set():
            raise OperationCancelled
        yield each
