"""What a worker reports about itself, and the worker as clients see it. The rows belong to `store/workers.py`."""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum

from pydantic import BaseModel, ConfigDict


class Gpu(BaseModel):
    """One GPU of a worker, as reported by its driver. Values unknown to the driver are None."""

    model_config = ConfigDict(frozen=True, use_attribute_docstrings=True)

    index: int
    """The driver's index, in the order of the PCI bus."""
    uuid: str
    name: str
    memory_total: int | None = None
    """Bytes."""
    memory_used: int | None = None
    """Bytes, of all processes."""
    utilisation: int | None = None
    """Percent of the last second or so in which it was busy."""
    temperature: int | None = None
    """Degrees Celsius."""


class Presence(BaseModel):
    """A worker's report about itself."""

    model_config = ConfigDict(frozen=True, use_attribute_docstrings=True)

    name: str
    host: str
    version: str
    queues: tuple[str, ...]
    """Queues it listens to, most preferred first."""
    gpus: tuple[Gpu, ...] = ()
    draining: bool = False
    """It claims no more jobs."""


class WorkerState(StrEnum):
    """The state of a worker."""

    IDLE = "idle"
    BUSY = "busy"
    DRAINING = "draining"
    """It claims no more jobs; it may still be saving one."""
    LOST = "lost"
    """No heartbeat for as long as a lease: another worker has its job by now, or will soon."""


class Worker(Presence):
    """A worker as clients see it."""

    state: WorkerState
    job_id: str | None = None
    """The job it runs. None: none, or another tenant's."""
    started_at: datetime
    seen_at: datetime
    """Time of its last heartbeat."""
