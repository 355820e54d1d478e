"""Runs the migrations over the connection, and inside the transaction, of `Database.migrate`."""

from __future__ import annotations

from alembic import context

from jobs.store.tables import metadata

context.configure(connection=context.config.attributes["connection"], target_metadata=metadata)
context.run_migrations()
