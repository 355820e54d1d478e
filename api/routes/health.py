"""Liveness and readiness."""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, wait
from functools import partial
from typing import Literal

from fastapi import APIRouter, Request, Response
from pydantic import BaseModel, ConfigDict

from api.deps import Services
from jobs.errors import ArtifactsRefused, StoreRefuses, WrongRevision
from jobs.queue import BrokerRefuses
from jobs.sync.background import run_in_background

router = APIRouter(tags=["health"])

log = logging.getLogger(__name__)

LOOK_SECONDS = 2.5
"""Timeout after which a part counts as not ready. Container health checks wait for 4 s (`gkd health`)."""
WRITE_SECONDS = 5.0
"""Minimum time between two test writes to the database, of all API processes together."""
REFUSED_SECONDS = 10.0
"""Time for which the database counts as not ready after it refused any write of this API process."""


class Alive(BaseModel):
    """The process answers."""

    status: Literal["alive"] = "alive"


class Readiness(BaseModel):
    """Which parts of the service are ready."""

    model_config = ConfigDict(frozen=True, use_attribute_docstrings=True)

    status: Literal["ready", "not ready"]
    """Ready if every part is."""
    parts: dict[str, str]
    """By name: `ready`, or `not ready:` and the kind of error; details are in the log."""


@router.get("/healthz")
async def healthz() -> Alive:
    """Report that the process answers. The parts that it needs are not checked; a restart would not help those."""
    return Alive()


@router.get("/readyz", responses={503: {"model": Readiness, "description": "some part is not ready"}})
def readyz(request: Request, response: Response) -> Readiness:
    """Report whether jobs can be submitted and read: database, broker, artifacts and data roots."""
    readiness: ReadinessProbe = request.app.state.readiness
    found = readiness.check()
    if found.status != "ready":
        response.status_code = 503
    return found


class ReadinessProbe:
    """Checks the parts, all at once, for one caller at a time.

    Each is checked in a thread of its own, one thread per part: one that hangs blocks no other, however many
    callers there are and however long it hangs.

    Args:
        services: The parts.
    """

    def __init__(self, services: Services) -> None:
        self._checks: dict[str, Callable[[], None]] = {
            "database": _Database(services).look,
            "broker": lambda: services.job_queue.ping(),
            "artifacts": lambda: services.artifacts.ping(),
            "data_roots": lambda: _roots_exist(services),
        }
        self._running: dict[str, Future[str]] = {}
        self._latest = Readiness(
            status="not ready", parts=dict.fromkeys(self._checks, "not ready: not looked at yet")
        )
        self._looking = threading.Lock()

    def check(self) -> Readiness:
        """Check all parts now; while another caller does, return the latest result."""
        if not self._looking.acquire(blocking=False):
            return self._latest
        try:
            parts = self._check_all()
            ready = set(parts.values()) == {"ready"}
            self._latest = Readiness(status="ready" if ready else "not ready", parts=parts)
            return self._latest
        finally:
            self._looking.release()

    def _check_all(self) -> dict[str, str]:
        for name, check in self._checks.items():
            if name not in self._running or self._running[name].done():
                self._running[name] = run_in_background(
                    partial(_check_part, name, check), name=f"look at {name}"
                )
        wait(self._running.values(), LOOK_SECONDS)
        return {
            name: look.result() if look.done() else _log_timeout(name) for name, look in self._running.items()
        }


class _Database:
    """The check of the database, which does not try a write each time."""

    def __init__(self, services: Services) -> None:
        self._store = services.store
        self._written_at = -math.inf

    def look(self) -> None:
        """Check that the database answers, has the right revision, and accepts writes.

        Raises:
            JobsError: One of these fails.
        """
        self._store.ping()
        if self._store.database.refusal(REFUSED_SECONDS) or self._is_due():
            self._store.try_writing(WRITE_SECONDS, REFUSED_SECONDS)
            self._written_at = time.monotonic()

    def _is_due(self) -> bool:
        return time.monotonic() - self._written_at >= WRITE_SECONDS


def _log_timeout(name: str) -> str:
    log.warning("%s is not ready: no answer within %g s", name, LOOK_SECONDS)
    return f"not ready: no answer within {LOOK_SECONDS:g} s"


def _check_part(name: str, check: Callable[[], None]) -> str:
    try:
        check()
    except (ArtifactsRefused, BrokerRefuses, StoreRefuses, WrongRevision) as error:
        log.warning("%s is not ready: %s", name, error)
        return f"not ready: {error.message}"
    except Exception as error:  # whatever a driver raises: it is not ready
        log.warning("%s is not ready: %s", name, error)
        return f"not ready: {type(error).__name__}"
    return "ready"


def _roots_exist(services: Services) -> None:
    for root in services.settings.data_roots:
        if not root.is_dir():
            raise NotADirectoryError(f"GKD_DATA_ROOTS names {root}, which is no folder")
