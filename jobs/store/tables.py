"""The tables. Only the store and the migrations import them; a change here needs a migration.

Times are Unix seconds on the database's clock. JSON columns hold what no query filters by.
"""

from __future__ import annotations

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    Column,
    Double,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    Text,
    text,
)

metadata = MetaData()

_JSON = JSON(none_as_null=True)
_LONG = BigInteger().with_variant(Integer, "sqlite")  # SQLite auto-increments only a column of type INTEGER

jobs = Table(
    "jobs",
    metadata,
    Column("number", _LONG, primary_key=True, autoincrement=True),  # order of arrival
    Column("id", String(32), nullable=False, unique=True),
    Column("name", Text, nullable=False),
    Column("kind", String(32), nullable=False),
    Column("state", String(16), nullable=False),
    Column("desired", String(16), nullable=False),
    Column("reason", Text, nullable=False),
    Column("priority", Integer, nullable=False),
    Column("tags", _JSON, nullable=False),
    Column("queue", String(16), nullable=False),
    Column("spec", _JSON, nullable=False),
    Column("resolved", _JSON, nullable=False),
    Column("idempotency_key", Text, unique=True),
    Column("spec_digest", String(64), nullable=False),
    Column("attempt", Integer, nullable=False, default=0),
    Column("saved", Boolean, nullable=False, default=False),  # this attempt wrote a checkpoint to resume from
    # Attempts in a row that ended early without saving a checkpoint.
    Column("fruitless", Integer, nullable=False, default=0),
    Column("worker", Text),
    Column("lease_until", Double),
    Column("ring_at", Double),  # when a queued job is next due for a notification
    Column("created_at", Double, nullable=False),
    Column("queued_at", Double, nullable=False),
    Column("started_at", Double),
    Column("finished_at", Double),
    Column("event_count", Integer, nullable=False, default=0),
    Column("event_offset", BigInteger, nullable=False, default=0),  # bytes of events.jsonl that are recorded
    Column("progress", _JSON),
    Column("evaluation", _JSON),
    Column("report", _JSON),
    Column("failure", _JSON),
    Column("log_tail", Text, nullable=False, default=""),
    Column("tenant", String(64), nullable=False, server_default="default"),
    Column("gpus", Integer, nullable=False, server_default="0"),
    Column("retry_of", String(32)),  # the job that this one repeats
    # Bytes that must be free before a job paused for lack of them continues by itself; null: a user paused it.
    Column("needs_free", BigInteger),
    # A queue, in its order.
    Index("jobs_by_state", "state", "queue", text("priority DESC"), "queued_at"),
    Index("jobs_by_worker", "worker"),
    Index("jobs_by_tenant", "tenant", "number"),  # these three: pages of lists, for each filter
    Index("jobs_by_tenant_state", "tenant", "state", "number"),
    Index("jobs_by_tenant_kind", "tenant", "kind", "number"),
    Index("jobs_by_retry_of", "retry_of"),
    Index("jobs_by_needs_free", "needs_free"),
)

deleted = Table(  # jobs that were deleted: their files on disk may be removed, too
    "deleted",
    metadata,
    Column("id", String(32), primary_key=True),
    Column("deleted_at", Double, nullable=False),
)

tagged = Table(  # a copy of the jobs' tags for searching: a rare one is found among 100,000 jobs at once
    "tagged",
    metadata,
    Column("job_id", ForeignKey("jobs.id"), primary_key=True),
    Column("key", String(64), primary_key=True),
    Column("value", Text, nullable=False),
    Column("tenant", String(64), nullable=False),
    Column("number", BigInteger, nullable=False),  # the job's: pages are in its order
    Index("tagged_by_value", "tenant", "key", "value", "number"),
    Index("tagged_by_key", "tenant", "key", "number"),
)

waits = Table(
    "waits",
    metadata,
    Column("job_id", ForeignKey("jobs.id"), primary_key=True),
    Column("waits_for", ForeignKey("jobs.id"), primary_key=True),
    Index("waits_by_waits_for", "waits_for"),
)

attempts = Table(
    "attempts",
    metadata,
    Column("job_id", ForeignKey("jobs.id"), primary_key=True),
    Column("attempt", Integer, primary_key=True, autoincrement=False),
    Column("worker", Text, nullable=False),
    Column("started_at", Double, nullable=False),
    Column("ended_at", Double),
    Column("outcome", String(16)),
    Column("message", Text, nullable=False, default=""),
)

