"""What a worker does beside its jobs, each in a thread of its own: sweeping for lost jobs and notifications, tidying
the disk, and giving signs of life.

Each worker does all three, at its start and then again and again. That several do so at once harms nobody: the
store's transactions see to that, and `tidying.py` to the files.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

from jobs.logs import carried

log = logging.getLogger(__name__)

ENDING_SECONDS = 10.0
"""How long who ends waits for what is being done. Tidying a large bucket, or a request to S3 that hangs, takes longer:
it is left behind, as if the process had been killed meanwhile."""


class PeriodicTask:
    """Does something at once and then every so many seconds, while entered. One that fails is told and done again.

    Args:
        act: What to do; its name is that of the thread.
        seconds: From the end of one to the start of the next.
    """

    def __init__(self, act: Callable[[], None], seconds: float) -> None:
        self._act = act
        self._seconds = seconds
        self._left = threading.Event()
        self._woken = threading.Event()
        self._name = getattr(act, "__name__", "repeated")
        self._thread = threading.Thread(target=carried(self._keep), daemon=True, name=self._name)

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
        """Do it now instead of later."""
        self._woken.set()

    def _keep(self) -> None:
        while not self._left.is_set():
            try:
                self._act()
            except Exception as error:  # the database may be away for a while; the next time finds the same
                log.warning("cannot %s: %s", self._name, error)
            self._woken.wait(self._seconds)
            self._woken.clear()
