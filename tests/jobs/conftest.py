"""Jobs for tests: a resolved spec that needs no pictures, and jobs brought into any state."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from gkd_core.config import DataConfig, DistillRun, Split, TeacherConfig, TrainRun
from gkd_core.errors import Failure, FailureClass
from gkd_core.events import Progress
from jobs.job import Job, State, Ticket
from jobs.keys import DEFAULT_TENANT
from jobs.specs.spec import Resolved, job_spec
from jobs.store.store import Store

SPLIT = Split(images="/data/images", annotations="/data/train.json")
DATA = DataConfig(format="coco", train=SPLIT, val=SPLIT, classes=("cat", "dog"))


@dataclass(frozen=True)
class Asker:
    """Submits jobs as people do, and claims them as workers do."""

    store: Store

    def submit(
        self,
        *,
        key: str | None = None,
        warnings: tuple[str, ...] = (),
        tenant: str = DEFAULT_TENANT,
        **fields: Any,
    ) -> Job:
        spec = job_spec.validate_python({"kind": "train", "data": "cells"} | fields)
        resolved = Resolved(config=TrainRun(data=DATA), warnings=warnings)
        return self.store.submission.submit(spec, resolved, idempotency_key=key, tenant=tenant)[0]

    def submit_student(self, teacher: Job, **fields: Any) -> Job:
        """Submit a job that waits for its teacher."""
        weights = TeacherConfig(weights=f"job:{teacher.id}")
        spec = {"kind": "distill", "data": "cells", "teacher": {"weights": weights.weights}} | fields
        resolved = Resolved(config=DistillRun(data=DATA, teacher=weights), waits_for=(teacher.id,))
        return self.store.submission.submit(job_spec.validate_python(spec), resolved)[0]

    def claim(self, job: Job, worker: str = "ada") -> Ticket:
        claim = self.store.commands.claim(job.id, worker)
        assert claim is not None
        return claim.ticket

    def running(self, worker: str = "ada") -> Ticket:
        """Return the ticket of a running job."""
        return self.claim(self.submit(), worker)

    def job_in(self, state: State) -> Job:
        """Return a job that was brought into this state in the usual way."""
        job = self.submit()
        if state is not State.QUEUED:
            self._drive(self.claim(job), state)
        return self.store.reading.get(job.id)

    def _drive(self, ticket: Ticket, state: State) -> None:
        match state:
            case State.PAUSED:
                self.store.submission.pause_requested(ticket.job_id)
                self.store.commands.pause(ticket)
            case State.SUCCEEDED:
                self.store.commands.succeed(ticket)
            case State.FAILED:
                self.store.commands.fail(ticket, broken("bug", FailureClass.BUG))
            case State.CANCELLED:
                self.store.commands.cancel(ticket)


def progress(step: int = 1, *, saved: bool = False) -> Progress:
    return Progress(run="model", epoch=0, epochs=1, step=step, steps=100, fraction=step / 100, saved=saved)


def broken(message: str = "disk full", cls: FailureClass = FailureClass.INFRASTRUCTURE) -> Failure:
    return Failure(failure_class=cls, message=message, hint="Look at the machine.")


@pytest.fixture
def ask(store: Store) -> Asker:
    """Return an asker on the store, on SQLite and on PostgreSQL."""
    return Asker(store)


@pytest.fixture
def make_progress() -> Callable[..., Progress]:
    """Return a function that makes progress events."""
    return progress


@pytest.fixture
def make_failure() -> Callable[..., Failure]:
    """Return a function that makes failures, of infrastructure by default."""
    return broken


@pytest.fixture
def asker() -> type[Asker]:
    """Return the class of askers, for tests with a store of their own."""
    return Asker


@pytest.fixture(params=["sqlite", "postgresql"])
def empty_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Return the URL of a database without tables."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'empty.db'}"
    return str(request.getfixturevalue("new_postgres_url"))
