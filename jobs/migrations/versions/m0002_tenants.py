"""Tenants with keys and limits, registered data sets and models, workers that can be seen; whose a job is."""

from __future__ import annotations

from uuid import uuid4

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"

_JSON = sa.JSON(none_as_null=True)
_LONG = sa.BigInteger().with_variant(sa.Integer, "sqlite")


def upgrade() -> None:
    op.add_column("jobs", sa.Column("tenant", sa.String(64), nullable=False, server_default="default"))
    op.add_column("jobs", sa.Column("gpus", sa.Integer, nullable=False, server_default="0"))
    op.execute("UPDATE jobs SET gpus = 1 WHERE queue = 'gpu'")  # more than one could not be asked for
    op.add_column("jobs", sa.Column("retry_of", sa.String(32)))
    op.add_column("jobs", sa.Column("needs_free", sa.BigInteger))
    op.create_index("jobs_by_tenant", "jobs", ["tenant", "number"])  # these three: pages of a list
    op.create_index("jobs_by_tenant_state", "jobs", ["tenant", "state", "number"])
    op.create_index("jobs_by_tenant_kind", "jobs", ["tenant", "kind", "number"])
    op.create_index("jobs_by_retry_of", "jobs", ["retry_of"])
    op.drop_index("jobs_by_state", "jobs")  # jobs are counted by their place in the queue
    op.create_index("jobs_by_state", "jobs", ["state", "queue", sa.text("priority DESC"), "queued_at"])
    op.create_index("jobs_by_needs_free", "jobs", ["needs_free"])
    # Idempotency keys are each tenant's own from now on.
    op.execute("UPDATE jobs SET idempotency_key = 'default:' || idempotency_key")
    _create_tenants()
    _create_resources()
    op.create_table(
        "deleted",
        sa.Column("id", sa.String(32), primary_key=True),
        sa.Column("deleted_at", sa.Double, nullable=False),
    )
    _create_tagged()
    _create_about()
    op.create_table(
        "turns",
        sa.Column("what", sa.String(32), primary_key=True),
        sa.Column("taken_until", sa.Double, nullable=False),
    )
    op.create_table(
        "counts",
        sa.Column(
            "id", sa.BigInteger().with_variant(sa.Integer, "sqlite"), primary_key=True, autoincrement=True
        ),
        sa.Column("name", sa.String(64), nullable=False),
        sa.Column("labels", sa.Text, nullable=False),
        sa.Column("bound", sa.Double),
        sa.Column("number", sa.BigInteger, nullable=False),
        sa.Column("total", sa.Double, nullable=False),
    )
    op.create_table(
        "workers",
        sa.Column("name", sa.Text, primary_key=True),
        sa.Column("host", sa.Text, nullable=False),
        sa.Column("version", sa.Text, nullable=False),
        sa.Column("queues", _JSON, nullable=False),
        sa.Column("gpus", _JSON, nullable=False),
        sa.Column("draining", sa.Boolean, nullable=False),
        sa.Column("started_at", sa.Double, nullable=False),
        sa.Column("seen_at", sa.Double, nullable=False),
    )


def downgrade() -> None:
    later = ("about", "tagged", "counts", "deleted", "turns", "workers")
    for table in (*later, "uses", "resources", "keys", "leaving", "spent", "tenants"):
        op.drop_table(table)
    for index in ("jobs_by_tenant", "jobs_by_tenant_state", "jobs_by_tenant_kind"):
        op.drop_index(index, "jobs")
    op.drop_index("jobs_by_retry_of", "jobs")
    op.drop_index("jobs_by_state", "jobs")
    op.create_index("jobs_by_state", "jobs", ["state", "queue"])
    op.drop_index("jobs_by_needs_free", "jobs")
    op.execute("UPDATE jobs SET idempotency_key = substr(idempotency_key, length(tenant) + 2)")
    with op.batch_alter_table("jobs") as jobs:
        for column in ("needs_free", "retry_of", "gpus", "tenant"):
            jobs.drop_column(column)


def _create_about() -> None:
    about = op.create_table(
        "about",
        sa.Column("name", sa.String(32), primary_key=True),
        sa.Column("value", sa.Text, nullable=False),
    )
    # What earlier releases marked as this database's bears the id of its first job.
    first = sa.select(sa.table("jobs", sa.column("id"), sa.column("number")).c.id).order_by(sa.text("number"))
    origin = op.get_bind().scalar(first.limit(1)) or uuid4().hex
    op.bulk_insert(about, [{"name": "origin", "value": origin}])


