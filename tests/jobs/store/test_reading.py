"""Lists, reasons, events and artifacts as people get them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import event, update

from gkd_core.events import Progress
from jobs.errors import UnknownCursor
from jobs.job import Artifact, Job, State, Ticket
from jobs.presence import Presence
from jobs.store.database import now
from jobs.store.store import Store, UnknownArtifact
from jobs.store.tables import jobs, workers


def test_pages_show_every_job_once_newest_first(store: Store, ask: Any) -> None:
    ids = [ask.submit().id for _ in range(5)]
    seen, after = [], None
    for size in (2, 2, 1):
        page = store.reading.list_jobs(after=after, limit=2)
        assert len(page.items) == size
        seen += [job.id for job in page.items]
        after = page.next
    assert after is None
    assert seen == ids[::-1]


def test_a_page_is_not_disturbed_by_new_jobs(store: Store, ask: Any) -> None:
    ids = [ask.submit().id for _ in range(4)]
    first = store.reading.list_jobs(limit=2)
    ask.submit()
    second = store.reading.list_jobs(limit=2, after=first.next)
    assert [job.id for job in second.items] == [ids[1], ids[0]]


def test_a_page_goes_on_when_the_job_at_its_end_was_deleted(store: Store, ask: Any) -> None:
    ids = [ask.submit().id for _ in range(4)]
    first = store.reading.list_jobs(limit=2)
    for job in first.items:
        store.submission.cancel_requested(job.id)
        store.editing.delete(job.id)
    second = store.reading.list_jobs(limit=2, after=first.next)
    assert [job.id for job in second.items] == [ids[1], ids[0]]


def test_a_page_after_nothing_known_is_refused(store: Store, ask: Any) -> None:
    job = ask.submit()
    for cursor in ("yesterday", "", job.id, "1", "\0", "\xe4", "A" * 22):
        with pytest.raises(UnknownCursor):
            store.reading.list_jobs(after=cursor)


def test_lists_can_be_narrowed(store: Store, ask: Any) -> None:
    lab = ask.submit(tags={"team": "lab", "a.b": "x:y", "size": "größer 🐱"})
    shop = ask.submit(tags={"team": "shop"})
    student = ask.submit_student(lab)
    ticket = ask.claim(shop)

    def ids(**narrow: Any) -> list[str]:
        return [job.id for job in store.reading.list_jobs(**narrow).items]

    assert ids(tags=["team:lab"]) == [lab.id]
    assert ids(tags=["team"]) == [shop.id, lab.id]
    assert ids(tags=["a.b:x:y"]) == ids(tags=["size:größer 🐱"]) == ids(tags=["team", "size"]) == [lab.id]
    assert ids(tags=["team:shop", "size"]) == []
    assert ids(kind="distill") == [student.id]
    assert ids(state="running") == [ticket.job_id]
    assert ids(state="queued", kind="train") == [lab.id]


@pytest.mark.parametrize("tag", ["", ":", "team:nobody", 'te"am:lab', "team'--:lab", "team\0", "$[0]"])
def test_an_odd_tag_finds_nothing(store: Store, ask: Any, tag: str) -> None:
    ask.submit(tags={"team": "lab"})
    assert store.reading.list_jobs(tags=[tag]).items == ()


def test_a_queued_job_says_how_many_are_ahead(store: Store, ask: Any) -> None:
    first, second = ask.submit(), ask.submit()
    urgent = ask.submit(priority=9)
    waiting = ask.submit_student(first, priority=9)
    gpu = ask.submit(resources={"gpus": 1})
    reasons = {job.id: job.reason for job in store.reading.list_jobs().items}
    assert reasons == {
        urgent.id: "queued: next, waiting for a worker",
        first.id: "queued: 1 ahead, waiting for a worker",
        second.id: "queued: 2 ahead, waiting for a worker",
        waiting.id: f"queued: waits for job {first.id}",
        gpu.id: "queued: next, waiting for a worker with 1 GPU",
    }
    assert store.reading.get(second.id).reason == reasons[second.id]


def test_a_long_queue_is_counted_only_so_far(store: Store, ask: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("jobs.store.queue_reasons._COUNTED", 2)
    made = [ask.submit(priority=priority) for priority in (5, 7, 5, 5)]
    places = [store.reading.get(job.id).reason.removeprefix("queued: ").split(",")[0] for job in made]
    assert places == ["1 ahead", "next", "2 ahead", "more than 2 ahead"]


def test_of_jobs_that_came_in_the_same_moment_one_is_next(store: Store, ask: Any) -> None:
    made = [ask.submit() for _ in range(3)]
    with store.database.write() as connection:
        connection.execute(update(jobs).values(queued_at=1.0))
    places = [store.reading.get(job.id).reason.removeprefix("queued: ").split(",")[0] for job in made]
    assert places == ["next", "1 ahead", "2 ahead"]


def test_a_queue_that_no_live_worker_serves_is_said_so(store: Store, ask: Any) -> None:
    job = ask.submit(resources={"gpus": 2})
    assert store.reading.get(job.id).reason == "queued: next, waiting for a worker with 2 GPUs", (
        "nobody was ever seen"
    )
    small = Presence(name="small", host="node", version="1", queues=("gpu", "cpu"))
    store.workers.appear(small)
    assert store.reading.get(job.id).reason == "queued: next, but no worker serves queue gpu2"
    big = Presence(name="big", host="node", version="1", queues=("gpu2", "gpu", "cpu"))
    store.workers.appear(big)
    assert store.reading.get(job.id).reason == "queued: next, waiting for a worker with 2 GPUs"
    store.workers.appear(big.model_copy(update={"draining": True}))
    assert store.reading.get(job.id).reason == "queued: next, but no worker serves queue gpu2"
    store.workers.appear(big)
    with store.database.write() as connection:
        connection.execute(update(workers).where(workers.c.name == "big").values(seen_at=now() - 181))
    assert store.reading.get(job.id).reason == "queued: next, but no worker serves queue gpu2"


def test_the_end_is_estimated_from_the_latest_progress_of_this_attempt(store: Store, ask: Any) -> None:
    ticket = ask.running()
    assert store.reading.get(ticket.job_id).estimated_end is None
    told = datetime.now(UTC) + timedelta(seconds=1)

    def tell(offset: int, **fields: Any) -> Job:
        where = {"run": "model", "epoch": 0, "epochs": 1, "step": 1, "steps": 2, "fraction": 0.5}
        event = Progress(time=told.timestamp(), **(where | fields))
        store.commands.record(Ticket(ticket.job_id, store.reading.get(ticket.job_id).attempt), event, offset)
        return store.reading.get(ticket.job_id)

    assert tell(1).estimated_end is None, "the engine cannot say yet"
    assert tell(2, seconds_left=60.0).estimated_end == told + timedelta(seconds=60)
    assert tell(3, seconds_left=1e300).estimated_end is not None
    store.commands.requeue(ticket, "the worker is shutting down")
    assert store.reading.get(ticket.job_id).estimated_end is None
    ask.claim(store.reading.get(ticket.job_id))
    told = datetime.now(UTC) - timedelta(hours=1)
    assert tell(4, seconds_left=60.0).estimated_end is None, "that was told an attempt ago"


def test_a_job_says_what_it_waits_for_even_afterwards(store: Store, ask: Any) -> None:
    teacher = ask.submit()
    student = ask.submit_student(teacher)
    store.commands.succeed(ask.claim(teacher))
    assert store.reading.get(student.id).waits_for == (teacher.id,)
    assert store.reading.get(student.id).reason == "queued: next, waiting for a worker"


def test_events_can_be_read_in_pieces(store: Store, ask: Any, make_progress: Any) -> None:
    ticket = ask.running()
    for step in range(1, 6):
        store.commands.record(ticket, make_progress(step), step)
    assert [event.number for event in store.reading.events(ticket.job_id, after=3, limit=2)] == [4, 5]
    assert store.reading.events(ticket.job_id, after=7) == ()


def test_times_are_those_of_the_databases_clock_and_know_their_zone(store: Store, ask: Any) -> None:
    job = ask.submit()
    assert job.created_at.tzinfo is UTC
    assert abs(datetime.now(UTC) - job.created_at) < timedelta(seconds=60)
    ask.claim(job)
    first, second = store.reading.events(job.id)
    assert first.time <= second.time
    lease = store.reading.get(job.id).lease_until - second.time
    assert lease == pytest.approx(timedelta(seconds=60), abs=timedelta(seconds=1))


def test_artifacts_are_listed_and_found_by_name(store: Store, ask: Any, make_progress: Any) -> None:
    ticket = ask.running()
    file = Artifact(name="m.safetensors", size=5_000_000_000, sha256="c" * 64, created_at=datetime.now(UTC))
    store.commands.record(ticket, make_progress(), 1, file)
    (listed,) = store.reading.artifacts(ticket.job_id)
    assert listed == store.reading.artifact(ticket.job_id, "m.safetensors")
    assert (listed.size, listed.sha256) == (file.size, file.sha256)


@pytest.mark.parametrize("name", ["other", "../m.safetensors", "m\0"])
def test_an_unknown_artifact_is_named(store: Store, ask: Any, name: str) -> None:
    job = ask.submit()
    with pytest.raises(UnknownArtifact, match=f"job {job.id} has published no file"):
        store.reading.artifact(job.id, name)


def test_a_job_read_back_is_the_same_in_every_list(store: Store, ask: Any) -> None:
    jobs = [ask.job_in(state) for state in State]
    assert store.reading.list_jobs().items[::-1] == tuple(store.reading.get(job.id) for job in jobs)


def test_a_job_is_read_by_few_statements(store: Store, ask: Any) -> None:
    queued, running = ask.submit(), ask.running()
    told: list[str] = []
    event.listen(store.database.engine, "before_cursor_execute", lambda *args: told.append(args[2]))
    store.reading.get(running.job_id)
    assert sum("SELECT" in each for each in told) == 3, "the job, its attempts, and what its check found"
    told.clear()
    store.reading.get(queued.id)
    assert sum("SELECT" in each for each in told) == 3, (
        "the job, who serves its queue, and what its check found"
    )
