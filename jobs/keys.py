"""Tenants, scopes, API keys and limits, as values. Their rows belong to `store/keys.py`."""

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
"""The tenant of everything if no tenants were created."""

TENANT = r"[a-z0-9][a-z0-9-]{0,62}"
"""Pattern of a tenant's name."""

MOST_CHARACTERS = 200
"""Maximum length of a key's name."""
KeyName = Annotated[
    str,
    Field(min_length=1, max_length=MOST_CHARACTERS, json_schema_extra=VISIBLE),
    AfterValidator(not_blank),
]
"""Name of a key, for people."""

_KEY = re.compile(r"gkd_(?P<id>[0-9a-f]{12})_[A-Za-z0-9_-]{43}", re.ASCII)


class Scope(StrEnum):
    """What a key allows."""

    READ = "read"
    """Read everything of its tenant."""
    WRITE = "write"
    """Submit, change and delete in its tenant."""
    METRICS = "metrics"
    """Read the metrics of the whole service, and nothing else: for Prometheus."""
    ADMIN = "admin"
    """Manage the whole service: keys, tenants and their limits. Includes the other scopes, since an
    administrator can create a key with them."""


@dataclass(frozen=True)
class Principal:
    """The authenticated caller: a tenant, a key, and the scopes of that key."""

    tenant: str
    key_id: str | None
    """None: without a key, which is allowed from the local machine only, while there are no keys."""
    scopes: frozenset[str]

    def may(self, scope: Scope) -> bool:
        """Return whether the key has this scope."""
        return scope in self.scopes or Scope.ADMIN in self.scopes


ANYBODY = Principal(DEFAULT_TENANT, None, frozenset(Scope))
"""The caller without a key, on the local machine, while there are no keys."""

ADMIN_KEY_ID = "environment"
"""Id of the key in `GKD_ADMIN_KEY`."""


_MOST = 2**31 - 1
"""Maximum of an integer column of PostgreSQL: jobs are counted and compared there."""


class Limits(Strict):
    """Limits of one tenant; null: no limit."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"running_jobs": 2, "queued_jobs": 100, "gpu_hours": 500}]},
    )

    requests_per_minute: int | None = Field(default=None, ge=1, le=_MOST)
    """For each key, counted in each API process; also the size of a burst."""
    running_jobs: int | None = Field(default=None, ge=0, le=_MOST)
    """Running at once. Further jobs stay queued until one has ended."""
    queued_jobs: int | None = Field(default=None, ge=0, le=_MOST)
    """Further jobs are refused."""
    stored_bytes: int | None = Field(default=None, ge=0, le=2**53 - 1)
    """Of published files and uploads. Beyond it no job or upload is accepted; running jobs may still
    publish."""
    gpu_hours: float | None = Field(default=None, ge=0, le=1e9)
    """In the last 30 days. Beyond it no job that needs a GPU is accepted; running jobs go on."""


class Use(BaseModel):
    """The current usage of a tenant."""

    model_config = ConfigDict(frozen=True, use_attribute_docstrings=True)

    running_jobs: int
    queued_jobs: int
    stored_bytes: int
    """Of published files and uploads; files of equal content count once."""
    gpu_hours: float
    """In the last 30 days: GPUs of the job times the duration of each attempt."""


class Tenant(BaseModel):
    """A tenant with its limits and usage."""

    model_config = ConfigDict(frozen=True, use_attribute_docstrings=True)

    name: str
    limits: Limits
    use: Use


class Asker(BaseModel):
    """The caller of a request, with its tenant's limits and usage."""

    model_config = ConfigDict(frozen=True, use_attribute_docstrings=True)

    key_id: str | None
    """Null: there are no keys, and the request comes from the local machine."""
    scopes: tuple[Scope, ...]
    tenant: Tenant


class Key(BaseModel):
    """An API key without its secret, which only its holder knows."""

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
    """Time of the last use, to the minute."""


class Secret(NamedTuple):
    """A new key's text. It is shown once and not stored."""

    key_id: str
    text: str


def new_secret() -> Secret:
    """Return a new key: its id and 256 random bits."""
    key_id = secrets.token_hex(6)
    return Secret(key_id, f"gkd_{key_id}_{secrets.token_urlsafe(32)}")


def id_in(text: str) -> str | None:
    """Return the id in a key's text; None if the text is not a key."""
    match = _KEY.fullmatch(text)
    return match["id"] if match else None


def digest(text: str) -> str:
    """Return the stored form of a key: its SHA-256.

    A slow hash protects passwords chosen by people; 256 random bits cannot be found by trying, however fast the
    hash.
    """
    return hashlib.sha256(text.encode(errors="replace")).hexdigest()
