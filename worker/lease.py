"""The lease of a running job, renewed by a thread of its own, however long the job is silent.

A second thread watches the expiry and stops the engine itself, because all other threads may be waiting for a
database that has stopped answering.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from typing import TypeVar

from jobs.errors import StaleTicket, StoreUnavailable
from jobs.job import Desired, Ticket
from jobs.logs import carried
from jobs.store.store import Store
from worker.engine import Engine

log = logging.getLogger(__name__)
T = TypeVar("T")


class Lease:
    """A lease that is renewed while the context is entered.

    Args:
        store: Where the lease is stored.
        ticket: The claim.
        renew_seconds: Time between two renewals.
        lease_seconds: Time after its last renewal for which the claim stays valid.
    """

    def __init__(self, store: Store, ticket: Ticket, *, renew_seconds: float, lease_seconds: float) -> None:
        self.ticket = ticket
        self.desired = Desired.RUN
        """The latest known request about the job."""
        self.lost = False
        """The lease has expired, or the ticket is stale: another worker may have the job. It stays lost,
        because the engine was stopped."""
        self._store = store
        self._renew_seconds = renew_seconds
        self._retry_seconds = min(1.0, renew_seconds)
        self._lease_seconds = lease_seconds
        self._renewed_at = time.monotonic()
        self._engine: Engine | None = None
        self._stale = False
        self._left = threading.Event()
        self._threads = [
            threading.Thread(target=carried(each), daemon=True)
            for each in (self._keep_renewed, self._watch_expiry)
        ]

    def __enter__(self) -> Lease:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._left.set()
        for thread in self._threads:
            thread.join(1.0)  # a thread that hangs in the database may hang; its ticket is stale before long

    def guard(self, engine: Engine) -> None:
        """Stop this engine when the lease expires, and kill it when the ticket is stale."""
        self._engine = engine
        if self._stale:  # since before the engine was started
            engine.kill()

    def insist(self, write: Callable[[], T]) -> T:
        """Write to the store, retrying while it is unavailable, until it answers or the lease is lost.

        Raises:
            StoreUnavailable: The store was unavailable until the lease was lost.
            StaleTicket: Another worker has the job, or it has ended.
        """
        while True:
            try:
                return write()
            except StoreUnavailable as error:
                if self.lost:
                    raise
                log.warning("job %s: %s; trying again", self.ticket.job_id, error)
            time.sleep(self._retry_seconds)

    def _keep_renewed(self) -> None:
        pause = self._renew_seconds
        while not self._left.wait(pause):
            try:
                asked_at = time.monotonic()  # the store counts from its answer: never earlier
                self.desired = self._store.commands.renew(self.ticket)
                self._renewed_at, pause = asked_at, self._renew_seconds
            except StaleTicket:
                return self._end_engine()
            except Exception as error:  # whatever the reason, only the remaining time matters
                log.warning("cannot renew the lease of job %s: %s", self.ticket.job_id, error)
                pause = self._retry_seconds

    def _end_engine(self) -> None:
        if self._left.is_set():
            return
        log.warning("job %s is not ours any more: ending its engine", self.ticket.job_id)
        self._stale = self.lost = True
        if self._engine is not None:
            self._engine.kill()

    def _watch_expiry(self) -> None:
        while not self._left.wait(self._retry_seconds):
            if time.monotonic() > self._renewed_at + self._lease_seconds:
                log.warning("job %s: lease lost, stopping its engine", self.ticket.job_id)
                self.lost = True
                if self._engine is not None:
                    self._engine.stop()
                return
