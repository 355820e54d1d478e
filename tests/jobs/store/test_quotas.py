"""Quotas of tenants."""

from __future__ import annotations

import math
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from typing import Any

import pytest
from sqlalchemy import text

from gkd_core.events import Checkpoint
from jobs.errors import QuotaExceeded, UnknownCursor
from jobs.job import Artifact, State
from jobs.store.store import Store, UnknownJob


def backdate(store: Store, **seconds: float) -> None:
    """Make every attempt begin, and perhaps end, so many seconds earlier."""
    changes = ", ".join(f"{name} = started_at - {age}" for name, age in seconds.items())
    with store.database.write() as connection:
        connection.execute(text(f"UPDATE attempts SET {changes}"))


# ---- whose ----


def test_what_belongs_to_another_tenant_is_unknown_to_every_verb(store: Store, ask: Any) -> None:
    job = ask.submit(tenant="theirs")
    reading = (store.reading.get, store.reading.events, store.reading.artifacts, store.reading.report)
    asking = (store.submission.cancel_requested, store.submission.pause_requested, store.submission.resume)
    for verb in (*reading, *asking):
        with pytest.raises(UnknownJob):
            verb(job.id, tenant="ours")
    with pytest.raises(UnknownJob):
        store.reading.artifact(job.id, "best.safetensors", tenant="ours")
    with pytest.raises(UnknownCursor):
        store.reading.list_jobs(after=job.id, tenant="ours")
    assert store.reading.list_jobs(tenant="ours").items == ()
    assert store.reading.get(job.id, tenant="theirs").state is State.QUEUED, "nothing was changed"


def test_pages_of_a_list_hold_one_tenants_jobs(store: Store, ask: Any) -> None:
    mine = [ask.submit(tenant="ours" if number % 2 else "theirs").id for number in range(6)][1::2]
    first = store.reading.list_jobs(tenant="ours", limit=2)
    second = store.reading.list_jobs(tenant="ours", limit=2, after=first.next)
    assert [job.id for job in (*first.items, *second.items)] == mine[::-1]
    assert second.next is None


def test_the_same_idempotency_key_of_two_tenants_makes_two_jobs(store: Store, ask: Any) -> None:
    ours, theirs = ask.submit(key="k", tenant="ours"), ask.submit(key="k", tenant="theirs", name="other")
    assert ours.id != theirs.id
    assert ask.submit(key="k", tenant="ours").id == ours.id


# ---- queued jobs ----


def test_a_queue_that_is_full_takes_no_more_and_says_what_is_full(store: Store, ask: Any) -> None:
    store.keys.set_limits("lab", {"queued_jobs": 2})
    first = ask.submit(tenant="lab", key="k")
    ask.submit(tenant="lab")
    with pytest.raises(QuotaExceeded, match="queued_jobs 2 and has 2"):
        ask.submit(tenant="lab")
    assert ask.submit(tenant="lab", key="k") == first, "what was taken in stays taken in"
    ask.submit()  # other tenants have room
    ask.claim(first)
    ask.submit(tenant="lab")


def test_the_last_place_in_the_queue_is_given_once(store: Store, ask: Any) -> None:
    store.keys.set_limits("lab", {"queued_jobs": 3})

    def submit(_: int) -> bool:
        try:
            ask.submit(tenant="lab")
        except QuotaExceeded:
            return False
        return True

    with ThreadPoolExecutor(8) as pool:
        assert sum(pool.map(submit, range(16))) == 3


# ---- bytes ----


def publish(store: Store, ask: Any, tenant: str, *files: tuple[str, str, int]) -> None:
    ticket = ask.claim(ask.submit(tenant=tenant))
    for number, (name, sha256, size) in enumerate(files, start=1):
        event = Checkpoint(
            run="model", epoch=number, file=name, sha256=sha256 * 64, step=1, size=size, best=True
        )
        artifact = Artifact(name=name, size=size, sha256=sha256 * 64, created_at=datetime.now(UTC))
        store.commands.record(ticket, event, number, artifact)
    store.commands.succeed(ticket)


def test_files_of_a_tenant_are_counted_once_for_what_they_hold(store: Store, ask: Any) -> None:
    publish(store, ask, "lab", ("a", "a", 100), ("b", "b", 20))
    publish(store, ask, "lab", ("a", "a", 100))
    publish(store, ask, "other", ("c", "c", 1000))
    assert store.keys.tenant("lab").use.stored_bytes == 120
    store.keys.set_limits("lab", {"stored_bytes": 130})
    store.keys.must_store("lab", 10)
    with pytest.raises(QuotaExceeded, match="stored_bytes 130 and has 120"):
        store.keys.must_store("lab", 11)
    ask.submit(tenant="lab")
    store.keys.set_limits("lab", {"stored_bytes": 120})
    with pytest.raises(QuotaExceeded, match="delete"):
        ask.submit(tenant="lab")


# ---- GPU hours ----


def test_gpu_hours_are_gpus_times_the_length_of_each_attempt(store: Store, ask: Any) -> None:
    for gpus in (0, 1, 2):
        store.commands.succeed(ask.claim(ask.submit(tenant="lab", resources={"gpus": gpus})))
    backdate(store, started_at=3600)
    assert store.keys.tenant("lab").use.gpu_hours == pytest.approx(3, abs=0.01)
    assert store.keys.tenant("other").use.gpu_hours == 0
    store.keys.set_limits("lab", {"gpu_hours": 2.5})
    with pytest.raises(QuotaExceeded, match=r"gpu_hours 2.5 and has 3"):
        ask.submit(tenant="lab", resources={"gpus": 1})
    assert ask.submit(tenant="lab"), "a job on the CPU costs none"