events = Table(
    "events",
    metadata,
    Column("job_id", ForeignKey("jobs.id"), primary_key=True),
    Column("number", Integer, primary_key=True, autoincrement=False),
    Column("attempt", Integer, nullable=False),
    Column("time", Double, nullable=False),
    Column("kind", String(32), nullable=False),
    Column("body", _JSON, nullable=False),
)

artifacts = Table(
    "artifacts",
    metadata,
    Column("job_id", ForeignKey("jobs.id"), primary_key=True),
    Column("name", Text, primary_key=True),
    Column("size", BigInteger, nullable=False),
    Column("sha256", String(64), nullable=False),
    Column("metrics", _JSON, nullable=False),
    Column("created_at", Double, nullable=False),
)

tenants = Table(
    "tenants",
    metadata,
    Column("name", String(64), primary_key=True),
    Column("limits", _JSON, nullable=False),
    Column("created_at", Double, nullable=False),
)

spent = Table(  # GPU seconds of jobs that were deleted since
    "spent",
    metadata,
    Column("id", _LONG, primary_key=True, autoincrement=True),
    Column("tenant", String(64), nullable=False),
    Column("ended_at", Double, nullable=False),
    Column("gpu_seconds", Double, nullable=False),
    Index("spent_by_tenant", "tenant", "ended_at"),
)

leaving = Table(  # bytes of uploads that were refused or deleted and may still be on disk
    "leaving",
    metadata,
    Column("id", _LONG, primary_key=True, autoincrement=True),
    Column("tenant", String(64), nullable=False),
    Column("size", BigInteger, nullable=False),
    Column("until", Double, nullable=False),
    Index("leaving_by_tenant", "tenant", "until"),
)

keys = Table(
    "keys",
    metadata,
    Column("id", String(32), primary_key=True),
    Column("tenant", String(64), nullable=False),
    Column("name", Text, nullable=False),
    Column("hash", String(64), nullable=False, unique=True),
    Column("scopes", _JSON, nullable=False),
    Column("created_at", Double, nullable=False),
    Column("expires_at", Double),
    Column("revoked_at", Double),
    Column("used_at", Double),
)

resources = Table(
    "resources",
    metadata,
    Column("number", _LONG, primary_key=True, autoincrement=True),  # order of arrival
    Column("id", String(32), nullable=False, unique=True),
    Column("tenant", String(64), nullable=False),
    Column("kind", String(16), nullable=False),  # dataset or model
    Column("name", Text, nullable=False),
    Column("state", String(16), nullable=False),  # checking, ready or refused
    Column("reason", Text, nullable=False),
    Column("uploaded", Boolean, nullable=False),
    Column("path", Text),
    Column("layout", _JSON),
    Column("size", BigInteger, nullable=False),
    Column("sha256", String(64)),
    Column("fingerprint", String(64)),  # of what lay under a data root when it was checked
    Column("report", _JSON),
    Column("created_at", Double, nullable=False),
    Column("checked_at", Double),
    Column("checks", Integer, nullable=False, default=0),  # how many checks were started
    Column("lease_until", Double),  # a process is checking it until then
    Index("resources_by_tenant", "tenant", "kind", "number"),
    Index("resources_by_state", "state"),
    Index("resources_by_sha256", "sha256"),
)

uses = Table(
    "uses",
    metadata,
    Column("job_id", ForeignKey("jobs.id"), primary_key=True),
    Column("resource_id", ForeignKey("resources.id"), primary_key=True),
    Index("uses_by_resource", "resource_id"),
)

workers = Table(
    "workers",
    metadata,
    Column("name", Text, primary_key=True),
    Column("host", Text, nullable=False),
    Column("version", Text, nullable=False),
    Column("queues", _JSON, nullable=False),
    Column("gpus", _JSON, nullable=False),
    Column("draining", Boolean, nullable=False),  # it claims no more jobs; which job it runs is in `jobs`
    Column("started_at", Double, nullable=False),
    Column("seen_at", Double, nullable=False),
)

counts = Table(  # metrics counters: the value is the sum of the rows of one name and labels
    "counts",
    metadata,
    Column("id", _LONG, primary_key=True, autoincrement=True),
    Column("name", String(64), nullable=False),
    Column("labels", Text, nullable=False),
    # Upper bound of the histogram bucket; null: above all bounds, or nothing is measured.
    Column("bound", Double),
    Column("number", BigInteger, nullable=False),
    Column("total", Double, nullable=False),
)

about = Table(  # properties of the database as a whole
    "about",
    metadata,
    Column("name", String(32), primary_key=True),
    Column("value", Text, nullable=False),
)

turns = Table(  # leases of tasks that one process should run once per period
    "turns",
    metadata,
    Column("what", String(32), primary_key=True),
    Column("taken_until", Double, nullable=False),
)
