"""Settings of the service: `GKD_...` environment variables, read once, then frozen."""

from __future__ import annotations

import os
import re
from ipaddress import ip_address
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import unquote, urlsplit

from pydantic import ByteSize, Field, SecretStr, field_validator, model_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from jobs.job import QUEUES

_GPU = re.compile(r"\d+|(GPU|MIG)-[\w/-]+")
"""A GPU, or a part of one, as in `CUDA_VISIBLE_DEVICES`."""

_HOST = re.compile(r"[a-z0-9_.-]+|\[[0-9a-f:]+\]", re.ASCII)
"""A name or address as in a `Host` header, without the port."""

_BUCKET = re.compile(r"s3://[a-z0-9][a-z0-9.-]{1,61}[a-z0-9](/[\w-][\w.-]*)*/?", re.ASCII)
"""A bucket name that S3 allows, and a prefix that needs no quoting anywhere."""


def _in_home(name: str) -> Any:
    """Return a field that defaults to a path in the home folder."""
    return Field(default_factory=lambda fields: fields["home"] / name)


def _scheme(url: str) -> str:
    """Return the part of a URL that is safe to show: the rest may contain a password."""
    return url.split("://")[0][:40]


def is_loopback(host: str) -> bool:
    """Return whether only the local machine reaches an address."""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