def test_what_runs_counts_until_now_and_what_is_old_not_at_all(store: Store, ask: Any) -> None:
    ask.claim(ask.submit(tenant="lab", resources={"gpus": 1}))
    backdate(store, started_at=31 * 86400)
    assert store.keys.tenant("lab").use.gpu_hours == pytest.approx(720, abs=0.01), "of 31 days 30 count"
    with store.database.write() as connection:
        connection.execute(text("UPDATE attempts SET ended_at = started_at + 60"))
    assert store.keys.tenant("lab").use.gpu_hours == 0


def test_deleting_a_job_makes_no_hours_new(store: Store, ask: Any) -> None:
    job = ask.submit(tenant="lab", resources={"gpus": 2})
    store.commands.succeed(ask.claim(job))
    backdate(store, started_at=3600)
    store.editing.delete(job.id)
    assert store.keys.tenant("lab").use.gpu_hours == pytest.approx(2, abs=0.01)
    with store.database.write() as connection:
        connection.execute(text("UPDATE spent SET ended_at = ended_at - 31 * 86400.0"))
    assert store.keys.tenant("lab").use.gpu_hours == 0


# ---- running jobs ----


def test_a_job_waits_while_its_tenant_has_its_share_running(store: Store, ask: Any) -> None:
    store.keys.set_limits("lab", {"running_jobs": 2})
    one, two, three = (ask.submit(tenant="lab") for _ in range(3))
    tickets = [ask.claim(one), ask.claim(two)]
    assert store.commands.claim(three.id, "bob") is None
    waiting = store.reading.get(three.id)
    assert (waiting.state, waiting.attempt) == (State.QUEUED, 0)
    assert waiting.reason == "queued: 2 of 2 jobs of this tenant are running"
    assert store.commands.claim(ask.submit(tenant="other").id, "bob") is not None, "others are not held back"
    store.commands.succeed(tickets[0])
    assert store.commands.next_of_tenant(one.id) == (three.id,)
    assert ask.claim(three).attempt == 1


def test_a_share_of_nothing_runs_nothing(store: Store, ask: Any) -> None:
    store.keys.set_limits("lab", {"running_jobs": 0})
    job = ask.submit(tenant="lab")
    assert store.commands.claim(job.id, "bob") is None
    assert store.recovery.sweep() == ()
    store.keys.set_limits("lab", {"running_jobs": None})
    assert store.recovery.sweep(only_due=False) == (job.id,)
    ask.claim(job)


def test_many_workers_do_not_take_more_than_the_share(store: Store, ask: Any) -> None:
    store.keys.set_limits("lab", {"running_jobs": 3})
    ids = [ask.submit(tenant="lab").id for _ in range(12)]
    with ThreadPoolExecutor(8) as pool:
        claims = list(pool.map(lambda job_id: store.commands.claim(job_id, "bob"), ids))
    assert sum(claim is not None for claim in claims) == 3
    assert store.keys.tenant("lab").use.running_jobs == 3


def test_the_first_in_line_of_each_queue_is_notified_of(store: Store, ask: Any) -> None:
    store.keys.set_limits("lab", {"running_jobs": 1})
    running = ask.submit(tenant="lab")
    ticket = ask.claim(running)
    low, high = ask.submit(tenant="lab", priority=1), ask.submit(tenant="lab", priority=9)
    gpu = ask.submit(tenant="lab", resources={"gpus": 1})
    ask.submit(tenant="other")
    assert store.commands.next_of_tenant(running.id) == (), "there is no room yet"
    store.commands.succeed(ticket)
    assert set(store.commands.next_of_tenant(running.id)) == {high.id, gpu.id}, (
        f"not {low.id}: there is room for one"
    )


def test_tenants_without_a_share_need_no_second_notification(store: Store, ask: Any) -> None:
    running = ask.submit()
    ask.submit()
    store.commands.succeed(ask.claim(running))
    assert store.commands.next_of_tenant(running.id) == ()


def test_a_job_that_was_held_back_is_notified_of_by_the_first_sweep_after_there_is_room(
    store: Store, ask: Any
) -> None:
    store.keys.set_limits("lab", {"running_jobs": 1})
    ticket = ask.claim(ask.submit(tenant="lab"))
    held = ask.submit(tenant="lab")
    with store.database.write() as connection:
        connection.execute(text("UPDATE jobs SET ring_at = ring_at - 3600, queued_at = queued_at - 3600"))
    assert store.recovery.sweep(only_due=True) == ()
    assert store.recovery.sweep(only_due=True) == ()
    store.commands.succeed(ticket)
    assert store.recovery.sweep(only_due=True) == (held.id,), "though the pauses of so old a job are long"


def test_a_lost_job_leaves_its_place_to_others(store: Store, ask: Any) -> None:
    store.keys.set_limits("lab", {"running_jobs": 1})
    ask.claim(ask.submit(tenant="lab"))
    held = ask.submit(tenant="lab")
    with store.database.write() as connection:
        connection.execute(text("UPDATE jobs SET lease_until = 0 WHERE state = 'running'"))
    assert held.id in store.recovery.sweep()


def test_a_limit_is_a_number_that_json_knows(store: Store) -> None:
    with pytest.raises(ValueError, match="finite"):
        store.keys.set_limits("lab", {"gpu_hours": math.inf})
