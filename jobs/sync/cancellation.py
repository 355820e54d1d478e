"""Cancellation of long work, checked between two blocks."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator
from typing import TypeVar

from jobs.errors import OperationCancelled

T = TypeVar("T")

NEVER = threading.Event()
"""An event that is never set, for work that cannot be cancelled."""


def cancellable(cancelled: threading.Event, source: Iterable[T]) -> Iterator[T]:
    """Yield the items of a source until the work is cancelled.

    Args:
        cancelled: Set by the caller to cancel.
        source: Yields blocks, or other items between which it is safe to stop.

    Raises:
        OperationCancelled: The event was set; checked before each item.
    """
    for each in source:
        if cancelled.is_set():
            raise OperationCancelled
        yield each