def _create_tenants() -> None:
    op.create_table(
        "tenants",
        sa.Column("name", sa.String(64), primary_key=True),
        sa.Column("limits", _JSON, nullable=False),
        sa.Column("created_at", sa.Double, nullable=False),
    )
    op.create_table(
        "spent",
        sa.Column("id", _LONG, primary_key=True, autoincrement=True),
        sa.Column("tenant", sa.String(64), nullable=False),
        sa.Column("ended_at", sa.Double, nullable=False),
        sa.Column("gpu_seconds", sa.Double, nullable=False),
    )
    op.create_index("spent_by_tenant", "spent", ["tenant", "ended_at"])
    op.create_table(
        "leaving",
        sa.Column("id", _LONG, primary_key=True, autoincrement=True),
        sa.Column("tenant", sa.String(64), nullable=False),
        sa.Column("size", sa.BigInteger, nullable=False),
        sa.Column("until", sa.Double, nullable=False),
    )
    op.create_index("leaving_by_tenant", "leaving", ["tenant", "until"])
    op.create_table(
        "keys",
        sa.Column("id", sa.String(32), primary_key=True),
        sa.Column("tenant", sa.String(64), nullable=False),
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("hash", sa.String(64), nullable=False, unique=True),
        sa.Column("scopes", _JSON, nullable=False),
        sa.Column("created_at", sa.Double, nullable=False),
        sa.Column("expires_at", sa.Double),
        sa.Column("revoked_at", sa.Double),
        sa.Column("used_at", sa.Double),
    )


def _create_resources() -> None:
    op.create_table(
        "resources",
        sa.Column("number", _LONG, primary_key=True, autoincrement=True),
        sa.Column("id", sa.String(32), nullable=False, unique=True),
        sa.Column("tenant", sa.String(64), nullable=False),
        sa.Column("kind", sa.String(16), nullable=False),
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("reason", sa.Text, nullable=False),
        sa.Column("uploaded", sa.Boolean, nullable=False),
        sa.Column("path", sa.Text),
        sa.Column("layout", _JSON),
        sa.Column("size", sa.BigInteger, nullable=False),
        sa.Column("sha256", sa.String(64)),
        sa.Column("fingerprint", sa.String(64)),
        sa.Column("report", _JSON),
        sa.Column("created_at", sa.Double, nullable=False),
        sa.Column("checked_at", sa.Double),
        sa.Column("checks", sa.Integer, nullable=False),
        sa.Column("lease_until", sa.Double),
    )
    op.create_index("resources_by_tenant", "resources", ["tenant", "kind", "number"])
    op.create_index("resources_by_state", "resources", ["state"])
    op.create_index("resources_by_sha256", "resources", ["sha256"])
    op.create_table(
        "uses",
        sa.Column("job_id", sa.String(32), sa.ForeignKey("jobs.id"), primary_key=True),
        sa.Column("resource_id", sa.String(32), sa.ForeignKey("resources.id"), primary_key=True),
    )
    op.create_index("uses_by_resource", "uses", ["resource_id"])


def _create_tagged() -> None:
    tagged = op.create_table(
        "tagged",
        sa.Column("job_id", sa.String(32), sa.ForeignKey("jobs.id"), primary_key=True),
        sa.Column("key", sa.String(64), primary_key=True),
        sa.Column("value", sa.Text, nullable=False),
        sa.Column("tenant", sa.String(64), nullable=False),
        sa.Column("number", sa.BigInteger, nullable=False),
    )
    op.create_index("tagged_by_value", "tagged", ["tenant", "key", "value", "number"])
    op.create_index("tagged_by_key", "tagged", ["tenant", "key", "number"])
    jobs = sa.table("jobs", *map(sa.column, ("id", "number", "tenant")), sa.column("tags", _JSON))
    for job in op.get_bind().execute(sa.select(jobs)).all():
        rows = [{"key": key, "value": value} for key, value in job.tags.items()]
        if rows:
            common = {"job_id": job.id, "tenant": job.tenant, "number": job.number}
            op.bulk_insert(tagged, [row | common for row in rows])
