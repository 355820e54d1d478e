"""Requests of users: submit, retry, clone, cancel, pause and resume a job."""

from __future__ import annotations

import hashlib
import json
from typing import Any

from sqlalchemy import Connection, select, update
from sqlalchemy.exc import IntegrityError

from jobs.errors import IdempotencyConflict, NotAllowed
from jobs.job import Desired, Job, State
from jobs.keys import DEFAULT_TENANT
from jobs.specs.spec import AnySpec, Resolved
from jobs.store.database import Database
from jobs.store.new_job import as_sent, insert_job
from jobs.store.reading import read_job
from jobs.store.resources import must_know
from jobs.store.tables import jobs
from jobs.store.transitions import fail_waiting, is_job, move, write_event


class Submission:
    """Methods of users."""

    def __init__(self, database: Database) -> None:
        self.database = database

    def submit(
        self,
        spec: AnySpec,
        resolved: Resolved,
        *,
        idempotency_key: str | None = None,
        tenant: str = DEFAULT_TENANT,
    ) -> tuple[Job, bool]:
        """Queue a job.

        Args:
            spec: The job's spec.
            resolved: What `jobs.specs.resolve` made of it.
            idempotency_key: The same key and spec of one tenant return the same job, however often they are
                sent.
            tenant: Owner of the job.

        Returns:
            The job, and whether it was created by this call.

        Raises:
            IdempotencyConflict: the key was sent with another spec before.
            QuotaExceeded: the tenant has reached a limit of jobs, bytes or GPU hours.
            UnknownJob: a job that it would wait for was deleted a moment ago.
            UnknownResource: a data set or model that it needs was deleted a moment ago.
        """
        return self._queue(spec, resolved, idempotency_key, tenant, _digest(spec))

    def find_by_idempotency_key(
        self, spec: AnySpec, idempotency_key: str | None, *, tenant: str = DEFAULT_TENANT
    ) -> Job | None:
        """Return the job that this key and spec of the tenant created earlier; None if there is none.

        Raises:
            IdempotencyConflict: the key was sent with another spec.
        """
        return self._find_earlier(idempotency_key, _digest(spec), tenant)

    def clone(
        self,
        job_id: str,
        changes: dict[str, Any],
        spec: AnySpec,
        resolved: Resolved,
        *,
        idempotency_key: str | None = None,
        tenant: str = DEFAULT_TENANT,
    ) -> Job:
        """Queue a changed copy of another job.

        Args:
            job_id: The other job.
            changes: Changes to its spec, as they were sent.
            spec: The changed spec.
            resolved: What `jobs.specs.resolve` made of it.
            idempotency_key: The same key, job and changes return the same clone, even if that job has changed
                since.
            tenant: Owner of the new job.

        Raises:
            As `submit`.
        """
        digest = _digest_of_clone(job_id, changes)
        return self._queue(spec, resolved, idempotency_key, tenant, digest)[0]

    def find_clone_by_idempotency_key(
        self,
        job_id: str,
        changes: dict[str, Any],
        idempotency_key: str | None,
        *,
        tenant: str = DEFAULT_TENANT,
    ) -> Job | None:
        """Return the clone that this key, job and changes created earlier; None if there is none.

        Raises:
            IdempotencyConflict: the key was sent with another request.
        """
        return self._find_earlier(idempotency_key, _digest_of_clone(job_id, changes), tenant)

    def find_retry_by_idempotency_key(
        self, job_id: str, idempotency_key: str | None, *, tenant: str = DEFAULT_TENANT
    ) -> Job | None:
        """Return the retry of this job that this key created earlier; None if there is none.

        Raises:
            IdempotencyConflict: the key was sent with another request.
        """
        return self._find_earlier(idempotency_key, _digest_of_retry(job_id), tenant)

    def retry(
        self,
        job_id: str,
        spec: AnySpec,
        resolved: Resolved,
        *,
        idempotency_key: str | None = None,
        tenant: str = DEFAULT_TENANT,
    ) -> Job:
        """Queue a new job that repeats a failed or cancelled one, which stays as it is.

        Args:
            job_id: The job to repeat.
            spec: Its spec.
            resolved: What the spec resolves to now.
            idempotency_key: The same key returns the same new job, however often it is sent.
            tenant: Owner of the job.

        Raises:
            UnknownJob: no job has this id.
            NotAllowed: it has not ended, or has succeeded.
            IdempotencyConflict: the key was sent with another request before.
            QuotaExceeded: the tenant has reached a limit.
        """
        digest = _digest_of_retry(job_id)
        return self._queue(spec, resolved, idempotency_key, tenant, digest, retry_of=job_id)[0]

    def _queue(
        self,
        spec: AnySpec,
        resolved: Resolved,
        key: str | None,
        tenant: str,
        digest: str,
        retry_of: str | None = None,
    ) -> tuple[Job, bool]:
        """Queue a job unless this key has queued it before; `digest` is of the whole request."""
        if earlier := self._find_earlier(key, digest, tenant):
            return earlier, False
        sent = {"tenant": tenant, "idempotency_key": _stored_key(key, tenant), "spec_digest": digest}
        try:
            with self.database.write() as connection:
                if retry_of is not None:
                    ask(connection, retry_of, "retry", tenant)
                job_id = insert_job(connection, spec, resolved, sent | {"retry_of": retry_of})
                return read_job(connection, job_id), True
        except IntegrityError:  # the same key came twice at the same moment, and the other request was first
            if earlier := self._find_earlier(key, digest, tenant):
                return earlier, False
            self._must_know(resolved)
            raise

    def _find_earlier(self, key: str | None, digest: str, tenant: str) -> Job | None:
        """Return the job that this key created earlier; None if there is none.

        Raises:
            IdempotencyConflict: it was sent with another request.
        """
        if key is None:
            return None
        query = select(jobs.c.id, jobs.c.spec_digest).where(
            jobs.c.idempotency_key == _stored_key(key, tenant)
        )
        with self.database.read() as connection:
            row = connection.execute(query).one_or_none()
            if row is None:
                return None
            if row.spec_digest != digest:
                raise IdempotencyConflict(key, row.id)
            return read_job(connection, row.id)

    def _must_know(self, resolved: Resolved) -> None:
        """Check that jobs and resources still exist which were looked up in an earlier transaction.

        Raises:
            UnknownJob: a job was deleted.
            UnknownResource: a data set or model was deleted.
        """
        with self.database.read() as connection:
            for job_id in resolved.waits_for:
                read_job(connection, job_id)
            must_know(connection, resolved.uses)

    def cancel_requested(self, job_id: str, *, tenant: str | None = None) -> Job:
        """Cancel a job: at once if it is not running, otherwise by a request to its worker.

        Raises:
            UnknownJob: no job has this id.
            NotAllowed: it has ended.
        """
        with self.database.write() as connection:
            job = ask(connection, job_id, "cancel", tenant)
            if job.state is State.RUNNING:
                _request(connection, job, Desired.CANCEL)
            else:
                move(connection, State.CANCELLED, is_job(job_id), reason="cancelled on request")
                fail_waiting(connection, job_id, State.CANCELLED)
            return read_job(connection, job_id)

    def pause_requested(self, job_id: str, *, tenant: str | None = None) -> Job:
        """Ask the worker of a running job to stop after a checkpoint and free its slot.

        Raises:
            UnknownJob: no job has this id.
            NotAllowed: it is not running, or is being cancelled.
        """
        with self.database.write() as connection:
            job = ask(connection, job_id, "pause", tenant, unless=Desired.PAUSE)
            _request(connection, job, Desired.PAUSE)
            return read_job(connection, job_id)

    def resume(self, job_id: str, *, tenant: str | None = None) -> Job:
        """Requeue a paused job, which resumes from its checkpoint.

        If the job was asked to pause and is still running, the request is withdrawn.

        Raises:
            UnknownJob: no job has this id.
            NotAllowed: it is neither paused nor asked to pause.
        """
        with self.database.write() as connection:
            job = ask(connection, job_id, "resume", tenant)
            if job.state is State.RUNNING:
                _request(connection, job, Desired.RUN)
            else:
                move(connection, State.QUEUED, is_job(job_id), reason="resumed")
            return read_job(connection, job_id)


