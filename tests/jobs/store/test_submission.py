"""Submitting jobs, and the requests that are allowed afterwards."""

from __future__ import annotations

import statistics
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from gkd_core.config import run_config
from jobs.job import Desired, Job, State
from jobs.specs.spec import Resolved, job_spec
from jobs.store.store import IdempotencyConflict, NotAllowed, Store, UnknownJob


def test_the_same_key_and_spec_give_the_same_job(store: Store, ask: Any) -> None:
    first = ask.submit(key="k", name="cells")
    assert ask.submit(key="k", name="cells") == first
    assert len(store.reading.list_jobs().items) == 1


def test_the_same_key_with_another_spec_is_refused(store: Store, ask: Any) -> None:
    first = ask.submit(key="k", name="cells")
    with pytest.raises(IdempotencyConflict, match=f"'k' belongs to job {first.id}"):
        ask.submit(key="k", name="other cells")
    assert len(store.reading.list_jobs().items) == 1


def test_without_a_key_every_submission_is_a_job(store: Store, ask: Any) -> None:
    assert ask.submit().id != ask.submit().id
    assert len(store.reading.list_jobs().items) == 2


def test_fifty_submissions_with_one_key_make_one_job(store: Store, ask: Any) -> None:
    with ThreadPoolExecutor(50) as pool:
        ids = set(pool.map(lambda _: ask.submit(key="k").id, range(50)))
    assert len(ids) == 1
    assert len(store.reading.list_jobs().items) == 1


def test_what_a_running_job_is_asked_reaches_its_worker(store: Store, ask: Any) -> None:
    ticket = ask.running()
    job = store.submission.pause_requested(ticket.job_id)
    assert job.state is State.RUNNING
    assert job.reason == "running on ada; asked to pause"
    assert store.commands.renew(ticket) is Desired.PAUSE
    assert store.reading.events(job.id)[-1].body == {"desired": "pause"}


def test_asking_the_same_twice_is_asking_once(store: Store, ask: Any) -> None:
    ticket = ask.running()
    assert store.submission.pause_requested(ticket.job_id) == store.submission.pause_requested(ticket.job_id)
    assert store.submission.cancel_requested(ticket.job_id) == store.submission.cancel_requested(
        ticket.job_id
    )
    kinds = [event.kind for event in store.reading.events(ticket.job_id)]
    assert kinds == ["state", "state", "request", "request"]


def test_cancelling_overrules_pausing_but_not_the_other_way(store: Store, ask: Any) -> None:
    ticket = ask.running()
    store.submission.pause_requested(ticket.job_id)
    assert store.submission.cancel_requested(ticket.job_id).desired is Desired.CANCEL
    with pytest.raises(NotAllowed) as refusal:
        store.submission.pause_requested(ticket.job_id)
    assert refusal.value.actions == ("cancel",)


def test_a_resumed_job_runs_again_and_nothing_is_asked_of_it_any_more(store: Store, ask: Any) -> None:
    ticket = ask.running()
    store.submission.pause_requested(ticket.job_id)
    store.commands.pause(ticket)
    resumed = store.submission.resume(ticket.job_id)
    assert (resumed.state, resumed.desired) == (State.QUEUED, Desired.RUN)
    assert ask.claim(resumed).attempt == 2
    assert store.commands.renew(store.reading.get(ticket.job_id).ticket) is Desired.RUN


def test_jobs_that_wait_for_a_cancelled_one_fail(store: Store, ask: Any) -> None:
    teacher = ask.submit()
    student = ask.submit_student(teacher)
    grandchild = ask.submit_student(student)
    store.submission.cancel_requested(teacher.id)
    for job in (store.reading.get(student.id), store.reading.get(grandchild.id)):
        assert job.state is State.FAILED
        assert job.failure is not None
    assert (
        f"job {teacher.id}, which it waited for, is cancelled"
        in store.reading.get(student.id).failure.message
    )


