"""Long-running functions in a thread of their own, so that the caller can monitor other things meanwhile."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import TypeVar

from jobs.logs import carried

T = TypeVar("T")


def run_in_background(act: Callable[[], T], *, name: str = "aside") -> Future[T]:
    """Run a function in a new daemon thread.

    Unlike with a thread pool, neither the caller nor the exit of the process waits for it.

    Args:
        act: The function.
        name: Name of the thread.

    Returns:
        A future of its result or exception.
    """
    future: Future[T] = Future()

    def fulfil() -> None:
        try:
            future.set_result(act())
        except BaseException as error:  # any error is passed to the waiting caller
            future.set_exception(error)

    threading.Thread(target=carried(fulfil), name=name, daemon=True).start()
    return future
