"""What the store knows of tenants: their keys and limits."""

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
from jobs.store.database import now, storable
from jobs.store.quotas import limits_of, must_store, use_of
from jobs.store.reading import Reading, moment
from jobs.store.tables import jobs, keys, tenants

_USED_EVERY_SECONDS = 60.0
"""Between two writes of a key's last use: asking must not cost a write."""


class Admitted(NamedTuple):
    """Who holds a good key."""

    principal: Principal
    limits: Limits
    """His tenant's."""


class Keys(Reading):
    """The verbs of who administrates, and of the API's entrance."""

    # ---- keys ----

    def create_key(
        self, tenant: str, name: str, scopes: Collection[Scope], *, seconds: float | None = None
    ) -> tuple[Key, Secret]:
        """Make a key, and the tenant if it is new.

        Args:
            tenant: Whose things it opens.
            name: What people call it.
            scopes: What it allows.
            seconds: Until it expires; None: never.

        Returns:
            The key, and its text, which cannot be read again.

        Raises:
            InvalidTenant: nobody can be called so.
            InvalidKeyName: no key can.
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
        """All keys, oldest first, revoked and expired ones too; only those of a tenant where one is named."""
        query = select(keys).order_by(keys.c.created_at, keys.c.id)
        if tenant is not None:
            query = query.where(keys.c.tenant == storable(tenant))
        with self.database.read() as connection:
            return tuple(_key(row) for row in connection.execute(query))

    def revoke_key(self, key_id: str) -> Key:
        """End a key for good. Harmless twice.

        Raises:
            UnknownKey: there is none of this id.
        """
        same = keys.c.id == storable(key_id)
        with self.database.write() as connection:
            connection.execute(update(keys).where(same, keys.c.revoked_at.is_(None)).values(revoked_at=now()))
            row = connection.execute(select(keys).where(same)).one_or_none()
        if row is None:
            raise UnknownKey(key_id)
        return _key(row)

    def has_keys(self) -> bool:
        """Whether a key was ever made. Revoked ones count: the last one's end must not open the door to all."""
        with self.database.read() as connection:
            return bool(connection.scalar(select(exists(select(keys.c.id)))))

    def admit(self, key_id: str, sha256: str) -> Admitted | None:
        """Whom a key lets in. Keys that are wrong, unknown, expired and revoked are not told apart, nor take longer.

        Args:
            key_id: The id that the key's text names.
            sha256: Digest of the whole text.

        Returns:
            None where it lets nobody in.
        """
        good = and_(keys.c.revoked_at.is_(None), or_(keys.c.expires_at.is_(None), keys.c.expires_at > now()))
        query = select(keys, tenants.c.limits, good.label("good"), _unnoted().label("unnoted"))
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
            connection.execute(update(keys).where(keys.c.id == key_id, _unnoted()).values(used_at=now()))

    # ---- tenants ----

    def tenant(self, name: str) -> Tenant:
        """What a tenant may have and has; one that nobody has made has no limits."""
        with self.database.read() as connection:
            return _tenant(connection, name)

    def tenants(self) -> tuple[Tenant, ...]:
        """Everybody who has a key, limits or jobs, by name."""
        names = select(tenants.c.name).union(select(jobs.c.tenant))
        with self.database.read() as connection:
            return tuple(_tenant(connection, name) for name in sorted(connection.scalars(names)))

    def limits(self, tenant: str) -> Limits:
        """What a tenant may have."""
        with self.database.read() as connection:
            return limits_of(connection, tenant)

    def set_limits(self, tenant: str, changes: Mapping[str, float | None]) -> Tenant:
        """Change some limits of a tenant; it is made if it is new.

        Args:
            tenant: Its name.
            changes: Limits by name; None lifts one.

        Raises:
            InvalidTenant: nobody can be called so.
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
        """Refuse what would not fit into what a tenant may keep.

        Args:
            tenant: Whose it would be.
            size: Bytes to come.

        Raises:
            QuotaExceeded: it would be too much.
        """
        with self.database.read() as connection:
            must_store(connection, tenant, size)


def _must_exist(connection: Connection, tenant: str) -> None:
    """Make a tenant unless it is there; several may do so at once."""
    if not re.fullmatch(TENANT, tenant):
        raise InvalidTenant(tenant)
    dialect = postgresql if connection.dialect.name == "postgresql" else sqlite
    new = dialect.insert(tenants).values(name=tenant, limits={}, created_at=now())
    connection.execute(new.on_conflict_do_nothing())


def _unnoted() -> ColumnElement[bool]:
    """Whether a use now is worth a write."""
    return or_(keys.c.used_at.is_(None), keys.c.used_at < now() - _USED_EVERY_SECONDS)


def _tenant(connection: Connection, name: str) -> Tenant:
    return Tenant(name=name, limits=limits_of(connection, name), use=use_of(connection, name))


def _key(row: Row[Any]) -> Key:
    fields = {name: getattr(row, name) for name in ("id", "tenant", "name", "scopes")}
    times = ("created_at", "expires_at", "revoked_at", "used_at")
    return Key.model_validate(fields | {name: moment(getattr(row, name)) for name in times})
