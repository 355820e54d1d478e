"""In any order of commands, and with tickets of any age, the record of a job stays consistent."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from contextlib import suppress
from itertools import pairwise
from pathlib import Path
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from gkd_core.errors import Failure, FailureClass
from gkd_core.events import Progress
from jobs.job import END_STATES, MOVES, State, Ticket
from jobs.store.store import NotAllowed, StaleTicket, Store

BROKEN = Failure(failure_class=FailureClass.INFRASTRUCTURE, message="disk full")
DEFECT = Failure(failure_class=FailureClass.BUG, message="a defect")

WORKERS_SAY: list[Callable[[Store, Ticket], Any]] = [
    lambda store, ticket: store.commands.renew(ticket),
    lambda store, ticket: store.commands.succeed(ticket),
    lambda store, ticket: store.commands.cancel(ticket),
    lambda store, ticket: store.commands.pause(ticket),
    lambda store, ticket: store.commands.fail(ticket, DEFECT),
    lambda store, ticket: store.commands.requeue(ticket, "shutting down"),
    lambda store, ticket: store.commands.requeue(ticket, "disk full", failure=BROKEN),
]
PEOPLE_SAY = ["cancel_requested", "pause_requested", "resume"]


class Story(RuleBasedStateMachine):
    """Commands of people, workers and sweeps on a teacher and a student that waits for it."""

    def __init__(self, fresh: Callable[[], Store], asker: Any) -> None:
        super().__init__()
        self.store = fresh()
        ask = asker(self.store)
        teacher = ask.submit()
        self.ids = (teacher.id, ask.submit_student(teacher).id)
        self.tickets: list[Ticket] = []
        self.offset = 0

    def teardown(self) -> None:
        self.store.close()

    @rule(job=st.integers(0, 1), worker=st.sampled_from(["ada", "bob"]))
    def a_notification_is_heard(self, job: int, worker: str) -> None:
        if claim := self.store.commands.claim(self.ids[job], worker):
            self.tickets.append(claim.ticket)

    @precondition(lambda self: self.tickets)
    @rule(data=st.data(), say=st.sampled_from(WORKERS_SAY))
    def a_worker_speaks(self, data: st.DataObject, say: Callable[[Store, Ticket], Any]) -> None:
        with suppress(StaleTicket):
            say(self.store, data.draw(st.sampled_from(self.tickets)))

    @precondition(lambda self: self.tickets)
    @rule(data=st.data(), saved=st.booleans())
    def an_event_is_recorded(self, data: st.DataObject, saved: bool) -> None:
        self.offset += 1
        event = Progress(run="model", epoch=0, epochs=1, step=1, steps=1, fraction=0, saved=saved)
        with suppress(StaleTicket):
            self.store.commands.record(data.draw(st.sampled_from(self.tickets)), event, self.offset)

    @rule(job=st.integers(0, 1), say=st.sampled_from(PEOPLE_SAY))
    def a_person_speaks(self, job: int, say: str) -> None:
        with suppress(NotAllowed):
            getattr(self.store.submission, say)(self.ids[job])

    @rule(worker=st.sampled_from(["ada", "bob"]))
    def a_worker_starts_again(self, worker: str) -> None:
        self.store.recovery.release(worker)

    @rule()
    def it_is_swept(self) -> None:
        self.store.recovery.sweep()

    @invariant()
    def the_story_is_true(self) -> None:
        for job_id in self.ids:
            job, events = self.store.reading.get(job_id), self.store.reading.events(job_id)
            assert [event.number for event in events] == list(range(1, len(events) + 1))
            states = [State(event.body["state"]) for event in events if event.kind == "state"]
            assert states[-1] is job.state
            assert all(after in MOVES[before] for before, after in pairwise(states))
            assert len(job.attempts) == job.attempt == states.count(State.RUNNING)
            assert [attempt.outcome for attempt in job.attempts].count(None) == (job.state is State.RUNNING)
            assert (job.worker is not None) == (job.lease_until is not None) == (job.state is State.RUNNING)
            assert (job.finished_at is not None) == (job.state in END_STATES)
            assert (job.failure is not None) == (job.state is State.FAILED)

    @invariant()
    def a_student_never_starts_without_its_teacher(self) -> None:
        teacher, student = (self.store.reading.get(job_id) for job_id in self.ids)
        if student.attempt:
            assert teacher.state is State.SUCCEEDED
        if teacher.state in (State.FAILED, State.CANCELLED):
            assert student.state in (State.FAILED, State.CANCELLED)


def test_any_order_of_verbs_keeps_the_story_true(tmp_path: Path, sqlite_template: Path, asker: Any) -> None:
    path = tmp_path / "gkd.db"

    def fresh() -> Store:
        for leftover in tmp_path.glob("gkd.db*"):
            leftover.unlink()
        shutil.copy(sqlite_template, path)
        return Store(f"sqlite:///{path}")

    run_state_machine_as_test(
        lambda: Story(fresh, asker),
        settings=settings(
            max_examples=10, stateful_step_count=20, deadline=None, derandomize=True, database=None
        ),
    )