class Settings(BaseSettings):
    """Settings of the service. Each is the environment variable of the same name with the prefix `GKD_`.

    An empty variable counts as not set, so that `GKD_BROKER_URL=` in a compose file means the default.
    """

    model_config = SettingsConfigDict(
        env_prefix="GKD_", env_ignore_empty=True, frozen=True, validate_default=True, extra="ignore"
    )

    home: Path = Path("~/.gkd")
    """Folder of everything that the service writes, unless a setting below says otherwise."""
    database_url: str = Field(
        default_factory=lambda fields: f"sqlite:///{fields['home'] / 'gkd.db'}", repr=False
    )
    """`sqlite:///FILE`, or `postgresql://...` if several machines work together."""
    broker_url: str = Field(default="memory://", repr=False)
    """`memory://` if API and worker share one process, else `redis://...`."""
    artifacts_url: Annotated[Path | str, NoDecode] = _in_home("artifacts")
    """Where published files are stored, the same for every API process and worker: a folder (or `file://`
    URL), or `s3://BUCKET/PREFIX`. Endpoint, region and credentials of S3 are set as for any AWS tool:
    `AWS_ENDPOINT_URL_S3`, `AWS_DEFAULT_REGION`, `AWS_ACCESS_KEY_ID`, `AWS_SECRET_ACCESS_KEY`, a profile, or
    the machine's role."""
    data_roots: Annotated[tuple[Path, ...], NoDecode] = (Path(),)
    """Folders under which jobs may read, separated as in `PATH`."""

    lease_seconds: float = Field(default=60.0, gt=0)
    """Time without a heartbeat after which a worker loses its job."""
    renew_seconds: float = Field(default=10.0, gt=0)
    """Interval of a worker's heartbeats: six chances within a lease."""
    sweep_seconds: float = Field(default=15.0, gt=0)
    """Interval of the sweeps for lost jobs and lost notifications."""
    stop_seconds: float = Field(default=20.0, gt=0)
    """Grace period of an engine that was asked to stop until SIGTERM, and once more until SIGKILL. At most
    twice this and `renew_seconds` pass until a cancelled job's process is gone: less than a minute."""
    max_attempts: int = Field(default=3, ge=1)
    """Attempts in a row without a saved checkpoint after which a job fails for good."""
    gpus: Annotated[int | tuple[str, ...] | None, NoDecode] = None
    """GPUs of the worker: the first so many; or these, by index or UUID (`0,1`; a single one as `1,`). None:
    all. No two workers may share a GPU."""
    queues: Annotated[tuple[str, ...] | None, NoDecode] = None
    """Queues that the worker listens to, most preferred first. None: all for which it has the GPUs, those
    that need most first, so that no job without a GPU keeps a GPU from a job that needs it."""
    free_bytes: ByteSize = Field(default=ByteSize(2 * 1024**3), ge=0)
    """Bytes that must stay free on the disks of run directories and published files; with less no job is
    started, and a running one is paused until there is space. `5GiB` can be written so."""
    keep_states: Literal["never", "ended"] | float = "ended"
    """How long the checkpoints of an ended job are kept: `never`; `ended`: until it has ended for good, so
    that a job can be retried that failed because of its machine; or a number of days after any end."""
    keep_runs_days: float | None = Field(default=None, ge=0)
    """Days after its end for which a job's run directory (log, figures, raw events) is kept. None: for ever.
    Events, report and published files are stored elsewhere and stay."""
    upload_bytes: ByteSize = Field(default=ByteSize(20 * 1024**3), ge=1)
    """Maximum size of an upload. COCO with its pictures has 20 GiB; put larger ones under a data root."""
    unpacked_bytes: ByteSize = Field(default=ByteSize(100 * 1024**3), ge=1)
    """Maximum unpacked size of an uploaded archive."""
    check_memory: ByteSize = Field(default=ByteSize(4 * 1024**3), ge=256 * 1024**2)
    """Maximum address space of a process that checks a registered or uploaded resource. The annotations of
    COCO take two GiB."""
    check_seconds: float = Field(default=1800.0, ge=1)
    """Timeout of such a check, and also its limit of CPU time of all threads together. A picture takes a few
    milliseconds."""
    look_seconds: float = Field(default=120.0, ge=1)
    """Timeout for the inspection of a submission's data and weights; after it the submission is refused with
    503. COCO on a local disk takes ten seconds; a file server that does not answer is not waited for."""
    host: str = "127.0.0.1"
    """Address to listen on."""
    port: int = Field(default=8000, ge=0, le=65535)
    """Port to listen on; 0 takes a free one."""
    allowed_hosts: Annotated[tuple[str, ...] | None, NoDecode] = None
    """Names by which the service may be called (`Host`), with commas between, without port; those of the loopback
    may always. None: any once there are keys, since without one nobody gets anything; those of the loopback while
    there are none."""
    connections: int = Field(default=1000, ge=1)
    """Maximum connections of one API process; each stream and each long poll is one. Beyond it the
    connection that has been idle longest is closed; if all are active, the new one gets 503. Less if the
    system allows the process too few open files: two are needed for each, and 256 more."""
    header_seconds: float = Field(default=30.0, gt=0)
    """Timeout for the headers of a request, from the connection or the previous answer on."""
    admin_key: SecretStr | None = Field(default=None, min_length=32)
    """A key of the tenant `default` with every scope, for deployments where no command can create the first
    one, such as containers. At least 32 random characters: whoever has it controls the service. With it, or
    with a key in the database, the API may listen beyond the loopback."""

    log_format: Literal["json", "console"] | None = None
    """Log format on stderr: `json`, one JSON object per line, or `console`, for people. None: `console` on a
    terminal, otherwise `json`."""

    @property
    def on_loopback(self) -> bool:
        """Return whether only the local machine reaches the API."""
        return is_loopback(self.host)

    @property
    def incoming(self) -> Path:
        """Return the folder of uploads in progress."""
        return self.home / "incoming"

    @property
    def runs(self) -> Path:
        """Return the folder of the run directories, one per job."""
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
    def _folder_or_bucket(cls, value: Any) -> Any:
        if not isinstance(value, str) or value.startswith("s3://"):
            return value
        if "://" not in value:
            return Path(value)
        url = urlsplit(value)
        if url.scheme != "file":
            raise ValueError(f"needs a folder, a file:// URL or s3://BUCKET/PREFIX, not {url.scheme}://")
        return Path(unquote(url.path))

    @field_validator("artifacts_url")
    @classmethod
    def _definite_place(cls, place: Path | str) -> Path | str:
        if isinstance(place, Path):
            return place.expanduser().absolute()
        if not _BUCKET.fullmatch(place):
            raise ValueError(
                "needs s3://BUCKET or s3://BUCKET/PREFIX, of letters, digits and . _ - only; "
                "keys and endpoint of S3 are set by AWS_... variables"
            )
        return place.rstrip("/")

    @field_validator("gpus", mode="before")
    @classmethod
    def _count_or_list(cls, value: Any) -> Any:
        if not isinstance(value, str) or value.strip().isdecimal():
            return value
        return tuple(name.strip() for name in value.split(",") if name.strip())

    @field_validator("gpus")
    @classmethod
    def _real_gpus(cls, gpus: int | tuple[str, ...] | None) -> int | tuple[str, ...] | None:
        if isinstance(gpus, tuple) and not all(_GPU.fullmatch(name) for name in gpus):
            raise ValueError(
                f"needs a count, or indices or UUIDs of GPUs with commas between, got {','.join(gpus)!r}"
            )
        if isinstance(gpus, int) and gpus < 0:
            raise ValueError(f"a worker cannot have {gpus} GPUs")
        if isinstance(gpus, tuple) and len(set(gpus)) < len(gpus):
            raise ValueError(f"names a GPU twice: {','.join(gpus)}")
        return gpus

    @field_validator("queues", mode="before")
    @classmethod
    def _split_queues(cls, value: Any) -> Any:
        return (
            tuple(name.strip() for name in value.split(",") if name.strip())
            if isinstance(value, str)
            else value
        )

    @field_validator("queues")
    @classmethod
    def _known_queues(cls, queues: tuple[str, ...] | None) -> tuple[str, ...] | None:
        if queues is not None and (not queues or not set(queues) <= set(QUEUES)):
            raise ValueError(f"needs one or more of {', '.join(QUEUES)}, got {','.join(queues)!r}")
        return queues

    @field_validator("allowed_hosts", mode="before")
    @classmethod
    def _split_hosts(cls, value: Any) -> Any:
        if not isinstance(value, str):
            return value
        return tuple(name.strip().lower() for name in value.split(",") if name.strip())

    @field_validator("allowed_hosts")
    @classmethod
    def _plain_hosts(cls, hosts: tuple[str, ...] | None) -> tuple[str, ...] | None:
        if wrong := [host for host in hosts or () if not _HOST.fullmatch(host)]:
            raise ValueError(f"needs host names without port, with commas between, got {wrong[0]!r}")
        return hosts

    @field_validator("keep_states")
    @classmethod
    def _real_days(cls, keep: str | float) -> str | float:
        if isinstance(keep, float) and not 0 <= keep < float("inf"):
            raise ValueError("needs never, ended or a number of days")
        return keep

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
