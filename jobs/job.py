"""The job as a frozen value, its states, and the table of its transitions.

queued -----> running -----> succeeded | failed | cancelled        (end states never change)
  ^  |           |
  |  |           +---------> paused  ---> queued  (resume)
  |  |           +---------> queued       (worker lost, shutting down, or retried)
  |  +---------------------> cancelled
paused --------------------> cancelled
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Annotated, Any, NamedTuple

from pydantic import BaseModel, ConfigDict, GetJsonSchemaHandler, computed_field
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema

from gkd_core.errors import Failure
from gkd_core.events import events as engine_events


class State(StrEnum):
    """The state of a job."""

    QUEUED = "queued"
    RUNNING = "running"
    PAUSED = "paused"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"


MOVES: dict[State, frozenset[State]] = {
    State.QUEUED: frozenset({State.RUNNING, State.CANCELLED, State.FAILED}),
    State.RUNNING: frozenset({State.SUCCEEDED, State.FAILED, State.CANCELLED, State.PAUSED, State.QUEUED}),
    State.PAUSED: frozenset({State.QUEUED, State.CANCELLED}),
    State.SUCCEEDED: frozenset(),
    State.FAILED: frozenset(),
    State.CANCELLED: frozenset(),
}
"""Every allowed transition. queued -> failed happens when the job that it waits for ended without a model."""

QUEUES = {"cpu": 0, "gpu": 1, "gpu2": 2, "gpu4": 4, "gpu8": 8}
"""Number of GPUs that a worker needs to listen to a queue, by name, fewest first."""


def queue_for(gpus: int) -> str:
    """Return the queue of a job that needs 0 to 8 GPUs: the first one with enough."""
    return next(name for name, has in QUEUES.items() if has >= gpus)


def queues_heard(gpus: int) -> list[str]:
    """Return the queues that a worker with so many GPUs can serve."""
    return [name for name, needed in QUEUES.items() if needed <= gpus]


END_STATES = frozenset(state for state, moves in MOVES.items() if not moves)


class Desired(StrEnum):
    """What a user has requested of a running job; a request, not a state."""

    RUN = "run"
    PAUSE = "pause"
    CANCEL = "cancel"


class Ticket(NamedTuple):
    """The right to write about a running job. Every write of a worker names it; a later attempt makes it stale."""

    job_id: str
    attempt: int


class Notification(NamedTuple):
    """What a notification carries about a queued job."""

    id: str
    queue: str
    priority: int


class Attempt(BaseModel):
    """One attempt to run a job."""

    model_config = ConfigDict(frozen=True, use_attribute_docstrings=True)

    attempt: int
    worker: str
    started_at: datetime
    ended_at: datetime | None = None
    outcome: str | None = None
    """succeeded, failed, cancelled, paused, requeued, lost (its lease expired), or None while it runs."""
    message: str = ""


class Artifact(BaseModel):
    """A published file of a job."""

    model_config = ConfigDict(frozen=True, use_attribute_docstrings=True)

    name: str
    size: int
    """Bytes."""
    sha256: str
    metrics: dict[str, float] = {}
    created_at: datetime


class _SomeEvent:
    """Annotation for JSON schemas: the body of an engine's event has that event's schema, any other body is free."""

    @staticmethod
    def __get_pydantic_json_schema__(schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        return {"anyOf": [handler(engine_events.core_schema), handler(schema)]}


class StoredEvent(BaseModel):
    """An event with its number in the job: 1, 2, 3, ... without gaps."""

    model_config = ConfigDict(frozen=True, use_attribute_docstrings=True)

    number: int
    attempt: int
    time: datetime
    kind: str
    """An engine event's kind; "state" for a transition, with `state` and `reason` in its body, and in the
    first one of a job `warnings`, if there are any; "request" when a user asked a running job to pause or
    cancel or withdrew that, with `desired` in its body; or "change" when a user changed its name, tags or
    priority, with the new values."""
    body: Annotated[dict[str, Any], _SomeEvent]


class Job(BaseModel):
    """A job as clients see it."""

    model_config = ConfigDict(frozen=True, use_attribute_docstrings=True)

    id: str
    name: str
    kind: str
    state: State
    desired: Desired
    reason: str
    """Why the job is in its state, in one sentence."""
    priority: int
    tags: dict[str, str]
    queue: str
    """One of `QUEUES`: how many GPUs a worker must have."""
    attempt: int
    """0 before the first claim."""
    worker: str | None
    lease_until: datetime | None
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None
    waits_for: tuple[str, ...]
    """Jobs that must succeed first."""
    retry_of: str | None = None
    """The job that this one retries; it resumes from that one's checkpoint, if any is left."""
    spec: dict[str, Any]
    """The spec as it was sent, with later changes of name, tags and priority."""
    resolved: dict[str, Any]
    """The engine's config with every default filled in; `job:<id>` stands for a teacher that does not exist
    yet."""
    progress: dict[str, Any] | None
    """The latest progress event."""
    evaluation: dict[str, Any] | None
    """The latest evaluation event."""
    warnings: tuple[str, ...] = ()
    """Warnings from the check before the job was queued; events have them, too."""
    failure: Failure | None
    log_tail: str = ""
    """The end of the log of a failed job."""
    attempts: tuple[Attempt, ...]

    @property
    def ticket(self) -> Ticket:
        """Return the ticket of the current attempt."""
        return Ticket(self.id, self.attempt)

    @computed_field  # type: ignore[prop-decorator]
    @property
    def actions(self) -> tuple[str, ...]:
        """Return the actions that the job's state allows now. Cloning is always allowed and not listed."""
        return {
            State.QUEUED: ("cancel",),
            State.RUNNING: _OF_RUNNING[self.desired],
            State.PAUSED: ("resume", "cancel"),
            State.SUCCEEDED: ("delete",),
            State.FAILED: ("retry", "delete"),
            State.CANCELLED: ("retry", "delete"),
        }[self.state]

    @computed_field  # type: ignore[prop-decorator]
    @property
    def estimated_end(self) -> datetime | None:
        """Return the estimated end of a running job by its latest progress; None while it is unknown."""
        if self.state is not State.RUNNING or not self.progress or not self.attempts:
            return None
        told, left = float(self.progress.get("time") or 0.0), self.progress.get("seconds_left")
        if (
            left is None or told < self.attempts[-1].started_at.timestamp()
        ):  # it belongs to an earlier attempt
            return None
        return datetime.fromtimestamp(told, UTC) + timedelta(seconds=min(left, _LONGEST_SECONDS))


_OF_RUNNING = {
    Desired.RUN: ("cancel", "pause"),
    Desired.PAUSE: ("resume", "cancel"),  # resuming withdraws the request
    Desired.CANCEL: ("cancel",),
}
_LONGEST_SECONDS = 10 * 365 * 86_400.0
"""Maximum of an estimate; the first steps of a run can suggest anything, and `datetime` has a maximum."""
