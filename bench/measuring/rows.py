"""Fills a database with many jobs within seconds: a few are made by the store, and their rows are copied."""

from __future__ import annotations

from typing import Any

from sqlalchemy import MetaData, Table, bindparam, text

from gkd_core.config import DataConfig, Split, TrainRun
from gkd_core.errors import Failure, FailureClass
from gkd_core.events import Progress
from jobs.job import Job, Ticket
from jobs.specs.spec import Resolved, job_spec
from jobs.store.store import Store

_SPLIT = Split(images="/data/images", annotations="/data/train.json")
_DATA = DataConfig(format="coco", train=_SPLIT, val=_SPLIT, classes=("cat", "dog"))
_COPIED = ("attempts", "events")
"""Tables that are copied beside `jobs`."""


def submit(store: Store, **fields: Any) -> Job:
    """Queue a job; it needs no pictures."""
    spec = job_spec.validate_python({"kind": "train", "data": "cells", "tags": {"team": "lab"}} | fields)
    return store.submission.submit(spec, Resolved(config=TrainRun(data=_DATA)))[0]


def begin(store: Store, job: Job, worker: str = "ada") -> Ticket:
    """Claim a job and record its first step."""
    claim = store.commands.claim(job.id, worker)
    if claim is None:
        raise RuntimeError(f"job {job.id} is not there to be run")
    store.commands.record(claim.ticket, progress(1), 1)
    return claim.ticket


def progress(step: int) -> Progress:
    """Return the event that an engine writes after a step."""
    return Progress(
        run="model",
        epoch=1,
        epochs=100,
        step=step,
        steps=100_000,
        fraction=step / 1e5,
        losses={"loss": 1 / step},
    )


def fill(store: Store, count: int) -> None:
    """Fill an empty store with so many jobs: half of them queued, the others succeeded, failed, cancelled, in turn."""
    templates = [_queued, _queued, _queued, _succeeded, _failed, _cancelled]
    ids = [make(store) for make in templates]
    _copy(store, ids, (count - len(ids)) // len(ids))


def queue(store: Store, count: int) -> None:
    """Add so many queued jobs."""
    _copy(store, [_queued(store)], count - 1)


def _queued(store: Store) -> str:
    return submit(store).id


def _succeeded(store: Store) -> str:
    ticket = begin(store, submit(store))
    store.commands.succeed(ticket)
    return ticket.job_id


def _failed(store: Store) -> str:
    ticket = begin(store, submit(store))
    store.commands.fail(
        ticket, Failure(failure_class=FailureClass.DATA, message="no pictures", hint="Look for them.")
    )
    return ticket.job_id


def _cancelled(store: Store) -> str:
    job = submit(store)
    store.submission.cancel_requested(job.id)
    return job.id


def _copy(store: Store, ids: list[str], times: int) -> None:
    """Copy jobs in turn, with their attempts and events, a millisecond apart."""
    tables = MetaData()
    tables.reflect(store.database.engine, only=("jobs", *_COPIED))
    with store.database.write() as connection:
        for name in ("jobs", *_COPIED):
            statement = text(_statement(tables.tables[name])).bindparams(bindparam("ids", expanding=True))
            connection.execute(statement, {"times": times, "ids": ids})
        connection.execute(text(_TAGS).bindparams(bindparam("ids", expanding=True)), {"ids": ids})
        connection.execute(text("ANALYZE"))  # PostgreSQL's autovacuum would only do it within a minute


_TAGS = (
    "INSERT INTO tagged (job_id, key, value, tenant, number) "
    "SELECT j.id, t.key, t.value, j.tenant, j.number FROM tagged AS t "
    "JOIN jobs AS j ON substr(j.id, 1, 4) = substr(t.job_id, 1, 4) "
    "WHERE t.job_id IN :ids AND j.id <> t.job_id"
)


def _statement(table: Table) -> str:
    key = "id" if table.name == "jobs" else "job_id"
    changed = {
        key: f"substr(t.{key}, 1, 4) || CAST(10000000 + i AS TEXT)",
        "idempotency_key": "NULL",
        "created_at": "t.created_at + i * 0.001",
        "queued_at": "t.queued_at + i * 0.001",
    }
    counted = table.name == "jobs"  # the database assigns the numbers
    columns = [column.name for column in table.columns if not (counted and column.name == "number")]
    return (
        "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < :times) "
        f"INSERT INTO {table.name} ({', '.join(columns)}) "
        f"SELECT {', '.join(changed.get(name, f't.{name}') for name in columns)} "
        f"FROM n CROSS JOIN {table.name} AS t WHERE t.{key} IN :ids ORDER BY i, t.{'number' if counted else key}"
    )
