"""Something that may take long, in a thread of its own: whoever waits for it can look after other things meanwhile."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import TypeVar

from jobs.logs import carried

T = TypeVar("T")


def run_in_background(act: Callable[[], T], *, name: str = "aside") -> Future[T]:
    """Do something aside.

    A thread pool would wait for it at its end, and Python for the pool: this thread keeps nobody, not even a process
    that ends.

    Args:
        act: What to do.
        name: Of the thread.

    Returns:
        What comes of it, or its error.
    """
    future: Future[T] = Future()

    def fulfil() -> None:
        try:
            future.set_result(act())
        except BaseException as error:  # whatever it is, it is for who waits
            future.set_exception(error)

    threading.Thread(target=carried(fulfil), name=name, daemon=True).start()
    return future
