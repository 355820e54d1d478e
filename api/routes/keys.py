"""Keys, tenants and their limits; all routes but the first are for administrators."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Path
from pydantic import BaseModel, ConfigDict, Field

from api.deps import AdminDep, PrincipalDep, ServicesDep
from gkd_core.config import Strict
from jobs.keys import DEFAULT_TENANT, TENANT, Asker, Key, KeyName, Limits, Scope, Tenant

router = APIRouter(tags=["keys"])

TenantName = Annotated[str, Path(pattern=f"^{TENANT}$", description="Name of a tenant.", examples=["lab"])]

_DAY = 86400.0


class NewKey(Strict):
    """A key to be created."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [{"name": "ci", "tenant": "lab", "scopes": ["read", "write"], "expires_in_days": 90}]
        }
    )

    name: KeyName
    """Name for people."""
    tenant: str = Field(default=DEFAULT_TENANT, pattern=f"^{TENANT}$")
    """The tenant that the key gives access to; created if it is new."""
    scopes: frozenset[Scope] = Field(
        default=frozenset({Scope.READ, Scope.WRITE}), min_length=1, json_schema_extra={"uniqueItems": False}
    )
    """What the key allows."""
    expires_in_days: float | None = Field(default=90, gt=0, le=36_500)
    """Null: never."""


class MadeKey(BaseModel):
    """A new key."""

    model_config = ConfigDict(frozen=True, use_attribute_docstrings=True)

    key: Key
    secret: str
    """Sent as `Authorization: Bearer ...`. It is shown here and never again."""


@router.get("/whoami")
def whoami(services: ServicesDep, principal: PrincipalDep) -> Asker:
    """Return the authenticated caller with its tenant's limits and usage."""
    tenant = services.store.keys.tenant(principal.tenant)
    return Asker(key_id=principal.key_id, scopes=tuple(sorted(principal.scopes)), tenant=tenant)


@router.get("/keys")
def list_keys(services: ServicesDep, _: AdminDep) -> tuple[Key, ...]:
    """List all keys ever created, without their secrets."""
    return services.store.keys.list_keys()


@router.post("/keys", status_code=201)
def create_key(new: NewKey, services: ServicesDep, _: AdminDep) -> MadeKey:
    """Create a key. Its secret is in this answer and never shown again."""
    seconds = None if new.expires_in_days is None else new.expires_in_days * _DAY
    key, secret = services.store.keys.create_key(new.tenant, new.name, new.scopes, seconds=seconds)
    return MadeKey(key=key, secret=secret.text)


@router.delete("/keys/{key_id}")
def revoke_key(key_id: str, services: ServicesDep, _: AdminDep) -> Key:
    """Revoke a key; it is refused after a few seconds at most."""
    return services.store.keys.revoke_key(key_id)


@router.get("/tenants")
def list_tenants(services: ServicesDep, _: AdminDep) -> tuple[Tenant, ...]:
    """List all tenants, with limits and usage."""
    return services.store.keys.tenants()


@router.put("/tenants/{name}/limits")
def set_limits(name: TenantName, limits: Limits, services: ServicesDep, _: AdminDep) -> Tenant:
    """Set the limits of a tenant; an absent field means no limit."""
    return services.store.keys.set_limits(name, limits.model_dump())
