"""Who may ask for what: tenants, scopes and API keys, as values. The rows are `store_keys`'s, the headers `api`'s."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

DEFAULT_TENANT = "default"
"""Whose everything is where nobody made tenants."""


class Scope(StrEnum):
    """What a key allows."""

    READ = "read"
    WRITE = "write"
    ADMIN = "admin"


@dataclass(frozen=True)
class Principal:
    """Who asks: a tenant, by which key, and what that key allows."""

    tenant: str
    key_id: str | None
    """None: without a key, which only the own machine may while there are no keys."""
    scopes: frozenset[str]


ANYBODY = Principal(DEFAULT_TENANT, None, frozenset(Scope))
"""Who asks without a key, on the own machine, while there are no keys."""
