"""The one store: every verb of the state machine, each a transaction that writes its event.

The verbs lie in ten modules, by who asks: `reading` (everybody), `following` (those who watch),
`submission`, `editing` and `resources` (people), `keys` (who administrates), `worker_commands`
(workers), `workers` (what workers say of themselves), `metrics` (who watches over the service) and
`recovery`.

Their transactions are made of functions in five more: `transitions` (where a state is written), `attempts` (what
the holder of a ticket may do), `quotas` (who may have more), `queue_reasons` (why a job is where it is) and
`counters` (what is counted).
Callers need this module only.
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
from jobs.store.metrics import Metrics
from jobs.store.reading import Page
from jobs.store.recovery import Recovery
from jobs.store.resources import Check, Registering, ResourcePage
from jobs.store.submission import Submission
from jobs.store.worker_commands import Claim, WorkerCommands

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


class Store(Submission, Editing, Following, WorkerCommands, Recovery, Keys, Metrics, Registering):
    """Jobs in a database. Threads and processes may share it; every verb may raise `StoreUnavailable`.

    Args:
        url: `sqlite:///FILE` or `postgresql://...`.
        lease_seconds: How long a claim outlives the last sign of life of its worker.
        max_attempts: Attempts in a row that may break off without having saved anything.
        idle_connections: As `Database`.
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
        self.lease_seconds = lease_seconds
        self.max_attempts = max_attempts

    @classmethod
    def of(cls, settings: Settings, *, idle_connections: int = IDLE_CONNECTIONS) -> Store:
        """The store that the settings describe, its tables brought up to date."""
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
        """Create the tables or bring them up to date. Harmless twice, and from several processes at once.

        Raises:
            WrongRevision: a later release has upgraded them.
        """
        self.database.migrate()

    def ping(self) -> None:
        """Find out whether the database answers and is as this release needs it.

        Raises:
            StoreUnavailable: it does not answer.
            WrongRevision: it was not upgraded, or a later release has upgraded it.
        """
        self.database.ping()

    def try_writing(self, every_seconds: float, refused_seconds: float) -> None:
        """Find out whether the database takes writes: by one small row, which is written again and again.

        Args:
            every_seconds: How long one such write counts for all processes.
            refused_seconds: How long a write counts that anybody here was refused: one that needs more room than this
                row fails sooner on a disk that fills up.

        Raises:
            StoreRefuses: it takes none.
            StoreUnavailable: it does not answer.
        """
        if refusal := self.database.refusal(refused_seconds):
            raise refusal
        self.take_turn("write for readiness", every_seconds)

    def close(self) -> None:
        """Close every connection."""
        self.database.close()
