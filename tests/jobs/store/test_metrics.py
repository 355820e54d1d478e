"""Counts over the life of the service, and its present state."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any

import pytest
from sqlalchemy import text

from gkd_core.errors import Failure, FailureClass
from gkd_core.events import Checkpoint
from jobs import metrics as counts
from jobs.job import Artifact, State
from jobs.metrics import Count, Counted
from jobs.presence import Presence
from jobs.store.counters import tally
from jobs.store.store import StaleTicket, Store


def counted(store: Store, count: Count) -> dict[tuple[str, ...], int]:
    figures = store.metrics.figures()
    return {labels: each.number for (name, labels), each in figures.counts.items() if name == count.name}


def test_a_new_service_has_counted_nothing(store: Store):
    figures = store.metrics.figures()
    assert (figures.jobs, figures.oldest_seconds, figures.workers, figures.counts) == ({}, {}, {}, {})
    assert store.metrics.published_bytes() == 0


def test_jobs_are_told_by_state_and_queue(store: Store, ask: Any):
    for state in State:
        ask.job_in(state)
    ask.submit(resources={"gpus": 1})
    figures = store.metrics.figures()
    assert figures.jobs == {(state.value, "cpu"): 1 for state in State} | {("queued", "gpu"): 1}


def test_the_oldest_wait_is_that_of_jobs_that_wait(store: Store, ask: Any):
    old, running = ask.submit(), ask.submit()
    ask.claim(running)
    with store.database.write() as connection:
        connection.execute(text("UPDATE jobs SET queued_at = queued_at - 100 WHERE id = :id"), {"id": old.id})
        connection.execute(text("UPDATE jobs SET queued_at = 0 WHERE id = :id"), {"id": running.id})
    assert store.metrics.figures().oldest_seconds == {"cpu": pytest.approx(100, abs=30)}


def test_what_comes_in_and_what_becomes_of_it_is_counted(store: Store, ask: Any):
    for state in (State.SUCCEEDED, State.FAILED, State.CANCELLED, State.PAUSED):
        ask.job_in(state)
    assert counted(store, counts.SUBMITTED) == {("train",): 4}
    assert counted(store, counts.ENDED) == {("train", s): 1 for s in ("succeeded", "failed", "cancelled")}
    outcomes = ("succeeded", "failed", "cancelled", "paused")
    assert counted(store, counts.ATTEMPT_SECONDS) == {("train", outcome): 1 for outcome in outcomes}
    assert counted(store, counts.QUEUE_SECONDS) == {("cpu",): 4}


def test_a_count_stays_when_the_job_is_deleted(store: Store, ask: Any):
    job = ask.job_in(State.SUCCEEDED)
    store.editing.delete(job.id)
    assert counted(store, counts.ENDED) == {("train", "succeeded"): 1}
    assert counted(store, counts.EVENTS)[("",)] == 3, "submitted, running, succeeded"


def test_a_job_that_fails_with_its_teacher_is_counted_too(store: Store, ask: Any):
    teacher = ask.submit()
    ask.submit_student(teacher)
    store.commands.fail(ask.claim(teacher), Failure(failure_class=FailureClass.BUG, message="x"))
    assert counted(store, counts.ENDED) == {("train", "failed"): 1, ("distill", "failed"): 1}


def test_waiting_and_running_are_measured(store: Store, ask: Any):
    job = ask.submit()
    with store.database.write() as connection:
        connection.execute(text("UPDATE jobs SET queued_at = queued_at - 200"))
    ticket = ask.claim(job)
    with store.database.write() as connection:
        connection.execute(text("UPDATE attempts SET started_at = started_at - 7000"))
    store.commands.succeed(ticket)
    found = store.metrics.figures().counts
    waited = found[counts.QUEUE_SECONDS.name, ("cpu",)]
    assert (waited.by_bound, waited.total) == ({300.0: 1}, pytest.approx(200, abs=30))
    ran = found[counts.ATTEMPT_SECONDS.name, ("train", "succeeded")]
    assert (ran.by_bound, ran.total) == ({14_400.0: 1}, pytest.approx(7000, abs=30))


def test_each_way_to_lose_a_job_is_counted(store: Store, ask: Any):
    store.policy.lease_seconds = 0.01
    ask.running("grace")
    time.sleep(0.05)
    store.recovery.sweep()
    ask.running("ada")
    store.recovery.release("ada")
    assert counted(store, counts.LEASES_LOST) == {("expired",): 1, ("killed",): 1}
    assert counted(store, counts.ATTEMPT_SECONDS) == {("train", "lost"): 2}
    assert counted(store, counts.SWEEPS) == {("",): 1}


def test_a_stale_write_is_refused_and_counted(store: Store, ask: Any):
    ticket = ask.running("ada")
    store.recovery.release("ada")
    for write in (store.commands.renew, store.commands.succeed, store.commands.cancel, store.commands.pause):
        with pytest.raises(StaleTicket):
            write(ticket)
    with pytest.raises(StaleTicket):
        store.commands.requeue(ticket, "shutting down")
    verbs = ("renew", "succeed", "cancel", "pause", "requeue")
    assert counted(store, counts.STALE_WRITES) == {(verb,): 1 for verb in verbs}


@pytest.mark.parametrize("end", ["succeed", "cancel", "pause", "requeue", "fail"])
def test_a_write_after_the_worker_itself_ended_the_attempt_is_not_counted(
    store: Store, ask: Any, make_failure: Any, end: str
):
    ticket = ask.running()
    more = {"requeue": ["shutting down"], "fail": [make_failure()]}.get(end, [])
    getattr(store.commands, end)(ticket, *more)
    for late in (store.commands.renew, store.commands.succeed):
        with pytest.raises(StaleTicket):
            late(ticket)
    if end == "requeue":
        ask.claim(store.reading.get(ticket.job_id), "bob")
        with pytest.raises(StaleTicket):
            store.commands.renew(ticket)
    assert counted(store, counts.STALE_WRITES) == {}


@pytest.mark.parametrize("wanted", ["cancel", "pause"])
def test_a_write_about_a_job_that_was_taken_back_is_counted_wherever_the_job_went(
    store: Store, ask: Any, wanted: str
):
    ticket = ask.running("ada")
    getattr(store.submission, f"{wanted}_requested")(ticket.job_id)
    store.recovery.release("ada")
    assert store.reading.get(ticket.job_id).attempts[0].outcome == "lost"
    with pytest.raises(StaleTicket):
        store.commands.renew(ticket)
    assert counted(store, counts.STALE_WRITES) == {("renew",): 1}


def test_what_is_undone_counted_nothing(store: Store):
    with suppress(ZeroDivisionError), store.database.write() as connection:
        tally(connection, counts.SWEEPS)
        raise ZeroDivisionError
    assert counted(store, counts.SWEEPS) == {}


def test_folding_changes_no_number_however_many_do_it(store: Store):
    def count(number: int) -> None:
        with store.database.write() as connection:
            tally(connection, counts.QUEUE_SECONDS, "cpu", size=float(number))
        store.metrics.fold_counts()

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(count, range(40)))
    store.metrics.fold_counts()
    found = store.metrics.figures().counts[counts.QUEUE_SECONDS.name, ("cpu",)]
    assert found.by_bound == {1.0: 2, 5.0: 4, 15.0: 10, 60.0: 24}
    assert found.total == sum(range(40))
    with store.database.read() as connection:
        assert connection.scalar(text("SELECT count(*) FROM counts")) == 4


def test_sizes_are_counted_up_to_their_bounds():
    count = Count("x", "x", bounds=(1.0, 5.0))
    assert [count.bound(size) for size in (0.0, 1.0, 1.5, 5.0, 5.1)] == [1.0, 1.0, 5.0, 5.0, None]
    seen = Counted({1.0: 2, 5.0: 3, None: 4}, 100.0)
    assert [seen.upto(1.0), seen.upto(5.0), seen.number] == [2, 5, 9]


def test_workers_are_told_by_what_they_do(store: Store, ask: Any):
    for name in ("ada", "grace"):
        store.workers.appear(Presence(name=name, host="node", version="1", queues=("cpu",)))
    ask.running("ada")
    assert store.metrics.figures().workers == {"busy": 1, "idle": 1}


def test_a_file_that_two_jobs_published_is_there_once(store: Store, ask: Any):
    for sha256, size in (("a" * 64, 5), ("a" * 64, 5), ("b" * 64, 7)):
        event = Checkpoint(run="model", epoch=0, step=1, file="x", size=size, sha256=sha256, best=True)
        file = Artifact(name="x", size=size, sha256=sha256, created_at=datetime.now(UTC))
        store.commands.record(ask.running(), event, 1, file)
    assert store.metrics.published_bytes() == 12
