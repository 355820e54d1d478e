"""Looks after lost jobs and lost rings: a thread in every worker, at its start and then every few seconds.

Several sweepers do no harm to each other; the store's transactions see to that.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

log = logging.getLogger(__name__)


class Sweeper:
    """Calls `sweep` at once and then every `seconds`, while entered."""

    def __init__(self, sweep: Callable[[], None], seconds: float) -> None:
        self._sweep = sweep
        self._seconds = seconds
        self._left = threading.Event()
        self._thread = threading.Thread(target=self._keep, daemon=True, name="sweeper")

    def __enter__(self) -> Sweeper:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._left.set()
        self._thread.join()

    def _keep(self) -> None:
        while not self._left.is_set():
            try:
                self._sweep()
            except Exception as error:  # the database may be away for a while; the next sweep finds the same
                log.warning("cannot sweep: %s", error)
            self._left.wait(self._seconds)
