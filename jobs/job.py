"""What a job is: a frozen value, its states, and the one table of its moves.

queued -----> running -----> succeeded | failed | cancelled        (end states never change)
  ^  |           |
  |  |           +---------> paused  ---> queued  (resume)
  |  |           +---------> queued       (worker lost, shutting down, or tried again)
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
    """Where a job is."""

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
"""Every allowed move. queued -> failed happens when the job that it waits for ended without a model."""

QUEUES = {"cpu": 0, "gpu": 1, "gpu2": 2, "gpu4": 4, "gpu8": 8}
"""How many GPUs a worker must have to hear a queue, by name, fewest first."""


def queue_for(gpus: int) -> str:
    """The queue of a job that needs so many GPUs, 0 to 8: the first that has enough."""
    return next(name for name, has in QUEUES.items() if has >= gpus)


def queues_heard(gpus: int) -> list[str]:
    """The queues whose jobs find enough GPUs on a worker that has so many."""
    return [name for name, needed in QUEUES.items() if needed <= gpus]


END_STATES = frozenset(state for state, moves in MOVES.items() if not moves)


class Desired(StrEnum):
    """What somebody asked of a running job; a request, not a state."""

    RUN = "run"
    PAUSE = "pause"
    CANCEL = "cancel"


class Ticket(NamedTuple):
    """The right to write about a running job. Every write of a worker names it; a later attempt makes it stale."""

    job_id: str
    attempt: int


class Notification(NamedTuple):
    """What a notification for a queued job needs to know of it."""

    id: str
    queue: str
    priority: int


class Attempt(BaseModel):
    """One try at running a job."""

    model_config = ConfigDict(frozen=True, use_attribute_docstrings=True)

    attempt: int
    worker: str
    started_at: datetime
    ended_at: datetime | None = None
    outcome: str | None = None
    """succeeded, failed, cancelled, paused, requeued, lost (its lease ran out), or None while it runs."""
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
    """Says in JSON schemas what the body of an engine's event looks like; any other body may be anything."""

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
    """An engine event's kind; "state" for a move, with `state` and `reason` in its body, and in the first one of a job
    `warnings`, where there are any; "request" when somebody asked a running job to pause or cancel or took that back,
    with `desired` in its body; or "change" when somebody changed its name, tags or priority, with what they are now."""
    body: Annotated[dict[str, Any], _SomeEvent]


class Job(BaseModel):
    """A job as everybody sees it."""

    model_config = ConfigDict(frozen=True, use_attribute_docstrings=True)

    id: str
    name: str
    kind: str
    state: State
    desired: Desired
    reason: str
    """Why the job is where it is, in one sentence."""
    priority: int
    tags: dict[str, str]
    queue: str
    """One of `QUEUES`: what a worker must have."""
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
    """The job that this one does again; it goes on from where that one was, if anything of that was left."""
    spec: dict[str, Any]
    """As it was sent, with name, tags and priority as they were changed since."""
    resolved: dict[str, Any]
    """The engine's config with every default filled in; `job:<id>` still stands for a teacher that is not there yet."""
    progress: dict[str, Any] | None
    """The latest progress event."""
    evaluation: dict[str, Any] | None
    """The latest evaluation event."""
    warnings: tuple[str, ...] = ()
    """What was found when the job was checked before it was queued, and stops nothing; events say the same."""
    failure: Failure | None
    log_tail: str = ""
    """The end of the log of a job that failed."""
    attempts: tuple[Attempt, ...]

    @property
    def ticket(self) -> Ticket:
        """The ticket of the current attempt."""
        return Ticket(self.id, self.attempt)

    @computed_field  # type: ignore[prop-decorator]
    @property
    def actions(self) -> tuple[str, ...]:
        """What may be asked of the job now. Cloning it may always be asked for, and asks nothing of it."""
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
        """When a running job will probably be done, by its latest progress; None while nobody can say."""
        if self.state is not State.RUNNING or not self.progress or not self.attempts:
            return None
        told, left = float(self.progress.get("time") or 0.0), self.progress.get("seconds_left")
        if left is None or told < self.attempts[-1].started_at.timestamp():  # it is an earlier attempt's
            return None
        return datetime.fromtimestamp(told, UTC) + timedelta(seconds=min(left, _LONGEST_SECONDS))


_OF_RUNNING = {
    Desired.RUN: ("cancel", "pause"),
    Desired.PAUSE: ("resume", "cancel"),  # to resume takes the request back
    Desired.CANCEL: ("cancel",),
}
_LONGEST_SECONDS = 10 * 365 * 86_400.0
"""What an estimate may come to; the first steps of a run can suggest anything, and dates end somewhere."""
