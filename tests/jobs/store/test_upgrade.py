"""A database of the release before, with jobs in every state, is upgraded, and every job continues.

`rows_of_0001.json` holds rows that the release before wrote itself, one job for each state, named after it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from alembic import command
from sqlalchemy import MetaData, insert, text, update

from gkd_core.config import DataConfig, Split, TrainRun, run_config
from gkd_core.events import Checkpoint
from jobs.errors import WrongRevision
from jobs.job import Artifact, Desired, Job, State, Ticket
from jobs.specs.spec import Resolved, job_spec
from jobs.store.database import Database, _alembic, now
from jobs.store.store import Store

ROWS = json.loads(Path(__file__).with_name("rows_of_0001.json").read_text())
IDS = {row["name"]: row["id"] for row in ROWS["jobs"]}
STATES = {row["name"]: State(row["state"]) for row in ROWS["jobs"]}


@pytest.fixture
def old_url(empty_url: str) -> str:
    """Return the URL of a database of the release before."""
    with closing(Database(empty_url)) as database, database.write() as connection:
        config = _alembic()
        config.attributes["connection"] = connection
        command.upgrade(config, "0001")
        tables = MetaData()
        tables.reflect(connection)
        for name, rows in ROWS.items():
            connection.execute(insert(tables.tables[name]), rows)
        jobs = tables.tables["jobs"]
        alive = update(jobs).where(jobs.c.state == "running", jobs.c.name != "lost")
        connection.execute(alive.values(lease_until=now() + 60))
    return empty_url


@pytest.fixture
def store(old_url: str) -> Iterator[Store]:
    """Yield a store on the same database, upgraded."""
    with closing(Store(old_url)) as store:
        store.migrate()
        yield store


def job(store: Store, name: str) -> Job:
    return store.reading.get(IDS[name], tenant="default")


def claimed(store: Store, name: str) -> Ticket:
    claim = store.commands.claim(IDS[name], "a-new-worker")
    assert claim is not None
    return claim.ticket


def test_a_database_that_was_not_upgraded_says_so(old_url: str) -> None:
    with (
        closing(Store(old_url)) as store,
        pytest.raises(WrongRevision, match=r"the database is behind.* 0001"),
    ):
        store.ping()


def test_every_job_is_as_it_was(store: Store) -> None:
    store.ping()
    listed = store.reading.list_jobs(tenant="default").items
    assert {job.name: job.state for job in listed} == STATES
    assert store.reading.list_jobs(tenant="another").items == ()
    before = {row["id"]: row for row in ROWS["jobs"]}
    for each in listed:
        whole = store.reading.get(each.id)
        assert (whole.spec, whole.tags, whole.attempt) == tuple(
            before[each.id][field] for field in ("spec", "tags", "attempt")
        )
        assert len(store.reading.events(each.id)) == before[each.id]["event_count"]
        assert run_config.validate_python(whole.resolved).data.test is None
        assert whole.warnings == ()


def test_what_was_published_is_still_named(store: Store) -> None:
    report = store.reading.report(IDS["succeeded"], tenant="default")
    assert report is not None
    assert report["models"]["model"]["file"] == "model.safetensors"
    names = [artifact.name for artifact in store.reading.artifacts(IDS["succeeded"])]
    assert names == ["model.safetensors", "report.json"]
    assert store.recovery.published() == {"5f" * 32}


def test_queued_jobs_run_in_their_order_and_the_next_ones_after_them(store: Store) -> None:
    first = store.recovery.sweep()
    assert first[0] == IDS["queued"]
    assert set(first) == {IDS[name] for name in ("queued", "requeued", "ready", "lost")}
    assert job(store, "queued").spec["resources"] == {"gpus": 1}
    ticket = claimed(store, "queued")
    artifact = Artifact(name="m", size=1, sha256="0" * 64, created_at=job(store, "queued").created_at)
    saved = Checkpoint(run="model", epoch=1, step=1, file="m", size=1, sha256="0" * 64, metrics={}, best=True)
    assert store.commands.record(ticket, saved, 10, artifact) is Desired.RUN
    store.commands.succeed(ticket)
    assert store.reading.artifacts(IDS["queued"])[0].sha256 == "0" * 64


def test_a_job_that_runs_goes_on_under_its_ticket_and_lets_go_who_waits_for_it(store: Store) -> None:
    ticket = Ticket(IDS["running"], 1)
    assert store.commands.claim(IDS["waiting"], "ada") is None
    assert store.commands.renew(ticket) is Desired.RUN
    assert store.commands.succeed(ticket) == (IDS["waiting"],)
    store.commands.succeed(claimed(store, "waiting"))
    assert {job(store, name).state for name in ("running", "waiting")} == {State.SUCCEEDED}


def test_a_lost_job_is_taken_back_and_goes_on_from_where_it_was(store: Store) -> None:
    store.recovery.sweep()
    claim = store.commands.claim(IDS["lost"], "ada")
    assert claim is not None
    assert (claim.ticket.attempt, claim.offset) == (2, 100)
    assert [attempt.outcome for attempt in job(store, "lost").attempts] == ["lost", None]


def test_what_was_asked_of_running_jobs_is_still_wanted(store: Store) -> None:
    assert store.commands.renew(Ticket(IDS["cancelling"], 1)) is Desired.CANCEL
    store.commands.cancel(Ticket(IDS["cancelling"], 1))
    assert store.commands.renew(Ticket(IDS["pausing"], 1)) is Desired.PAUSE
    store.commands.pause(Ticket(IDS["pausing"], 1))
    assert job(store, "cancelling").state is State.CANCELLED
    assert job(store, "pausing").state is State.PAUSED


def test_people_may_ask_for_what_they_could_before_and_for_what_is_new(store: Store) -> None:
    assert store.submission.resume(IDS["paused"], tenant="default").state is State.QUEUED
    assert claimed(store, "paused").attempt == 2
    assert store.submission.cancel_requested(IDS["ready"], tenant="default").state is State.CANCELLED
    failed = job(store, "failed")
    spec, config = job_spec.validate_python(failed.spec), run_config.validate_python(failed.resolved)
    again = store.submission.retry(failed.id, spec, Resolved(config=config), tenant="default")
    assert again.retry_of == IDS["failed"]
    store.editing.delete(IDS["cancelled"], tenant="default")
    assert again.id in {each.id for each in store.reading.list_jobs(tenant="default").items}
    assert IDS["cancelled"] not in {each.id for each in store.reading.list_jobs(tenant="default").items}


def test_a_key_from_before_still_means_its_job(store: Store) -> None:
    before = job(store, "succeeded")
    split = Split(images="/data/cells/images", annotations="/data/cells/train.json")
    config = TrainRun(data=DataConfig(format="coco", train=split, val=split, classes=("cat", "dog")))
    asked: dict[str, Any] = {"kind": "train", "name": "succeeded", "data": "cells", "tags": {"team": "cells"}}
    spec = job_spec.validate_python(asked | {"priority": 7})
    same, new = store.submission.submit(spec, Resolved(config=config), idempotency_key="key of the first")
    assert (same.id, new) == (before.id, False)


def test_gpus_of_jobs_from_before_count(store: Store) -> None:
    with store.database.read() as connection:
        rows = connection.execute(text("SELECT name FROM jobs WHERE gpus = 1 ORDER BY name"))
        assert [row.name for row in rows] == ["queued", "running"]
