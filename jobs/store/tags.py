"""Tags of jobs for searching: rows beside the jobs' JSON, written in the same transaction."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from sqlalchemy import Connection, Row, Select, delete, false, insert

from jobs.store.database import storable
from jobs.store.tables import jobs, tagged

_TAG = re.compile(r"(?P<key>[\w.-]+)(:(?P<value>.*))?", re.ASCII | re.DOTALL)


def write_tags(connection: Connection, row: Row[Any]) -> None:
    """Replace a job's rows in `tagged` by the tags of its row."""
    connection.execute(delete(tagged).where(tagged.c.job_id == row.id))
    if row.tags:
        common = {"job_id": row.id, "tenant": row.tenant, "number": row.number}
        connection.execute(
            insert(tagged), [common | {"key": key, "value": row.tags[key]} for key in row.tags]
        )


def newest_first(query: Select[Any], tags: Sequence[str], tenant: str | None) -> Select[Any]:
    """Return the query restricted to jobs that have all of these tags, each `key` or `key:value`, newest first.

    The first tag leads: its index has that order, so a page takes time in proportion to its length only.
    """
    order = jobs.c.number
    for place, tag in enumerate(tags):
        match = _TAG.fullmatch(storable(tag))
        if match is None:
            return query.where(false())  # no job has such a tag
        has = tagged.alias(f"tagged_{place}")
        query = query.join(has, has.c.number == jobs.c.number).where(has.c.key == match["key"])
        if match["value"] is not None:
            query = query.where(has.c.value == match["value"])
        if tenant is not None:
            query = query.where(has.c.tenant == tenant)
        if place == 0:
            order = has.c.number
    return query.order_by(order.desc())