def ask(
    connection: Connection, job_id: str, action: str | None, tenant: str | None, unless: Desired | None = None
) -> Job:
    """Return the job, locked until the transaction ends, if the action is allowed or was requested already.

    Args:
        connection: In a transaction that writes.
        job_id: The job.
        action: One of `Job.actions`; None: an action that is always allowed.
        tenant: Tenant that must own the job; None: any.
        unless: The request that makes this one a repetition.

    Raises:
        UnknownJob: no job has this id.
        NotAllowed: its state does not allow the action.
    """
    connection.execute(select(jobs.c.id).where(is_job(job_id, tenant)).with_for_update())
    job = read_job(connection, job_id, tenant)
    already = job.state is State.RUNNING and job.desired is unless
    if action is not None and action not in job.actions and not already:
        raise NotAllowed(job_id, action, job.state.value, job.actions)
    return job


def _request(connection: Connection, job: Job, desired: Desired) -> None:
    """Set the state that is wanted of a running job, for its worker to read. Idempotent."""
    if job.desired is desired:
        return
    where = f"running on {job.worker}"
    values = {
        "desired": desired.value,
        "reason": where if desired is Desired.RUN else f"{where}; asked to {desired.value}",
        "event_count": jobs.c.event_count + 1,
    }
    row = connection.execute(update(jobs).where(is_job(job.id)).values(values).returning(jobs)).one()
    write_event(connection, row, "request", {"desired": desired.value})


# ---- idempotency keys ------------------------------------------------------------------------------------


def _stored_key(key: str | None, tenant: str) -> str | None:
    """Return the key as stored, with the tenant as prefix.

    Tenants may use equal keys, and a tenant's name has no colon.
    """
    return None if key is None else f"{tenant}:{key}"


def _digest(spec: AnySpec) -> str:
    return hashlib.sha256(json.dumps(as_sent(spec), sort_keys=True).encode()).hexdigest()


def _digest_of_retry(job_id: str) -> str:
    return hashlib.sha256(f"retry {job_id}".encode()).hexdigest()


def _digest_of_clone(job_id: str, changes: dict[str, Any]) -> str:
    """Return the digest of a clone request: of what was sent, because the other job's spec may change or be deleted."""
    return hashlib.sha256(f"clone {job_id} {json.dumps(changes, sort_keys=True)}".encode()).hexdigest()
