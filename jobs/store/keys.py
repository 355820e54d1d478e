"""Tenants in the store: their API keys and limits."""

from __future__ import annotations

import hmac
import re
from collections.abc import Collection, Mapping
from typing import Any, NamedTuple

from sqlalchemy import ColumnElement, Connection, Row, and_, exists, insert, or_, select, update
from sqlalchemy.dialects import postgresql, sqlite

from jobs.errors import InvalidKeyName, InvalidTenant, UnknownKey
from jobs.keys import (
    MOST_CHARACTERS,
    TENANT,
    Key,
    Limits,
    Principal,
    Scope,
    Secret,
    Tenant,
    digest,
    new_secret,
)
from jobs.store.database import Database, now, storable
from jobs.store.quotas import limits_of, must_store, use_of
from jobs.store.reading import moment
from jobs.store.tables import jobs, keys, tenants

_USED_EVERY_SECONDS = 60.0
"""Minimum time between two updates of a key's `used_at`: a request must not cost a write."""


class Admitted(NamedTuple):
    """The principal and limits that belong to a valid key."""

    principal: Principal
    limits: Limits
    """Limits of the principal's tenant."""


class Keys:
    """Methods about keys and tenants, for administrators and the API's authentication."""

    def __init__(self, database: Database) -> None:
        self.database = database

    # ---- keys ----

    def create_key(
        self, tenant: str, name: str, scopes: Collection[Scope], *, seconds: float | None = None
    ) -> tuple[Key, Secret]:
        """Create a key, and its tenant if it is new.

        Args:
            tenant: Tenant whose jobs and files the key gives access to.
            name: A name for people.
            scopes: What the key allows.
            seconds: Time until it expires; None: never.

        Returns:
            The key and its secret text, which cannot be read again.

        Raises:
            InvalidTenant: the tenant's name is not valid.
            InvalidKeyName: the key's name is empty or too long.
        """
        if not name.strip() or len(name) > MOST_CHARACTERS:
            raise InvalidKeyName(name)
        secret = new_secret()
        values = {
            "id": secret.key_id,
            "tenant": tenant,
            "name": storable(name),
            "hash": digest(secret.text),
            "scopes": sorted(scopes),
            "created_at": now(),
            "expires_at": None if seconds is None else now() + seconds,
        }
        with self.database.write() as connection:
            _must_exist(connection, tenant)
            row = connection.execute(insert(keys).values(values).returning(keys)).one()
        return _key(row), secret

    def list_keys(self, tenant: str | None = None) -> tuple[Key, ...]:
        """Return all keys, oldest first, including revoked and expired ones.

        With `tenant` only those of that tenant.
        """
        query = select(keys).order_by(keys.c.created_at, keys.c.id)
        if tenant is not None:
            query = query.where(keys.c.tenant == storable(tenant))
        with self.database.read() as connection:
            return tuple(_key(row) for row in connection.execute(query))

    def revoke_key(self, key_id: str) -> Key:
        """Revoke a key for good. Idempotent.

        Raises:
            UnknownKey: no key has this id.
        """
        same = keys.c.id == storable(key_id)
        with self.database.write() as connection:
            connection.execute(update(keys).where(same, keys.c.revoked_at.is_(None)).values(revoked_at=now()))
            row = connection.execute(select(keys).where(same)).one_or_none()
        if row is None:
            raise UnknownKey(key_id)
        return _key(row)

    def has_keys(self) -> bool:
        """Return whether a key was ever created.

        Revoked keys count: revoking the last one must not disable authentication.
        """
        with self.database.read() as connection:
            return bool(connection.scalar(select(exists(select(keys.c.id)))))

    def admit(self, key_id: str, sha256: str) -> Admitted | None:
        """Return who a key belongs to, if it is valid.

        Wrong, unknown, expired and revoked keys give the same answer and take the same time.

        Args:
            key_id: The id in the key's text.
            sha256: SHA-256 of the whole text.

        Returns:
            The principal and its limits; None if the key is not valid.
        """
        good = and_(keys.c.revoked_at.is_(None), or_(keys.c.expires_at.is_(None), keys.c.expires_at > now()))
        query = select(keys, tenants.c.limits, good.label("good"), _use_is_due().label("unnoted"))
        query = query.join(tenants, tenants.c.name == keys.c.tenant).where(keys.c.id == key_id)
        with self.database.read() as connection:
            row = connection.execute(query).one_or_none()
        same = hmac.compare_digest(row.hash if row else "0" * 64, sha256)
        if row is None or not (same and row.good):
            return None
        if row.unnoted:
            self._note_use(key_id)
        principal = Principal(row.tenant, row.id, frozenset(map(Scope, row.scopes)))
        return Admitted(principal, Limits.model_validate(row.limits))

    def _note_use(self, key_id: str) -> None:
        with self.database.write() as connection:
            connection.execute(update(keys).where(keys.c.id == key_id, _use_is_due()).values(used_at=now()))

    # ---- tenants ----

    def tenant(self, name: str) -> Tenant:
        """Return a tenant with its limits and usage; an unknown tenant has no limits."""
        with self.database.read() as connection:
            return _tenant(connection, name)

    def tenants(self) -> tuple[Tenant, ...]:
        """Return every tenant that has a key, limits or jobs, by name."""
        names = select(tenants.c.name).union(select(jobs.c.tenant))
        with self.database.read() as connection:
            return tuple(_tenant(connection, name) for name in sorted(connection.scalars(names)))

    def limits(self, tenant: str) -> Limits:
        """Return the limits of a tenant."""
        with self.database.read() as connection:
            return limits_of(connection, tenant)

    def set_limits(self, tenant: str, changes: Mapping[str, float | None]) -> Tenant:
        """Change some limits of a tenant; it is created if it is new.

        Args:
            tenant: Its name.
            changes: Limits by name; None removes one.

        Returns:
            The tenant after the change.

        Raises:
            InvalidTenant: the name is not valid.
            ValidationError: there is no such limit, or it cannot have this value.
        """
        with self.database.write() as connection:
            _must_exist(connection, tenant)
            wanted = Limits.model_validate(
                limits_of(connection, tenant, lock=True).model_dump() | dict(changes)
            )
            values = {"limits": wanted.model_dump(exclude_none=True)}
            connection.execute(update(tenants).where(tenants.c.name == tenant).values(values))
            return _tenant(connection, tenant)

    def must_store(self, tenant: str, size: int) -> None:
        """Check that a tenant may store more bytes.

        Args:
            tenant: Owner of the bytes.
            size: Number of bytes to add.

        Raises:
            QuotaExceeded: the limit on stored bytes would be exceeded.
        """
        with self.database.read() as connection:
            must_store(connection, tenant, size)


def _must_exist(connection: Connection, tenant: str) -> None:
    """Create a tenant unless it exists; safe if several do so at once.

    Raises:
        InvalidTenant: the name is not valid.
    """
    if not re.fullmatch(TENANT, tenant):
        raise InvalidTenant(tenant)
    dialect = postgresql if connection.dialect.name == "postgresql" else sqlite
    new = dialect.insert(tenants).values(name=tenant, limits={}, created_at=now())
    connection.execute(new.on_conflict_do_nothing())


def _use_is_due() -> ColumnElement[bool]:
    """Return the condition that a key's `used_at` is old enough to be updated."""
    return or_(keys.c.used_at.is_(None), keys.c.used_at < now() - _USED_EVERY_SECONDS)


def _tenant(connection: Connection, name: str) -> Tenant:
    return Tenant(name=name, limits=limits_of(connection, name), use=use_of(connection, name))


def _key(row: Row[Any]) -> Key:
    fields = {name: getattr(row, name) for name in ("id", "tenant", "name", "scopes")}
    times = ("created_at", "expires_at", "revoked_at", "used_at")
    return Key.model_validate(fields | {name: moment(getattr(row, name)) for name in times})
