"""The job store: every operation of the state machine, each a transaction that also writes its event.

`Store` is composed of eleven parts by caller, each in the module of its name: `reading` (all), `following` (clients
that watch jobs), `overview` (pages that show many jobs), `submission`, `editing` and `resources` (users), `keys`
(administrators and authentication), `commands` (workers; `worker_commands.py`), `workers` (heartbeats), `metrics`
(monitoring) and `recovery` (the sweeper).

Their transactions are made of functions in five more modules: `transitions` (writes the state), `attempts`
(operations of a ticket's holder), `quotas` (limits of tenants), `queue_reasons` (why a job is in its state) and
`counters` (metrics counters). Callers import this module only.
"""

from __future__ import annotations

from jobs.errors import (
    IdempotencyConflict,
    InUse,
    JobsError,
    NotAllowed,
    StaleTicket,
    StoreUnavailable,
    UnknownArtifact,
    UnknownJob,
)
from jobs.settings import Settings
from jobs.store.database import IDLE_CONNECTIONS, Database
from jobs.store.editing import Editing
from jobs.store.following import Following, Head
from jobs.store.keys import Admitted, Keys
from jobs.store.leases import LeasePolicy
from jobs.store.metrics import Metrics
from jobs.store.overview import Overview
from jobs.store.reading import Page, Reading
from jobs.store.recovery import Recovery
from jobs.store.resources import Check, ResourcePage, Resources
from jobs.store.submission import Submission
from jobs.store.worker_commands import Claim, WorkerCommands
from jobs.store.workers import Workers

__all__ = [
    "Admitted",
    "Check",
    "Claim",
    "Head",
    "IdempotencyConflict",
    "InUse",
    "JobsError",
    "NotAllowed",
    "Page",
    "ResourcePage",
    "StaleTicket",
    "Store",
    "StoreUnavailable",
    "UnknownArtifact",
    "UnknownJob",
]


class Store:
    """The job store in a database. Safe to share between threads and processes.

    Every method may raise `StoreUnavailable`.

    Args:
        url: `sqlite:///FILE` or `postgresql://...`.
        lease_seconds: Time after the last heartbeat of its worker for which a claim stays valid.
        max_attempts: Attempts in a row that may end early without saving a checkpoint.
        idle_connections: As in `Database`.
    """

    def __init__(
        self,
        url: str,
        *,
        lease_seconds: float = 60.0,
        max_attempts: int = 3,
        idle_connections: int = IDLE_CONNECTIONS,
    ) -> None:
        self.database = Database(url, idle_connections=idle_connections)
        self.policy = LeasePolicy(lease_seconds, max_attempts)
        self.reading = Reading(self.database)
        self.following = Following(self.database)
        self.overview = Overview(self.database)
        self.submission = Submission(self.database)
        self.editing = Editing(self.database)
        self.commands = WorkerCommands(self.database, self.policy)
        self.recovery = Recovery(self.database, self.policy)
        self.resources = Resources(self.database, self.policy, self.reading)
        self.keys = Keys(self.database)
        self.workers = Workers(self.database, self.policy)
        self.metrics = Metrics(self.database, self.workers)

    @classmethod
    def of(cls, settings: Settings, *, idle_connections: int = IDLE_CONNECTIONS) -> Store:
        """Return the store that the settings describe, with its tables migrated."""
        store = cls(
            settings.database_url,
            lease_seconds=settings.lease_seconds,
            max_attempts=settings.max_attempts,
            idle_connections=idle_connections,
        )
        try:
            store.migrate()
        except BaseException:
            store.close()
            raise
        return store

    def migrate(self) -> None:
        """Create the tables or migrate them to the newest revision.

        Idempotent, and safe from several processes at once.

        Raises:
            WrongRevision: a later release has upgraded them.
        """
        self.database.migrate()

    def ping(self) -> None:
        """Check that the database answers and that its revision is the one this release needs.

        Raises:
            StoreUnavailable: it does not answer.
            WrongRevision: it was not upgraded, or a later release has upgraded it.
        """
        self.database.ping()

    def try_writing(self, every_seconds: float, refused_seconds: float) -> None:
        """Check that the database accepts writes, by rewriting one small row.

        Args:
            every_seconds: Period in which one such write is valid for all processes.
            refused_seconds: Period in which any refused write of this process counts: on a disk that fills up,
                a larger write fails sooner than this row.

        Raises:
            StoreRefuses: it accepts none.
            StoreUnavailable: it does not answer.
        """
        if refusal := self.database.refusal(refused_seconds):
            raise refusal
        self.recovery.take_turn("write for readiness", every_seconds)

    def close(self) -> None:
        """Close every connection."""
        self.database.close()
