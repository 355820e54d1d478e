"""Periodic tasks of a worker, each in a thread: sweeping for lost jobs and notifications, tidying the disk, heartbeats.

Each worker runs all three, from its start on at intervals. Several at once are safe: the store's transactions
ensure that, and `tidying.py` for files.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

from jobs.logs import carried

log = logging.getLogger(__name__)

ENDING_SECONDS = 10.0
"""Timeout of a shutdown that waits for a running task. Tidying a large bucket, or a request to S3 that
hangs, takes longer: it is abandoned, as if the process had been killed."""


class PeriodicTask:
    """A function called at once and then at intervals, while the context is entered.

    Errors are logged and retried.

    Args:
        act: The function; its name becomes that of the thread.
        seconds: From the end of one call to the start of the next.
    """

    def __init__(self, act: Callable[[], None], seconds: float) -> None:
        self._act = act
        self._seconds = seconds
        self._left = threading.Event()
        self._woken = threading.Event()
        self._name = getattr(act, "__name__", "repeated")
        self._thread = threading.Thread(target=carried(self._call_repeatedly), daemon=True, name=self._name)

    def __enter__(self) -> PeriodicTask:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._left.set()
        self._woken.set()
        self._thread.join(ENDING_SECONDS)
        if self._thread.is_alive():
            log.warning("cannot wait until the worker has done its %s", self._name)

    def hurry(self) -> None:
        """Call the function now instead of later."""
        self._woken.set()

    def _call_repeatedly(self) -> None:
        while not self._left.is_set():
            try:
                self._act()
            except (
                Exception
            ) as error:  # the database may be unavailable for a while; the next call finds the same
                log.warning("cannot %s: %s", self._name, error)
            self._woken.wait(self._seconds)
            self._woken.clear()
