"""Changes to existing jobs: name, tags and priority; deletion of jobs that have ended."""

from __future__ import annotations

from typing import Any

from sqlalchemy import delete, insert, select, update

from gkd_core.errors import Problem, SpecError
from jobs.errors import InUse, NotAllowed
from jobs.job import Job, State
from jobs.specs.spec import MOST_TAGS, JobChange, JobFields, merged
from jobs.store.database import Database, now
from jobs.store.quotas import keep_gpu_hours
from jobs.store.reading import read_job
from jobs.store.submission import ask
from jobs.store.tables import artifacts, attempts, deleted, events, jobs, tagged, uses, waits
from jobs.store.tags import write_tags
from jobs.store.transitions import NOTIFY_AGAIN_SECONDS, is_job, is_open, write_event


class Editing:
    """Methods that edit or delete jobs."""

    def __init__(self, database: Database) -> None:
        self.database = database

    def change(self, job_id: str, wanted: JobChange, *, tenant: str | None = None) -> Job:
        """Change name, tags or priority of a job; values that are already set change nothing.

        Raises:
            UnknownJob: no job has this id.
            NotAllowed: the priority is to change and the job is not queued.
            SpecError: it would have too many tags.
        """
        patch = wanted.model_dump(include=wanted.model_fields_set)
        with self.database.write() as connection:
            job = ask(connection, job_id, None, tenant)
            spec = merged(job.spec, patch)
            values = _changed_columns(job, spec)
            if "priority" in values and job.state is not State.QUEUED:
                raise NotAllowed(job_id, "change the priority of", job.state.value, job.actions)
            if values:
                counted = {"spec": spec, "event_count": jobs.c.event_count + 1}
                row = connection.execute(
                    update(jobs).where(is_job(job_id)).values(values | counted).returning(jobs)
                ).one()
                write_tags(connection, row)
                write_event(
                    connection, row, "change", {name: getattr(row, name) for name in JobChange.model_fields}
                )
            return read_job(connection, job_id)

    def delete(self, job_id: str, *, tenant: str | None = None) -> None:
        """Delete a job that has ended, with its events and the names of its files.

        Its files on disk (the run directory, and artifacts that no other job names) are removed later by
        tidying.

        Raises:
            UnknownJob: no job has this id.
            NotAllowed: it has not ended.
            InUse: jobs that have not ended need its model.
        """
        with self.database.write() as connection:
            job = ask(connection, job_id, "delete", tenant)
            users = select(waits.c.job_id).join(jobs, jobs.c.id == waits.c.job_id)
            users = users.where(waits.c.waits_for == job.id, is_open()).order_by(jobs.c.number)
            if found := tuple(connection.scalars(users)):
                raise InUse(job_id, found)
            keep_gpu_hours(connection, job.id)
            gone = select(jobs.c.id, now()).where(is_job(job.id))
            connection.execute(insert(deleted).from_select(["id", "deleted_at"], gone))
            connection.execute(delete(waits).where(waits.c.waits_for == job.id))
            for table in (tagged, waits, uses, artifacts, events, attempts):
                connection.execute(delete(table).where(table.c.job_id == job.id))
            connection.execute(delete(jobs).where(is_job(job.id)))


def _changed_columns(job: Job, spec: dict[str, Any]) -> dict[str, Any]:
    """Return the columns whose values differ from the spec's.

    Raises:
        SpecError: the spec has too many tags.
    """
    if len(spec.get("tags", {})) > MOST_TAGS:
        message = f"the job would have {len(spec['tags'])} tags, and may have {MOST_TAGS}"
        raise SpecError(
            [Problem(loc=("tags",), message=message, hint="Take some away: null as their value.")]
        )
    fields = JobFields.model_validate({name: spec[name] for name in JobChange.model_fields if name in spec})
    values = {"name": fields.name or f"{job.kind}-{job.id}", "tags": fields.tags, "priority": fields.priority}
    changed = {name: value for name, value in values.items() if value != getattr(job, name)}
    return changed | ({"ring_at": now() + NOTIFY_AGAIN_SECONDS} if "priority" in changed else {})
