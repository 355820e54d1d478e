"""The one store: every verb of the state machine, each a transaction that writes its event.

The verbs lie in ten modules, by who asks: `store_reading` (everybody), `store_following` (those who watch),
`store_asking`, `store_editing` and `store_resources` (people), `store_keys` (who administrates), `store_working`
(workers), `store_workers` (what workers say of themselves), `store_figures` (who watches over the service) and
`store_sweeping`.

Their transactions are made of functions in five more: `store_moves` (where a state is written), `store_tickets` (what
the holder of a ticket may do), `store_quotas` (who may have more), `store_reasons` (why a job is where it is) and
`store_counting` (what is counted).
Callers need this module only.
"""

from __future__ import annotations

from jobs.database import IDLE_CONNECTIONS, Database
from jobs.errors import (
    IdempotencyConflict,
    InUse,
    JobsError,
    NotAllowed,
    StaleTicket,
    StoreAway,
    UnknownArtifact,
    UnknownJob,
)
from jobs.settings import Settings
from jobs.store_asking import Asking
from jobs.store_editing import Editing
from jobs.store_figures import Figuring
from jobs.store_following import Following, Head
from jobs.store_keys import Admitted, Keys
from jobs.store_reading import Page
from jobs.store_resources import Check, Registering, ResourcePage
from jobs.store_sweeping import Sweeping
from jobs.store_working import Claim, Working

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
    "StoreAway",
    "UnknownArtifact",
    "UnknownJob",
]


class Store(Asking, Editing, Following, Working, Sweeping, Keys, Figuring, Registering):
    """Jobs in a database. Threads and processes may share it; every verb may raise `StoreAway`.

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
            StoreAway: it does not answer.
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
            StoreAway: it does not answer.
        """
        if refusal := self.database.refusal(refused_seconds):
            raise refusal
        self.take_turn("write for readiness", every_seconds)

    def close(self) -> None:
        """Close every connection."""
        self.database.close()
