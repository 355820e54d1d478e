"""What a worker says of itself, and how others see it. The rows are `store/workers.py`'s."""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum

from pydantic import BaseModel, ConfigDict


class Gpu(BaseModel):
    """One GPU of a worker, as its driver tells. What the driver does not know is None."""

    model_config = ConfigDict(frozen=True, use_attribute_docstrings=True)

    index: int
    """The driver's number of it, in the order of the PCI bus."""
    uuid: str
    name: str
    memory_total: int | None = None
    """Bytes."""
    memory_used: int | None = None
    """Bytes, by whichever process."""
    utilisation: int | None = None
    """Percent of the last second or so in which it worked."""
    temperature: int | None = None
    """Degrees Celsius."""


class Presence(BaseModel):
    """A worker's word about itself."""

    model_config = ConfigDict(frozen=True, use_attribute_docstrings=True)

    name: str
    host: str
    version: str
    queues: tuple[str, ...]
    """What it listens to, what it prefers first."""
    gpus: tuple[Gpu, ...] = ()
    draining: bool = False
    """It takes no job any more."""


class WorkerState(StrEnum):
    """What a worker does."""

    IDLE = "idle"
    BUSY = "busy"
    DRAINING = "draining"
    """It takes no job any more; it may still be saving one."""
    LOST = "lost"
    """No sign of life for as long as a lease: its job is somebody else's by now, or is about to be."""


class Worker(Presence):
    """A worker as others see it."""

    state: WorkerState
    job_id: str | None = None
    """What it runs. None: nothing, or another tenant's job."""
    started_at: datetime
    seen_at: datetime
    """Its last sign of life."""
