"""Whether an attempt is to stop, and since when it has been asked to."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import wait
from functools import partial
from typing import TypeVar

from jobs.errors import ArtifactsRefused, OperationCancelled
from jobs.job import Desired
from jobs.sync.background import run_in_background
from worker.disk_space import Shortage
from worker.engine import Engine
from worker.lease import Lease

POLL_SECONDS = 0.1
"""Polling interval of the engine, short enough for a user not to notice."""

T = TypeVar("T")


class StopRequest:
    """The reasons for which one attempt is to stop, whichever comes first.

    Args:
        lease: What is wanted of the job, and whether it still is this worker's.
        shutdown: Set when the worker shuts down.
        stop_seconds: Time for which work outside the engine is waited for.
    """

    def __init__(self, lease: Lease, shutdown: threading.Event, stop_seconds: float) -> None:
        self.shortage: Shortage | None = None
        """Set when the disk is too full to go on."""
        self.refused: ArtifactsRefused | None = None
        """Set while files cannot be published for a reason that will not pass by itself."""
        self.stop_seconds = stop_seconds
        self._lease = lease
        self._shutdown = shutdown
        self._asked_at: float | None = None

    @property
    def is_wanted(self) -> bool:
        """Return whether the attempt is to stop now; a request may be withdrawn."""
        asked = self._lease.desired is not Desired.RUN or self._shutdown.is_set()
        return asked or self._lease.lost or self.shortage is not None or self.refused is not None

    @property
    def was_asked(self) -> bool:
        """Return whether the attempt was asked to stop; it stays so, even if the request is withdrawn meanwhile."""
        return self._asked_at is not None

    def seconds(self) -> float:
        """Return the seconds since the attempt was asked to stop."""
        return 0.0 if self._asked_at is None else time.monotonic() - self._asked_at

    def end(self, engine: Engine) -> None:
        """Ask the engine to stop after a checkpoint. Idempotent."""
        self._ask()
        engine.stop()

    def unless_wanted(self, act: Callable[[threading.Event], T]) -> T:
        """Run a function that may take hours, until it ends or the attempt is to stop.

        Raises:
            OperationCancelled: The attempt is to stop. A function that does not notice in time ends later and is
                harmless: what it writes is removed, or is complete.
        """
        cancelled = threading.Event()
        future = run_in_background(partial(act, cancelled))
        while not wait([future], POLL_SECONDS).done:
            if self.is_wanted:
                self._ask()
                cancelled.set()
                wait([future], self.stop_seconds)
                raise OperationCancelled
        return future.result()

    def _ask(self) -> None:
        if self._asked_at is None:
            self._asked_at = time.monotonic()
