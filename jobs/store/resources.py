"""Data sets and models in the store: registration, checks, listing, deletion."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from typing import Any, NamedTuple

from sqlalchemy import Column, Connection, Row, and_, delete, insert, or_, select, update

from jobs.errors import ResourceInUse, UnknownResource
from jobs.resources import (
    CheckedResource,
    Layout,
    NewResource,
    Resource,
    ResourceKind,
    ResourceState,
    Verdict,
)
from jobs.store.database import Database, now, storable
from jobs.store.leases import LeasePolicy
from jobs.store.quotas import keep_leaving, limits_of, must_store
from jobs.store.reading import Reading, moment
from jobs.store.tables import jobs, resources, uses
from jobs.store.transitions import Condition, is_open

MOST_CHECKS = 3
"""How often a check may be lost with the process that ran it before the resource is refused."""
_IN_LISTS = [column for column in resources.c if column.name not in ("report", "fingerprint")]


class ResourcePage(NamedTuple):
    """One page of a list of data sets or models, with the cursor of the next one."""

    items: tuple[Resource, ...]
    next: str | None
    """Pass it as `after` for the next page; None on the last page."""


class Check(NamedTuple):
    """A claimed check of a data set or model; needed to write its result."""

    resource: CheckedResource
    number: int
    """Which check of the resource this is, from 1."""


class Resources:
    """Methods about data sets and models."""

    def __init__(self, database: Database, policy: LeasePolicy, reading: Reading) -> None:
        self.database = database
        self.policy = policy
        self._reading = reading

    # ---- users -----------------------------------------------------------------------------------------------

    def add_resource(self, new: NewResource, *, tenant: str) -> tuple[Resource, bool]:
        """Register a data set or a model, to be checked. An identical upload is not registered twice.

        Returns:
            The resource, and whether it was created by this call.

        Raises:
            QuotaExceeded: the tenant has reached its limit of stored bytes.
        """
        with self.database.write() as connection:
            if new.uploaded:  # of two identical concurrent uploads, the second finds what the first created
                limits_of(connection, tenant, lock=True)
            if earlier := _same_upload(connection, new, tenant):
                return _resource(earlier), False
            if new.uploaded:
                must_store(connection, tenant, new.size)
            values = {
                **new._asdict(),
                "id": secrets.token_hex(6),
                "kind": new.kind.value,
                "name": storable(new.name),
                "layout": new.layout.model_dump(mode="json") if new.layout else None,
                "tenant": tenant,
                "uploaded": new.uploaded,
                "state": ResourceState.CHECKING.value,
                "reason": "waiting to be checked",
                "created_at": now(),
            }
            return _resource(
                connection.execute(insert(resources).values(values).returning(resources)).one()
            ), True

    def get_resource(
        self, kind: ResourceKind, resource_id: str, *, tenant: str | None = None
    ) -> CheckedResource:
        """Return a data set or a model, with its report.

        Raises:
            UnknownResource: the tenant has none of this id.
        """
        with self.database.read() as connection:
            return _checked(_find(connection, kind, resource_id, tenant))

    def list_resources(
        self,
        kind: ResourceKind,
        *,
        tenant: str | None = None,
        state: str | None = None,
        after: str | None = None,
        limit: int = 50,
    ) -> ResourcePage:
        """Return a page of data sets or models, newest first.

        Args:
            kind: Which of the two.
            tenant: Only those of this tenant.
            state: Only those in this state.
            after: The `next` of the previous page.
            limit: Maximum number in a page.

        Raises:
            UnknownCursor: `after` is not the `next` of an earlier page.
        """
        cursors = self._reading.cursors(kind.value, tenant)
        query = select(*_IN_LISTS).where(resources.c.kind == kind.value).order_by(resources.c.number.desc())
        if tenant is not None:
            query = query.where(resources.c.tenant == tenant)
        if state is not None:
            query = query.where(resources.c.state == storable(state))
        if after is not None:
            query = query.where(resources.c.number < cursors.number(after))
        with self.database.read() as connection:
            rows = connection.execute(query.limit(limit + 1)).all()
        following = cursors.after(rows[limit - 1].number) if len(rows) > limit else None
        return ResourcePage(tuple(_resource(row) for row in rows[:limit]), following)

    def delete_resource(self, kind: ResourceKind, resource_id: str, *, tenant: str | None = None) -> None:
        """Delete a data set or a model.

        An uploaded file is removed from disk later by tidying; files under a data root stay.

        Raises:
            UnknownResource: the tenant has none of this id.
            ResourceInUse: jobs that have not ended need it.
        """
        with self.database.write() as connection:
            # Locked: a job that is submitted at this moment waits, and then finds it deleted.
            row = _find(connection, kind, resource_id, tenant, lock=True, columns=_IN_LISTS)
            users = select(uses.c.job_id).join(jobs, jobs.c.id == uses.c.job_id)
            users = users.where(uses.c.resource_id == row.id, is_open()).order_by(jobs.c.number)
            if found := tuple(connection.scalars(users)):
                raise ResourceInUse(kind, resource_id, found)
            if row.state != ResourceState.REFUSED:  # otherwise that was done when it was refused
                keep_leaving(connection, row.id)
            connection.execute(delete(uses).where(uses.c.resource_id == row.id))
            connection.execute(delete(resources).where(resources.c.id == row.id))

    # ---- checks ----------------------------------------------------------------------------------------------

    def next_check(self) -> Check | None:
        """Claim the resource that has waited longest for a check, for the time of a lease.

        None if there is none.
        """
        free = and_(_is_checking(), or_(resources.c.lease_until.is_(None), resources.c.lease_until < now()))
        first = select(resources.c.number).where(free).order_by(resources.c.number).limit(1)
        with self.database.read() as connection:  # usually there is none, and nothing is written
            if connection.scalar(first) is None:
                return None
        mine = {"lease_until": now() + self.policy.lease_seconds, "checks": resources.c.checks + 1}
        claim = update(resources).values(mine).returning(resources)
        with self.database.write() as connection:
            number = connection.scalar(first.with_for_update(skip_locked=True))
            row = connection.execute(claim.where(resources.c.number == number, free)).one_or_none()
        if row is None:  # another caller was first
            return None
        check = Check(_checked(row), row.checks)
        if row.checks <= MOST_CHECKS:
            return check
        reason = f"given up after {MOST_CHECKS} tries; the last time: {row.reason}"
        self.conclude_check(check, Verdict(state=ResourceState.REFUSED, reason=reason))
        return None

    def renew_check(self, check: Check) -> None:
        """Renew the lease of a check."""
        with self.database.write() as connection:
            connection.execute(
                update(resources)
                .where(*_is_held(check))
                .values(lease_until=now() + self.policy.lease_seconds)
            )

    def release_check(self, check: Check) -> None:
        """Release a check, as if it had not been started, so that another process can claim it."""
        with self.database.write() as connection:
            values = {"lease_until": None, "checks": resources.c.checks - 1}
            connection.execute(update(resources).where(*_is_held(check)).values(values))

    def conclude_check(self, check: Check, verdict: Verdict) -> None:
        """Write the result of a check.

        Nothing is written if the resource was deleted or another process took the check over.

        A check that could not be done now keeps its lease, so that some time passes before the next try; such a
        try does not count, because S3 may be unavailable for longer than a few of them.
        """
        known = {"size": verdict.size, "sha256": verdict.sha256, "fingerprint": verdict.fingerprint}
        values: dict[str, Any] = {name: value for name, value in known.items() if value is not None}
        if verdict.state is ResourceState.CHECKING:
            values |= {"checks": resources.c.checks - 1}
        else:
            values |= {"checked_at": now(), "lease_until": None, "report": verdict.report}
        values |= {"state": verdict.state.value, "reason": storable(verdict.reason)}
        with self.database.write() as connection:
            written = connection.execute(update(resources).where(*_is_held(check)).values(values))
            if written.rowcount and verdict.state is ResourceState.REFUSED:
                keep_leaving(connection, check.resource.id)

    def uploads(self) -> frozenset[str]:
        """Return the SHA-256 of every uploaded file that is kept."""
        with self.database.read() as connection:
            return kept_uploads(connection)


def kept_uploads(connection: Connection) -> frozenset[str]:
    """Return the SHA-256 of every uploaded file that is needed; files of refused uploads are not."""
    query = select(resources.c.sha256).where(resources.c.uploaded.is_(True), _is_kept())
    return frozenset(filter(None, connection.scalars(query.distinct())))


def must_know(connection: Connection, resource_ids: Sequence[str]) -> None:
    """Check that resources still exist which were looked up in an earlier transaction.

    Raises:
        UnknownResource: one of them was deleted.
    """
    there = set(connection.scalars(select(resources.c.id).where(resources.c.id.in_(resource_ids))))
    for resource_id in resource_ids:
        if resource_id not in there:
            raise UnknownResource("data set or model", resource_id)


def _same_upload(connection: Connection, new: NewResource, tenant: str) -> Row[Any] | None:
    if not new.uploaded:
        return None
    same = (resources.c.sha256 == new.sha256, resources.c.uploaded.is_(True))
    named = (resources.c.name == storable(new.name), resources.c.kind == new.kind.value)
    query = select(resources).where(resources.c.tenant == tenant, *same, *named, _is_kept())
    return next((row for row in connection.execute(query) if _layout(row) == new.layout), None)


def _layout(row: Row[Any]) -> Layout | None:
    """Return the layout of a row, which may have been written by a release with fewer fields."""
    return None if row.layout is None else Layout.model_validate(row.layout)


def _find(
    connection: Connection,
    kind: ResourceKind,
    resource_id: str,
    tenant: str | None,
    *,
    lock: bool = False,
    columns: Sequence[Column[Any]] = tuple(resources.c),
) -> Row[Any]:
    query = select(*columns).where(resources.c.id == storable(resource_id), resources.c.kind == kind.value)
    if tenant is not None:
        query = query.where(resources.c.tenant == tenant)
    row = connection.execute(query.with_for_update() if lock else query).one_or_none()
    if row is None:
        raise UnknownResource(kind, resource_id)
    return row


def _is_checking() -> Condition:
    return resources.c.state == ResourceState.CHECKING.value


def _is_kept() -> Condition:
    return resources.c.state != ResourceState.REFUSED.value


def _is_held(check: Check) -> tuple[Condition, ...]:
    return resources.c.id == check.resource.id, resources.c.checks == check.number, _is_checking()


def _resource(row: Row[Any]) -> Resource:
    return Resource.model_validate(_fields(row, Resource))


def _checked(row: Row[Any]) -> CheckedResource:
    return CheckedResource.model_validate(_fields(row, CheckedResource))


def _fields(row: Row[Any], model: type[Resource]) -> dict[str, Any]:
    fields = {name: getattr(row, name) for name in model.model_fields}
    return fields | {name: moment(fields[name]) for name in ("created_at", "checked_at")}
