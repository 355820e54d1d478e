"""A worker's signs of life: its row in the store, renewed again and again, gone when it ends as it should."""

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
    """What one worker tells of itself.

    Args:
        store: Where it is told.
        name: The worker's.
        queues: What it listens to.
        gpus: What it has, as `CUDA_VISIBLE_DEVICES` names them.
        draining: Set once it takes no job any more.
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
        self._told = Presence(
            name=name, host=socket.gethostname(), version=version("gkd"), queues=tuple(queues)
        )

    def appear(self) -> None:
        """Tell how things are now.

        Raises:
            StoreUnavailable: the database does not answer.
        """
        now = {"gpus": look_at(self._gpus), "draining": self._draining.is_set()}
        self._store.workers.appear(self._told.model_copy(update=now))

    def vanish(self) -> None:
        """Tell that the worker has ended; where that cannot be told, it is shown as lost before long."""
        try:
            self._store.workers.vanish(self._told.name)
        except JobsError as error:
            log.warning("cannot take %s off the list of workers: %s", self._told.name, error)
