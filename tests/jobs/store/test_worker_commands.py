"""Claims, leases, events recorded exactly once, and attempts that end badly."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from datetime import UTC, datetime
from typing import Any

import pytest
from sqlalchemy import text

from gkd_core.errors import FailureClass
from gkd_core.events import Evaluation, Report, Warning
from jobs.job import Artifact, Desired, Notification, State, Ticket
from jobs.store.store import StaleTicket, Store

FILE = Artifact(name="student-best.safetensors", size=3, sha256="a" * 64, created_at=datetime.now(UTC))


@pytest.fixture
def hasty(database_url: str) -> Iterator[Store]:
    """Yield a store whose leases end at once."""
    with closing(Store(database_url, lease_seconds=0.02)) as store:
        yield store


def expire() -> None:
    time.sleep(0.05)


# ---- claims ----------------------------------------------------------------------------------------------


def test_fifty_workers_and_one_job_make_one_ticket(store: Store, ask: Any) -> None:
    job = ask.submit()
    with ThreadPoolExecutor(50) as pool:
        claims = list(pool.map(lambda number: store.commands.claim(job.id, f"worker-{number}"), range(50)))
    assert [claim.ticket for claim in claims if claim] == [Ticket(job.id, 1)]
    assert len(store.reading.get(job.id).attempts) == 1


def test_a_claim_says_what_to_run_and_where_to_read_on(store: Store, ask: Any) -> None:
    job = ask.submit()
    claim = store.commands.claim(job.id, "ada")
    assert claim is not None
    assert claim.ticket == Ticket(job.id, 1)
    assert claim.offset == 0
    assert claim.job.state is State.RUNNING
    assert claim.job.resolved == job.resolved
    assert claim.job.reason == "running on ada"
    assert claim.job.lease_until > claim.job.started_at


def test_a_job_that_waits_is_not_handed_out(store: Store, ask: Any) -> None:
    teacher = ask.submit()
    student = ask.submit_student(teacher)
    assert store.commands.claim(student.id, "ada") is None
    assert store.commands.succeed(ask.claim(teacher)) == (student.id,)
    assert store.commands.claim(student.id, "ada") is not None


def test_a_job_that_waits_for_two_is_notified_of_after_the_second(store: Store, ask: Any) -> None:
    teacher = ask.submit()
    student = ask.submit_student(teacher)
    grandchild = ask.submit_student(student)
    assert store.commands.succeed(ask.claim(teacher)) == (student.id,)
    assert store.commands.claim(grandchild.id, "ada") is None
    assert store.commands.succeed(ask.claim(student)) == (grandchild.id,)


# ---- events ----------------------------------------------------------------------------------------------


def test_an_event_its_file_and_its_offset_are_one(store: Store, ask: Any, make_progress: Any) -> None:
    ticket = ask.running()
    event = make_progress(3)
    assert store.commands.record(ticket, event, 120, FILE) is Desired.RUN
    job = store.reading.get(ticket.job_id)
    stored = store.reading.events(job.id)[-1]
    assert (stored.number, stored.kind, stored.attempt) == (3, "progress", 1)
    assert stored.body == job.progress == event.model_dump(mode="json")
    assert store.reading.artifact(job.id, FILE.name).sha256 == FILE.sha256
    store.commands.requeue(ticket, "shutting down")
    claim = store.commands.claim(job.id, "bob")
    assert claim is not None
    assert claim.offset == 120


def test_recording_again_because_the_answer_was_lost_is_harmless(
    store: Store, ask: Any, make_progress: Any
) -> None:
    ticket = ask.running()
    store.commands.record(ticket, make_progress(1), 100)
    store.commands.record(ticket, make_progress(1), 100)
    store.commands.record(ticket, make_progress(2), 200)
    steps = [event.body["step"] for event in store.reading.events(ticket.job_id) if event.kind == "progress"]
    assert steps == [1, 2]


def test_a_write_that_breaks_off_leaves_nothing(store: Store, ask: Any, make_progress: Any) -> None:
    ticket = ask.running()
    impossible = FILE.model_copy(update={"sha256": None})
    with pytest.raises(Exception, match=r"(?i)null"):
        store.commands.record(ticket, make_progress(), 100, impossible)
    assert store.reading.get(ticket.job_id).progress is None
    assert store.reading.artifacts(ticket.job_id) == ()
    store.commands.record(ticket, make_progress(), 100)
    assert [event.number for event in store.reading.events(ticket.job_id)] == [1, 2, 3]


def test_numbers_of_events_have_no_gaps_when_people_and_worker_write_at_once(
    store: Store, ask: Any, make_progress: Any
) -> None:
    ticket = ask.running()

    def write(number: int) -> None:
        if number == 20:
            store.submission.pause_requested(ticket.job_id)
        store.commands.record(ticket, make_progress(number), number)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(write, range(1, 41)))
    numbers = [event.number for event in store.reading.events(ticket.job_id)]
    assert numbers == list(range(1, len(numbers) + 1))
    assert len(numbers) == 2 + 40 + 1


def test_the_job_shows_its_latest_evaluation_and_its_report(store: Store, ask: Any) -> None:
    ticket = ask.running()
    assert store.reading.report(ticket.job_id) is None
    for epoch, ap in enumerate((0.1, 0.2)):
        metrics = {"AP": ap}
        store.commands.record(
            ticket, Evaluation(run="model", epoch=epoch, metrics=metrics, per_class={}, seconds=1), epoch + 1
        )
    store.commands.record(ticket, Report(models={}, notes=("small",)), 9)
    assert store.reading.get(ticket.job_id).evaluation["metrics"] == {"AP": 0.2}
    assert store.reading.report(ticket.job_id)["notes"] == ["small"]


def test_a_loss_that_is_no_number_can_be_recorded(store: Store, ask: Any, make_progress: Any) -> None:
    ticket = ask.running()
    diverged = make_progress().model_copy(update={"losses": {"cls": float("nan"), "box": float("inf")}})
    store.commands.record(ticket, diverged, 10)
    assert store.reading.get(ticket.job_id).progress["losses"] == {"cls": None, "box": None}
    store.commands.record(
        ticket, diverged, 20, FILE.model_copy(update={"metrics": {"AP": 0.1, "APs": float("nan")}})
    )
    assert store.reading.artifacts(ticket.job_id)[0].metrics == {"AP": 0.1}


def test_a_newer_file_replaces_one_of_the_same_name(store: Store, ask: Any, make_progress: Any) -> None:
    ticket = ask.running()
    newer = FILE.model_copy(update={"sha256": "b" * 64, "metrics": {"AP": 0.4}})
    store.commands.record(ticket, make_progress(1), 10, FILE)
    store.commands.record(ticket, make_progress(2), 20, newer)
    (kept,) = store.reading.artifacts(ticket.job_id)
    assert (kept.sha256, kept.metrics) == (newer.sha256, newer.metrics)


# ---- stale tickets ---------------------------------------------------------------------------------------


def test_a_stale_ticket_is_refused_by_every_verb(
    hasty: Store, asker: Any, make_progress: Any, make_failure: Any
) -> None:
    old = asker(hasty).running()
    expire()
    hasty.recovery.sweep()
    new = asker(hasty).claim(hasty.reading.get(old.job_id), "bob")
    before = hasty.reading.get(old.job_id), hasty.reading.events(old.job_id)
    writes: list[Callable[[], Any]] = [
        lambda: hasty.commands.renew(old),
        lambda: hasty.commands.record(old, make_progress(), 10, FILE),
        lambda: hasty.commands.succeed(old),
        lambda: hasty.commands.fail(old, make_failure()),
        lambda: hasty.commands.cancel(old),
        lambda: hasty.commands.pause(old),
        lambda: hasty.commands.requeue(old, "shutting down"),
    ]
    for write in writes:
        with pytest.raises(StaleTicket, match="attempt 1 no longer holds"):
            write()
    assert (hasty.reading.get(old.job_id), hasty.reading.events(old.job_id)) == before
    assert hasty.reading.artifacts(old.job_id) == ()
    assert hasty.commands.renew(new) is Desired.RUN


# ---- leases ----------------------------------------------------------------------------------------------


def test_a_job_whose_worker_went_silent_is_queued_again(hasty: Store, asker: Any) -> None:
    ticket = asker(hasty).running()
    expire()
    assert hasty.recovery.sweep() == (ticket.job_id,)
    job = hasty.reading.get(ticket.job_id)
    assert job.state is State.QUEUED
    assert "worker ada was lost: no sign of life for 0.02 s" in job.reason
    assert [(attempt.worker, attempt.outcome) for attempt in job.attempts] == [("ada", "lost")]


def test_a_job_whose_lease_is_renewed_is_left_alone(store: Store, ask: Any) -> None:
    ticket = ask.running()
    before = store.reading.get(ticket.job_id).lease_until
    expire()
    store.commands.renew(ticket)
    assert store.reading.get(ticket.job_id).lease_until > before
    assert store.recovery.sweep() == ()
    assert store.reading.get(ticket.job_id).state is State.RUNNING


def test_after_the_clock_was_set_back_leases_and_notifications_wait_no_longer_than_ever(
    store: Store, ask: Any
) -> None:
    running, waiting = ask.running(), ask.submit()
    an_hour_on = "UPDATE jobs SET lease_until = lease_until + 3600, ring_at = ring_at + 3600"
    with store.database.write() as connection:
        connection.execute(text(an_hour_on))
    before = store.reading.get(running.job_id).lease_until
    assert store.recovery.sweep(only_due=True) == (waiting.id,)
    shortened = before - store.reading.get(running.job_id).lease_until
    assert 3540 < shortened.total_seconds() < 3601
    assert store.reading.get(running.job_id).state is State.RUNNING


@pytest.mark.parametrize(
    ("request_it", "state"),
    [("pause_requested", State.PAUSED), ("cancel_requested", State.CANCELLED)],
    ids=["pause", "cancel"],
)
def test_what_was_asked_of_a_lost_job_is_done_by_the_sweep(
    hasty: Store, asker: Any, request_it: str, state: State
) -> None:
    ticket = asker(hasty).running()
    getattr(hasty.submission, request_it)(ticket.job_id)
    expire()
    assert hasty.recovery.sweep() == ()
    assert hasty.reading.get(ticket.job_id).state is state


def test_two_sweeps_at_once_count_a_loss_once(hasty: Store, asker: Any) -> None:
    ticket = asker(hasty).running()
    expire()
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda _: hasty.recovery.sweep(), range(8)))
    moves = [event.body["state"] for event in hasty.reading.events(ticket.job_id)]
    assert moves == ["queued", "running", "queued"]


def test_a_worker_that_starts_again_gives_back_what_it_held(store: Store, ask: Any) -> None:
    mine, other = ask.running("ada"), ask.running("bob")
    store.recovery.release("ada")
    assert store.reading.get(mine.job_id).state is State.QUEUED
    assert store.reading.get(mine.job_id).attempts[0].outcome == "lost"
    assert store.reading.get(other.job_id).state is State.RUNNING


# ---- attempts that break off -----------------------------------------------------------------------------


def test_a_job_that_breaks_off_three_times_without_saving_fails(
    store: Store, ask: Any, make_failure: Any
) -> None:
    job = ask.submit()
    states = [
        store.commands.requeue(ask.claim(job), "no disk", failure=make_failure("disk full")) for _ in range(3)
    ]
    assert states == [State.QUEUED, State.QUEUED, State.FAILED]
    failure = store.reading.get(job.id).failure
    assert failure.failure_class is FailureClass.INFRASTRUCTURE
    assert failure.message == "disk full (given up after 3 attempts in a row that saved nothing)"
    assert [attempt.outcome for attempt in store.reading.get(job.id).attempts] == [
        "requeued",
        "requeued",
        "failed",
    ]


def test_only_attempts_in_a_row_that_saved_nothing_count(
    store: Store, ask: Any, make_failure: Any, make_progress: Any
) -> None:
    job = ask.submit()
    states = []
    for number, saved in enumerate((False, False, True, False, False, True, False, False, False), start=1):
        ticket = ask.claim(job)
        store.commands.record(ticket, make_progress(number, saved=saved), number)
        states.append(store.commands.requeue(ticket, "no disk", failure=make_failure()))
    assert states == [State.QUEUED] * 8 + [State.FAILED]


def test_progress_that_saved_nothing_is_no_excuse(
    store: Store, ask: Any, make_failure: Any, make_progress: Any
) -> None:
    job = ask.submit()
    for number in range(1, 4):
        ticket = ask.claim(job)
        store.commands.record(ticket, make_progress(number), number)
        store.commands.requeue(ticket, "no disk", failure=make_failure())
    assert store.reading.get(job.id).state is State.FAILED


def test_a_worker_that_shuts_down_is_no_failure(store: Store, ask: Any) -> None:
    job = ask.submit()
    for _ in range(5):
        assert store.commands.requeue(ask.claim(job), "the worker shuts down") is State.QUEUED
    assert store.reading.get(job.id).reason.endswith("(the worker shuts down)")


def test_shutting_down_in_between_does_not_clear_the_count(store: Store, ask: Any, make_failure: Any) -> None:
    job = ask.submit()
    store.commands.requeue(ask.claim(job), "", failure=make_failure())
    store.commands.requeue(ask.claim(job), "the worker shuts down")
    store.commands.requeue(ask.claim(job), "", failure=make_failure())
    assert store.commands.requeue(ask.claim(job), "", failure=make_failure()) is State.FAILED


def test_lost_attempts_count_too(hasty: Store, asker: Any) -> None:
    job = asker(hasty).submit()
    for _ in range(3):
        asker(hasty).claim(job)
        expire()
        hasty.recovery.sweep()
    assert hasty.reading.get(job.id).state is State.FAILED
    assert "worker ada was lost" in hasty.reading.get(job.id).failure.message


def test_out_of_memory_is_tried_again_with_another_config(store: Store, ask: Any, make_failure: Any) -> None:
    job = ask.submit()
    config = job.resolved | {"train": job.resolved["train"] | {"accumulate": 2}}
    failure = make_failure("out of memory", FailureClass.OUT_OF_MEMORY)
    assert (
        store.commands.requeue(ask.claim(job), "out of memory", failure=failure, config=config)
        is State.QUEUED
    )
    assert store.reading.get(job.id).resolved["train"]["accumulate"] == 2
    assert store.reading.get(job.id).spec == job.spec


def test_a_request_that_is_still_open_is_carried_out_instead_of_queueing(store: Store, ask: Any) -> None:
    paused, cancelled = ask.running(), ask.running()
    store.submission.pause_requested(paused.job_id)
    store.submission.cancel_requested(cancelled.job_id)
    assert store.commands.requeue(paused, "the worker shuts down") is State.PAUSED
    assert store.commands.requeue(cancelled, "the worker shuts down") is State.CANCELLED


def test_a_failed_job_keeps_its_failure_and_the_end_of_its_log(
    store: Store, ask: Any, make_failure: Any
) -> None:
    ticket = ask.running()
    failure = make_failure("picture 7 is broken", FailureClass.DATA)
    store.commands.fail(ticket, failure, "Traceback\0 \ud800 ...")
    job = store.reading.get(ticket.job_id)
    assert (job.state, job.failure) == (State.FAILED, failure)
    assert job.log_tail == "Traceback\ufffd ? ..."
    assert job.reason == "failed: picture 7 is broken"
    assert job.attempts[-1].message == "failed: picture 7 is broken"


def test_jobs_that_wait_for_a_failed_one_fail_with_it(store: Store, ask: Any, make_failure: Any) -> None:
    teacher = ask.submit()
    student = ask.submit_student(teacher)
    assert store.commands.fail(ask.claim(teacher), make_failure()) == (student.id,)
    job = store.reading.get(student.id)
    assert (job.state, job.attempt) == (State.FAILED, 0)
    assert job.failure.message == f"job {teacher.id}, which it waited for, is failed and made no model"


def test_a_job_submitted_while_its_teacher_failed_fails_at_the_next_sweep(
    store: Store, ask: Any, make_failure: Any
) -> None:
    teacher = ask.submit()
    store.commands.fail(ask.claim(teacher), make_failure())
    late = ask.submit_student(teacher)
    assert store.recovery.sweep() == ()
    assert store.reading.get(late.id).state is State.FAILED


# ---- notifications -----------------------------------------------------------------------------------------------


def test_a_sweep_names_ready_jobs_first_in_line_first(store: Store, ask: Any) -> None:
    low, first, second = ask.submit(priority=1), ask.submit(), ask.submit()
    high = ask.submit(priority=9)
    ask.submit_student(low)
    ask.running()
    assert store.recovery.sweep() == (high.id, first.id, second.id, low.id)


def test_sweeps_that_repeat_do_not_pile_up_notifications(store: Store, ask: Any) -> None:
    job = ask.submit()
    assert store.recovery.sweep(only_due=True) == (), "it was notified of when it was submitted"
    assert store.recovery.sweep() == (job.id,)
    assert store.recovery.sweep(only_due=True) == ()


def test_jobs_of_a_queue_in_which_no_notification_waits_are_due_at_once(store: Store, ask: Any) -> None:
    job = ask.submit()
    assert store.recovery.sweep(only_due=True, silent=["gpu"]) == ()
    assert store.recovery.sweep(only_due=True, silent=["gpu", "cpu"]) == (job.id,)


def test_after_a_restart_every_queued_job_is_due(store: Store, ask: Any) -> None:
    held, waiting = ask.running("ada"), ask.submit()
    store.recovery.sweep()
    store.recovery.release("ada")
    assert set(store.recovery.sweep(only_due=True)) == {held.job_id, waiting.id}


def test_a_notification_that_nobody_answered_is_due_again(
    store: Store, ask: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("jobs.store.transitions.NOTIFY_AGAIN_SECONDS", 0.0)
    job = ask.submit()
    store.commands.requeue(ask.claim(job), "the worker shuts down")
    assert store.recovery.sweep(only_due=True) == (job.id,)
    assert store.recovery.sweep(only_due=True) == (), "and then not again for a while"


def test_notifications_go_to_the_front_of_each_queue_only(
    store: Store, ask: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("jobs.store.recovery._FRONT", 2)
    waiting = [ask.submit() for _ in range(4)]
    with_gpu = ask.submit(resources={"gpus": 1})
    assert store.recovery.sweep() == (waiting[0].id, waiting[1].id, with_gpu.id)
    ask.claim(waiting[0])
    assert store.recovery.sweep() == (waiting[1].id, waiting[2].id, with_gpu.id), (
        "who moves up is notified of"
    )


def test_a_job_whose_tenant_has_its_share_is_not_in_front(
    store: Store, ask: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("jobs.store.recovery._FRONT", 1)
    store.keys.set_limits("full", {"running_jobs": 1})
    store.commands.claim(ask.submit(tenant="full").id, "ada")
    held, free = ask.submit(tenant="full"), ask.submit()
    assert store.recovery.sweep() == (free.id,)
    store.keys.set_limits("full", {"running_jobs": 2})
    assert store.recovery.sweep() == (held.id,)


def test_two_sweeps_at_once_do_not_wait_for_each_other(store: Store, ask: Any) -> None:
    waiting = {ask.submit().id for _ in range(20)}
    with ThreadPoolExecutor(8) as pool:
        notified = list(pool.map(lambda _: store.recovery.sweep(only_due=False), range(16)))
    assert waiting == set().union(*notified)


def test_of_many_who_could_one_has_its_turn(store: Store) -> None:
    with ThreadPoolExecutor(8) as pool:
        taken = list(pool.map(lambda _: store.recovery.take_turn("sweep", 60), range(8)))
    assert taken.count(True) == 1
    assert store.recovery.take_turn("something else", 0)
    assert store.recovery.take_turn("something else", 60), "its time was over"
    assert not store.recovery.take_turn("something else", 60)


def test_a_turn_that_was_taken_before_the_clock_was_set_back_is_over(store: Store) -> None:
    assert store.recovery.take_turn("sweep", 3600)
    assert store.recovery.take_turn("sweep", 60), "as long as that none is taken"
    assert not store.recovery.take_turn("sweep", 60)


def test_notifications_are_for_jobs_that_are_queued_in_the_order_asked_for(store: Store, ask: Any) -> None:
    first, second, running = ask.submit(priority=1), ask.submit(), ask.running()
    found = store.recovery.notifications([second.id, running.job_id, "nobody", first.id])
    assert found == (Notification(second.id, "cpu", second.priority), Notification(first.id, "cpu", 1))


def test_recording_needs_no_lock_on_other_jobs(store: Store, ask: Any) -> None:
    tickets = [ask.running(f"worker-{number}") for number in range(8)]

    def work(ticket: Ticket) -> int:
        for offset in range(1, 11):
            store.commands.record(ticket, Warning(message=str(offset)), offset)
        return len(store.reading.events(ticket.job_id))

    with ThreadPoolExecutor(8) as pool:
        assert set(pool.map(work, tickets)) == {12}
