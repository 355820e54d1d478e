"""Looks after lost jobs and lost rings: a thread in every worker, at its start and then every few seconds.

Several sweepers do no harm to each other; the store's transactions see to that.
"""

from __future__ import annotations

import logging
import threading
from typing import Protocol

log = logging.getLogger(__name__)


class Sweep(Protocol):
    """What is called; see `Runner.sweep`."""

    def __call__(self, *, only_due: bool) -> None:
        """Sweep; `only_due` leaves out jobs rung for a short time ago."""


class Sweeper:
    """Sweeps at once and then every `seconds`, while entered.

    The first sweep rings for every queued job, since rings from before the start may be lost with their queue.
    """

    def __init__(self, sweep: Sweep, seconds: float) -> None:
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
        only_due = False
        while not self._left.is_set():
            try:
                self._sweep(only_due=only_due)
                only_due = True
            except Exception as error:  # the database may be away for a while; the next sweep finds the same
                log.warning("cannot sweep: %s", error)
            self._left.wait(self._seconds)
