"""Every command in every state: it makes its transition, or refuses and changes nothing."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from gkd_core.errors import Failure, FailureClass
from gkd_core.events import Warning
from jobs.job import END_STATES, MOVES, Job, State
from jobs.store.store import NotAllowed, StaleTicket, Store

FAILURE = Failure(failure_class=FailureClass.BUG, message="a defect")

VERBS: dict[str, Callable[[Store, Job], Any]] = {
    "claim": lambda store, job: store.commands.claim(job.id, "ada"),
    "renew": lambda store, job: store.commands.renew(job.ticket),
    "record": lambda store, job: store.commands.record(job.ticket, Warning(message="hot"), 10),
    "succeed": lambda store, job: store.commands.succeed(job.ticket),
    "fail": lambda store, job: store.commands.fail(job.ticket, FAILURE),
    "cancel": lambda store, job: store.commands.cancel(job.ticket),
    "pause": lambda store, job: store.commands.pause(job.ticket, reason="paused: no space", needs_free=1),
    "requeue": lambda store, job: store.commands.requeue(job.ticket, "shutting down"),
    "cancel_requested": lambda store, job: store.submission.cancel_requested(job.id),
    "pause_requested": lambda store, job: store.submission.pause_requested(job.id),
    "resume": lambda store, job: store.submission.resume(job.id),
}

LEADS_TO = {
    (State.QUEUED, "claim"): State.RUNNING,
    (State.QUEUED, "cancel_requested"): State.CANCELLED,
    (State.RUNNING, "renew"): State.RUNNING,
    (State.RUNNING, "record"): State.RUNNING,
    (State.RUNNING, "succeed"): State.SUCCEEDED,
    (State.RUNNING, "fail"): State.FAILED,
    (State.RUNNING, "cancel"): State.CANCELLED,
    (State.RUNNING, "pause"): State.PAUSED,
    (State.RUNNING, "requeue"): State.QUEUED,
    (State.RUNNING, "cancel_requested"): State.RUNNING,
    (State.RUNNING, "pause_requested"): State.RUNNING,
    (State.PAUSED, "cancel_requested"): State.CANCELLED,
    (State.PAUSED, "resume"): State.QUEUED,
}
"""The state after each allowed pair of command and state; every other pair is refused."""

REFUSED = [(state, verb) for state in State for verb in VERBS if (state, verb) not in LEADS_TO]
ASKED = {"cancel_requested": "cancel", "pause_requested": "pause", "resume": "resume"}


@pytest.mark.parametrize(("state", "verb"), LEADS_TO)
def test_an_allowed_verb_makes_its_move_and_writes_one_event(
    store: Store, ask: Any, state: State, verb: str
) -> None:
    job = ask.job_in(state)
    before = len(store.reading.events(job.id))
    VERBS[verb](store, job)
    after = store.reading.get(job.id)
    assert after.state is LEADS_TO[state, verb]
    moves = [event for event in store.reading.events(job.id)[before:] if event.kind == "state"]
    if after.state is state:
        assert moves == []
    else:
        assert after.state in MOVES[state]
        assert [event.body["state"] for event in moves] == [after.state]


@pytest.mark.parametrize(("state", "verb"), REFUSED)
def test_a_refused_verb_leaves_no_trace(store: Store, ask: Any, state: State, verb: str) -> None:
    job = ask.job_in(state)
    events = store.reading.events(job.id)
    if verb == "claim":
        assert VERBS[verb](store, job) is None
    elif verb in ASKED:
        with pytest.raises(NotAllowed, match=f"cannot {ASKED[verb]} job {job.id}: it is {state}") as refusal:
            VERBS[verb](store, job)
        assert refusal.value.actions == job.actions
    else:
        with pytest.raises(StaleTicket, match=f"no longer holds job {job.id}"):
            VERBS[verb](store, job)
    assert store.reading.get(job.id) == job
    assert store.reading.events(job.id) == events


def test_the_verbs_make_exactly_the_moves_of_the_table() -> None:
    made = {(state, to) for (state, _), to in LEADS_TO.items() if to is not state}
    made.add((State.QUEUED, State.FAILED))  # through the failure of a job that it waited for
    assert made == {(state, to) for state, targets in MOVES.items() for to in targets}


def test_what_can_be_asked_is_what_the_job_offers(ask: Any) -> None:
    for state in State:
        offered = {verb for verb, action in ASKED.items() if action in ask.job_in(state).actions}
        assert offered == {verb for verb in ASKED if (state, verb) in LEADS_TO}


@pytest.mark.parametrize("state", sorted(END_STATES))
def test_an_ended_job_says_when_and_holds_no_lease(ask: Any, state: State) -> None:
    job = ask.job_in(state)
    assert job.finished_at >= job.started_at >= job.created_at
    assert job.worker is None
    assert job.lease_until is None
    assert job.attempts[-1].outcome == state
    assert job.attempts[-1].ended_at is not None