@pytest.mark.parametrize("job_id", ["nothing", "", "job\0", "\ud800", "' OR 1=1 --"])
def test_an_unknown_job_is_unknown_to_every_verb(store: Store, ask: Any, job_id: str) -> None:
    ask.submit()
    for verb in (store.reading.get, store.reading.events, store.reading.artifacts, store.reading.report):
        with pytest.raises(UnknownJob, match="there is no job"):
            verb(job_id)
    for verb in (
        store.submission.cancel_requested,
        store.submission.pause_requested,
        store.submission.resume,
    ):
        with pytest.raises(UnknownJob, match="there is no job"):
            verb(job_id)
    assert store.commands.claim(job_id, "ada") is None


def test_a_request_to_pause_can_be_taken_back_while_the_job_runs(store: Store, ask: Any) -> None:
    ticket = ask.running()
    assert store.submission.pause_requested(ticket.job_id).actions == ("resume", "cancel")
    job = store.submission.resume(ticket.job_id)
    assert (job.state, job.desired, job.reason) == (State.RUNNING, Desired.RUN, "running on ada")
    assert store.commands.renew(ticket) is Desired.RUN
    assert [event.body.get("desired") for event in store.reading.events(job.id)][-2:] == ["pause", "run"]
    with pytest.raises(NotAllowed):
        store.submission.resume(ticket.job_id)


def test_a_pause_that_is_taken_back_too_late_queues_the_job_again(store: Store, ask: Any) -> None:
    ticket = ask.running()
    store.submission.pause_requested(ticket.job_id)
    store.submission.resume(ticket.job_id)
    assert store.commands.pause(ticket) == (ticket.job_id,), "its engine has stopped by now; notify of it"
    job = store.reading.get(ticket.job_id)
    assert (job.state, job.attempts[0].outcome) == (State.QUEUED, "requeued")


def test_a_cancel_that_comes_while_a_job_pauses_is_not_lost(store: Store, ask: Any) -> None:
    ticket = ask.running()
    store.submission.pause_requested(ticket.job_id)
    store.submission.cancel_requested(ticket.job_id)
    assert store.commands.pause(ticket) == ()
    assert store.reading.get(ticket.job_id).state is State.CANCELLED


# ---- again -----------------------------------------------------------------------------------------------


def again(store: Store, job: Job, key: str | None = None) -> Job:
    resolved = Resolved(config=run_config.validate_python(job.resolved))
    return store.submission.retry(job.id, job_spec.validate_python(job.spec), resolved, idempotency_key=key)


@pytest.mark.parametrize("state", [State.FAILED, State.CANCELLED])
def test_a_retry_is_a_new_job_and_the_old_one_stays_as_it_is(store: Store, ask: Any, state: State) -> None:
    old = ask.job_in(state)
    assert "retry" in old.actions
    new = again(store, old)
    assert (new.state, new.retry_of, new.spec, new.resolved) == (State.QUEUED, old.id, old.spec, old.resolved)
    assert new.id != old.id
    assert store.reading.get(old.id) == old


@pytest.mark.parametrize("state", [State.QUEUED, State.RUNNING, State.PAUSED, State.SUCCEEDED])
def test_what_has_not_gone_wrong_is_not_done_again(store: Store, ask: Any, state: State) -> None:
    with pytest.raises(NotAllowed, match="cannot retry"):
        again(store, ask.job_in(state))


def test_one_key_makes_one_retry(store: Store, ask: Any) -> None:
    old = ask.job_in(State.FAILED)
    with ThreadPoolExecutor(8) as pool:
        ids = set(pool.map(lambda _: again(store, old, "k").id, range(8)))
    assert len(ids) == 1
    assert len(store.reading.list_jobs().items) == 2
    with pytest.raises(IdempotencyConflict):
        again(store, ask.job_in(State.FAILED), "k")
    with pytest.raises(IdempotencyConflict):
        ask.submit(key="k")


def test_cancelling_is_quick_in_every_state(store: Store, ask: Any) -> None:
    for state in (State.QUEUED, State.RUNNING, State.PAUSED):
        seconds = []
        for job in [ask.job_in(state) for _ in range(20)]:
            started = time.monotonic()
            store.submission.cancel_requested(job.id)
            seconds.append(time.monotonic() - started)
        assert statistics.median(seconds) < 0.2, state
