"""The list of workers, and the part of it that another tenant may see."""

from __future__ import annotations

import pytest
from sqlalchemy import update

from jobs.job import State
from jobs.presence import Gpu, Presence, WorkerState
from jobs.store.database import now
from jobs.store.tables import jobs, workers

GPU = Gpu(index=0, uuid="GPU-1", name="H200", memory_total=10, memory_used=3, utilisation=50, temperature=40)


def presence(name: str = "ada", **fields) -> Presence:
    return Presence(name=name, host="node", version="1", queues=("gpu", "cpu"), gpus=(GPU,), **fields)


def silent_for(store, seconds: float) -> None:
    with store.database.write() as connection:
        connection.execute(update(workers).values(seen_at=now() - seconds))


def test_a_worker_is_listed_with_what_it_has(store):
    store.workers.appear(presence())
    [worker] = store.workers.list_workers()
    assert (worker.name, worker.state, worker.queues, worker.gpus) == (
        "ada",
        WorkerState.IDLE,
        ("gpu", "cpu"),
        (GPU,),
    )


def test_a_sign_of_life_does_not_change_when_it_started(store):
    store.workers.appear(presence())
    silent_for(store, 30)
    [before] = store.workers.list_workers()
    store.workers.appear(presence(draining=True))
    [after] = store.workers.list_workers()
    assert after.started_at == before.started_at
    assert after.seen_at > before.seen_at
    assert after.state is WorkerState.DRAINING


def test_what_a_worker_runs_is_what_the_jobs_say(store, ask):
    store.workers.appear(presence())
    ticket = ask.running("ada")
    [worker] = store.workers.list_workers()
    assert (worker.state, worker.job_id) == (WorkerState.BUSY, ticket.job_id)
    store.commands.succeed(ticket)
    [worker] = store.workers.list_workers()
    assert (worker.state, worker.job_id) == (WorkerState.IDLE, None)


def test_of_another_tenants_job_only_that_it_keeps_the_worker_busy_is_shown(store, ask):
    store.workers.appear(presence())
    ticket = ask.running("ada")
    with store.database.write() as connection:
        connection.execute(update(jobs).values(tenant="theirs"))
    [mine], [theirs] = store.workers.list_workers(tenant="mine"), store.workers.list_workers(tenant="theirs")
    assert (mine.state, mine.job_id) == (WorkerState.BUSY, None)
    assert theirs.job_id == ticket.job_id


@pytest.mark.parametrize("draining", [False, True])
def test_a_worker_without_a_sign_of_life_for_a_lease_is_lost(store, draining):
    store.workers.appear(presence(draining=draining))
    silent_for(store, store.policy.lease_seconds + 1)
    assert [worker.state for worker in store.workers.list_workers()] == [WorkerState.LOST]
    store.workers.forget_workers()
    assert len(store.workers.list_workers()) == 1


def test_a_worker_that_is_lost_for_a_day_is_forgotten(store):
    store.workers.appear(presence("old"))
    silent_for(store, 86_401)
    store.workers.appear(presence("young"))
    store.workers.forget_workers()
    assert [worker.name for worker in store.workers.list_workers()] == ["young"]


def test_a_worker_that_ended_is_not_listed(store):
    store.workers.appear(presence("ada"))
    store.workers.appear(presence("bob"))
    store.workers.vanish("ada")
    store.workers.vanish("nobody")
    assert [worker.name for worker in store.workers.list_workers()] == ["bob"]


# ---- room ------------------------------------------------------------------------------------------------


def test_a_job_that_was_paused_for_want_of_space_goes_on_when_there_is_enough(store, ask):
    ticket = ask.running()
    store.commands.pause(ticket, reason="paused: 1 B free on /x, 8 B needed", needs_free=10)
    assert store.reading.get(ticket.job_id).reason == "paused: 1 B free on /x, 8 B needed"
    assert store.recovery.make_use_of_room(9) == ()
    assert store.recovery.make_use_of_room(10) == (ticket.job_id,)
    assert store.reading.get(ticket.job_id).state is State.QUEUED


def test_a_job_that_people_paused_stays_paused(store, ask):
    ticket = ask.running()
    store.submission.pause_requested(ticket.job_id)
    store.commands.pause(ticket)
    assert store.recovery.make_use_of_room(10**18) == ()
    assert store.reading.get(ticket.job_id).state is State.PAUSED


def test_a_job_that_people_resumed_and_paused_again_stays_paused(store, ask):
    ticket = ask.running()
    store.commands.pause(ticket, reason="paused: no space", needs_free=10)
    store.submission.resume(ticket.job_id)
    again = ask.claim(store.reading.get(ticket.job_id))
    store.submission.pause_requested(again.job_id)
    store.commands.pause(again)
    assert store.recovery.make_use_of_room(10**18) == ()


def test_why_a_queued_job_is_not_begun_is_said_until_there_is_room(store, ask):
    job = ask.submit()
    store.commands.hold_back(job.id, "1 B free on /x, 8 B needed", needs_free=10)
    assert store.reading.get(job.id).reason.endswith("(1 B free on /x, 8 B needed)")
    assert store.recovery.make_use_of_room(9) == ()
    assert store.recovery.make_use_of_room(10) == (job.id,)
    assert "free on" not in store.reading.get(job.id).reason
    assert store.recovery.make_use_of_room(10) == ()


def test_a_job_that_runs_elsewhere_by_now_is_not_held_back(store, ask):
    ticket = ask.running()
    store.commands.hold_back(ticket.job_id, "no space", needs_free=10)
    assert store.reading.get(ticket.job_id).reason == "running on ada"
