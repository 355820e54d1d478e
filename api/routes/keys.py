"""Keys, tenants and their limits; everything but the first route is for who administrates the service."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Path
from pydantic import BaseModel, ConfigDict, Field

from api.deps import AdminDep, PrincipalDep, ServicesDep
from gkd_core.config import Strict
from jobs.keys import DEFAULT_TENANT, TENANT, Asker, Key, KeyName, Limits, Scope, Tenant

router = APIRouter(tags=["keys"])

TenantName = Annotated[str, Path(pattern=f"^{TENANT}$", description="Of a tenant.", examples=["lab"])]

_DAY = 86400.0


class NewKey(Strict):
    """A key to be made."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [{"name": "ci", "tenant": "lab", "scopes": ["read", "write"], "expires_in_days": 90}]
        }
    )

    name: KeyName
    """What people call it."""
    tenant: str = Field(default=DEFAULT_TENANT, pattern=f"^{TENANT}$")
    """Whose things it opens; made if it is new."""
    scopes: frozenset[Scope] = Field(
        default=frozenset({Scope.READ, Scope.WRITE}), min_length=1, json_schema_extra={"uniqueItems": False}
    )
    """What it allows."""
    expires_in_days: float | None = Field(default=90, gt=0, le=36_500)
    """Null: never."""


class MadeKey(BaseModel):
    """A new key."""

    model_config = ConfigDict(frozen=True, use_attribute_docstrings=True)

    key: Key
    secret: str
    """What is sent as `Authorization: Bearer ...`. It is shown here and never again."""


@router.get("/whoami")
def whoami(services: ServicesDep, principal: PrincipalDep) -> Asker:
    """Who the service takes you for, what you may have and what you have."""
    tenant = services.store.keys.tenant(principal.tenant)
    return Asker(key_id=principal.key_id, scopes=tuple(sorted(principal.scopes)), tenant=tenant)


@router.get("/keys")
def list_keys(services: ServicesDep, _: AdminDep) -> tuple[Key, ...]:
    """Every key there ever was, without its secret."""
    return services.store.keys.list_keys()


@router.post("/keys", status_code=201)
def create_key(new: NewKey, services: ServicesDep, _: AdminDep) -> MadeKey:
    """Make a key. Its secret is in the answer and never again."""
    seconds = None if new.expires_in_days is None else new.expires_in_days * _DAY
    key, secret = services.store.keys.create_key(new.tenant, new.name, new.scopes, seconds=seconds)
    return MadeKey(key=key, secret=secret.text)


@router.delete("/keys/{key_id}")
def revoke_key(key_id: str, services: ServicesDep, _: AdminDep) -> Key:
    """End a key; within a few seconds it opens nothing any more."""
    return services.store.keys.revoke_key(key_id)


@router.get("/tenants")
def list_tenants(services: ServicesDep, _: AdminDep) -> tuple[Tenant, ...]:
    """Everybody, with limits and use."""
    return services.store.keys.tenants()


@router.put("/tenants/{name}/limits")
def set_limits(name: TenantName, limits: Limits, services: ServicesDep, _: AdminDep) -> Tenant:
    """Say what a tenant may have; what is left out has no limit."""
    return services.store.keys.set_limits(name, limits.model_dump())
