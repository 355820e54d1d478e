"""Who may ask for what: tenants, scopes, API keys and limits, as values. Their rows are `store/keys.py`'s."""

from __future__ import annotations

import hashlib
import re
import secrets
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Annotated, NamedTuple

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from gkd_core.config import Strict
from jobs.names import VISIBLE, not_blank

DEFAULT_TENANT = "default"
"""Whose everything is where nobody made tenants."""

TENANT = r"[a-z0-9][a-z0-9-]{0,62}"
"""What a tenant may be called."""

MOST_CHARACTERS = 200
"""Of the name of a key."""
KeyName = Annotated[
    str,
    Field(min_length=1, max_length=MOST_CHARACTERS, json_schema_extra=VISIBLE),
    AfterValidator(not_blank),
]
"""What people call a key."""

_KEY = re.compile(r"gkd_(?P<id>[0-9a-f]{12})_[A-Za-z0-9_-]{43}", re.ASCII)


class Scope(StrEnum):
    """What a key allows."""

    READ = "read"
    """To look at everything of its tenant."""
    WRITE = "write"
    """To submit, change and delete in its tenant."""
    METRICS = "metrics"
    """To look at the numbers of the whole service, and at nothing else: for Prometheus."""
    ADMIN = "admin"
    """What concerns the whole service: keys, tenants and their limits. Includes the others: who may make keys could
    make himself one for them."""


@dataclass(frozen=True)
class Principal:
    """Who asks: a tenant, by which key, and what that key allows."""

    tenant: str
    key_id: str | None
    """None: without a key, which only the own machine may while there are no keys."""
    scopes: frozenset[str]

    def may(self, scope: Scope) -> bool:
        """Whether the key allows this."""
        return scope in self.scopes or Scope.ADMIN in self.scopes


ANYBODY = Principal(DEFAULT_TENANT, None, frozenset(Scope))
"""Who asks without a key, on the own machine, while there are no keys."""

ADMIN_KEY_ID = "environment"
"""Id of the key that stands in `GKD_ADMIN_KEY`."""


_MOST = 2**31 - 1
"""What an integer column of PostgreSQL holds: jobs are counted and compared there."""


class Limits(Strict):
    """How much of the service one tenant may have; null: as much as there is."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"running_jobs": 2, "queued_jobs": 100, "gpu_hours": 500}]},
    )

    requests_per_minute: int | None = Field(default=None, ge=1, le=_MOST)
    """By each key, counted in each process of the API; as many at once."""
    running_jobs: int | None = Field(default=None, ge=0, le=_MOST)
    """At once. Further ones stay queued until one has ended."""
    queued_jobs: int | None = Field(default=None, ge=0, le=_MOST)
    """Further ones are refused."""
    stored_bytes: int | None = Field(default=None, ge=0, le=2**53 - 1)
    """Of published files and uploads. Beyond it nothing new is taken in; what runs may still publish."""
    gpu_hours: float | None = Field(default=None, ge=0, le=1e9)
    """In the last 30 days. Beyond them no job that needs a GPU is taken in; what runs goes on."""


class Use(BaseModel):
    """How much of the service a tenant has now."""

    model_config = ConfigDict(frozen=True, use_attribute_docstrings=True)

    running_jobs: int
    queued_jobs: int
    stored_bytes: int
    """Of published files and uploads; files that hold the same count once."""
    gpu_hours: float
    """In the last 30 days: GPUs of the job times the length of each attempt."""


class Tenant(BaseModel):
    """A tenant, what it may have and what it has."""

    model_config = ConfigDict(frozen=True, use_attribute_docstrings=True)

    name: str
    limits: Limits
    use: Use


class Asker(BaseModel):
    """Who asks, and what his tenant may have and has."""

    model_config = ConfigDict(frozen=True, use_attribute_docstrings=True)

    key_id: str | None
    """Null: nobody has made keys, and this machine asks."""
    scopes: tuple[Scope, ...]
    tenant: Tenant


class Key(BaseModel):
    """An API key, without its secret, which nobody knows but who holds it."""

    model_config = ConfigDict(frozen=True, use_attribute_docstrings=True)

    id: str
    tenant: str
    name: str
    scopes: tuple[Scope, ...]
    created_at: datetime
    expires_at: datetime | None
    """None: never."""
    revoked_at: datetime | None
    used_at: datetime | None
    """Last use, to the minute."""


class Secret(NamedTuple):
    """A new key's text. It is shown once and stored nowhere."""

    key_id: str
    text: str


def new_secret() -> Secret:
    """A key that nobody can guess: 256 random bits behind its id."""
    key_id = secrets.token_hex(6)
    return Secret(key_id, f"gkd_{key_id}_{secrets.token_urlsafe(32)}")


def id_in(text: str) -> str | None:
    """The id that a key's text names; None where it cannot be a key."""
    match = _KEY.fullmatch(text)
    return match["id"] if match else None


def digest(text: str) -> str:
    """What is kept of a key: its SHA-256.

    A slow hash protects words that people think up; 256 random bits cannot be tried through, however quick it is.
    """
    return hashlib.sha256(text.encode(errors="replace")).hexdigest()
