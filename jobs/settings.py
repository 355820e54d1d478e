"""Where the service keeps things and how patient it is: `GKD_...` in the environment, read once, then frozen."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import unquote, urlsplit

from pydantic import Field, field_validator, model_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict


def _in_home(name: str) -> Any:
    """A default that lies in the home folder, wherever that is."""
    return Field(default_factory=lambda fields: fields["home"] / name)


def _scheme(url: str) -> str:
    """As much of a URL as may be shown: what follows may hold a password."""
    return url.split("://")[0][:40]


class Settings(BaseSettings):
    """Settings of the service. Each is the environment variable of the same name with the prefix `GKD_`.

    An empty variable counts as not set, so that `GKD_BROKER_URL=` in a compose file means the default.
    """

    model_config = SettingsConfigDict(
        env_prefix="GKD_", env_ignore_empty=True, frozen=True, validate_default=True, extra="ignore"
    )

    home: Path = Path("~/.gkd")
    """Everything that the service writes lies here, unless a setting below says otherwise."""
    database_url: str = Field(default_factory=lambda fields: f"sqlite:///{fields['home'] / 'gkd.db'}")
    """`sqlite:///FILE`, or `postgresql://...` when several machines work together."""
    broker_url: str = "memory://"
    """`memory://` when API and worker share one process, else `redis://...`."""
    artifacts_url: Annotated[Path, NoDecode] = _in_home("artifacts")
    """Folder (or `file://` URL) of published files; every API and worker must see the same one."""
    data_roots: Annotated[tuple[Path, ...], NoDecode] = (Path(),)
    """Folders under which jobs may read, separated as in `PATH`."""

    lease_seconds: float = Field(default=60.0, gt=0)
    """A worker that is silent for so long has lost its job."""
    renew_seconds: float = Field(default=10.0, gt=0)
    """How often a worker gives a sign of life: six chances within a lease."""
    sweep_seconds: float = Field(default=15.0, gt=0)
    """How often lost jobs and lost rings are looked for."""
    stop_seconds: float = Field(default=30.0, gt=0)
    """Grace of an engine that was asked to stop until SIGTERM, and once more until SIGKILL."""
    max_attempts: int = Field(default=3, ge=1)
    """Attempts in a row that saved nothing, after which a job fails for good."""
    gpus: int | None = Field(default=None, ge=0)
    """GPUs that the worker may use; None: count them."""
    host: str = "127.0.0.1"
    """Address to listen on."""
    port: int = Field(default=8000, ge=0, le=65535)
    """Port to listen on; 0 takes a free one."""
    insecure_listen: bool = False
    """Listen on other addresses than the loopback though there are no keys: only for a container whose port is
    not published without a proxy that authenticates."""

    @property
    def runs(self) -> Path:
        """Folder of the run directories, one per job."""
        return self.home / "runs"

    @field_validator("home")
    @classmethod
    def _absolute_home(cls, home: Path) -> Path:
        return home.expanduser().absolute()

    @field_validator("database_url")
    @classmethod
    def _known_database(cls, url: str) -> str:
        if not url.startswith(("sqlite:///", "postgres://", "postgresql://", "postgresql+")):
            raise ValueError(f"needs sqlite:///FILE or postgresql://USER@HOST/NAME, got {_scheme(url)!r}")
        return url

    @field_validator("broker_url")
    @classmethod
    def _known_broker(cls, url: str) -> str:
        if url != "memory://" and not url.startswith(("redis://", "rediss://", "redis+")):
            raise ValueError(f"needs redis://HOST:6379/0 or memory://, got {_scheme(url)!r}")
        return url

    @field_validator("artifacts_url", mode="before")
    @classmethod
    def _folder_of_url(cls, value: Any) -> Any:
        if not isinstance(value, str) or "://" not in value:
            return value
        url = urlsplit(value)
        if url.scheme != "file":
            raise ValueError(
                f"artifacts are kept in a folder: give a path or file:// URL, not {url.scheme}://"
            )
        return unquote(url.path)

    @field_validator("artifacts_url")
    @classmethod
    def _absolute_artifacts(cls, folder: Path) -> Path:
        return folder.expanduser().absolute()

    @field_validator("data_roots", mode="before")
    @classmethod
    def _split_roots(cls, value: Any) -> Any:
        return tuple(filter(None, value.split(os.pathsep))) if isinstance(value, str) else value

    @field_validator("data_roots")
    @classmethod
    def _absolute_roots(cls, roots: tuple[Path, ...]) -> tuple[Path, ...]:
        if not roots:
            raise ValueError("name at least one folder under which jobs may read")
        return tuple(root.expanduser().absolute() for root in roots)

    @model_validator(mode="after")
    def _leases_outlive_renewals(self) -> Settings:
        if self.renew_seconds * 2 > self.lease_seconds:
            raise ValueError(
                f"renew_seconds {self.renew_seconds:g} must be at most half of lease_seconds "
                f"{self.lease_seconds:g}, or one lost renewal loses the job"
            )
        return self
