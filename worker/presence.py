"""A worker's heartbeats: its row in the store, updated at intervals, deleted at a proper shutdown."""

from __future__ import annotations

import logging
import socket
import threading
from collections.abc import Sequence
from importlib.metadata import version

from jobs.errors import JobsError
from jobs.presence import Presence
from jobs.store.store import Store
from worker.gpus import look_at

log = logging.getLogger(__name__)


class SignsOfLife:
    """The heartbeats of one worker.

    Args:
        store: Where they are stored.
        name: The worker's.
        queues: Queues that it listens to.
        gpus: Its GPUs, as in `CUDA_VISIBLE_DEVICES`.
        draining: Set when it claims no more jobs.
    """

    def __init__(
        self,
        store: Store,
        name: str,
        *,
        queues: Sequence[str],
        gpus: Sequence[str],
        draining: threading.Event,
    ) -> None:
        self._store = store
        self._gpus = gpus
        self._draining = draining
        self._presence = Presence(
            name=name, host=socket.gethostname(), version=version("gkd"), queues=tuple(queues)
        )

    def appear(self) -> None:
        """Report the current state.

        Raises:
            StoreUnavailable: the database does not answer.
        """
        now = {"gpus": look_at(self._gpus), "draining": self._draining.is_set()}
        self._store.workers.appear(self._presence.model_copy(update=now))

    def vanish(self) -> None:
        """Report that the worker has ended; if that fails, it is shown as lost before long."""
        try:
            self._store.workers.vanish(self._presence.name)
        except JobsError as error:
            log.warning("cannot take %s off the list of workers: %s", self._presence.name, error)
