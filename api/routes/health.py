"""Is it alive, and is it ready?"""

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
"""After which a part that says nothing is not ready. Whoever watches over containers waits for 4 s (`gkd health`)."""
WRITE_SECONDS = 5.0
"""Between two tries to write to the database, of all APIs together."""
REFUSED_SECONDS = 10.0
"""How long the database is not ready after it refused a write to anybody who asked this API."""


class Alive(BaseModel):
    """The process answers."""

    status: Literal["alive"] = "alive"


class Readiness(BaseModel):
    """Which parts of the service are ready."""

    model_config = ConfigDict(frozen=True, use_attribute_docstrings=True)

    status: Literal["ready", "not ready"]
    """Ready once every part is."""
    parts: dict[str, str]
    """By name: `ready`, or `not ready:` and what kind of error was met; the log says more."""


@router.get("/healthz")
async def healthz() -> Alive:
    """Say that the process answers. Nothing about the parts that it needs; a restart would not help those."""
    return Alive()


@router.get("/readyz", responses={503: {"model": Readiness, "description": "some part is not ready"}})
def readyz(request: Request, response: Response) -> Readiness:
    """Say whether jobs can be taken in and found: database, broker, published files and data roots."""
    readiness: ReadinessProbe = request.app.state.readiness
    found = readiness.check()
    if found.status != "ready":
        response.status_code = 503
    return found


class ReadinessProbe:
    """Looks at the parts, all at once and for one who asks at a time.

    Each is looked at in a thread of its own, one thread a part: one that hangs holds that and no more, however many ask
    and however long it hangs.

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
        self._looks: dict[str, Future[str]] = {}
        self._latest = Readiness(
            status="not ready", parts=dict.fromkeys(self._checks, "not ready: not looked at yet")
        )
        self._looking = threading.Lock()

    def check(self) -> Readiness:
        """Look now; while somebody else does, what was found the last time."""
        if not self._looking.acquire(blocking=False):
            return self._latest
        try:
            parts = self._look_at_all()
            ready = set(parts.values()) == {"ready"}
            self._latest = Readiness(status="ready" if ready else "not ready", parts=parts)
            return self._latest
        finally:
            self._looking.release()

    def _look_at_all(self) -> dict[str, str]:
        for name, check in self._checks.items():
            if name not in self._looks or self._looks[name].done():
                self._looks[name] = run_in_background(partial(_state, name, check), name=f"look at {name}")
        wait(self._looks.values(), LOOK_SECONDS)
        return {name: look.result() if look.done() else _silent(name) for name, look in self._looks.items()}


class _Database:
    """Looks at the database; whether it takes writes is not tried each time."""

    def __init__(self, services: Services) -> None:
        self._store = services.store
        self._written_at = -math.inf

    def look(self) -> None:
        """Find out whether it answers, is as this release needs it, and takes writes.

        Raises:
            JobsError: It does not, or is not.
        """
        self._store.ping()
        if self._store.database.refusal(REFUSED_SECONDS) or self._is_due():
            self._store.try_writing(WRITE_SECONDS, REFUSED_SECONDS)
            self._written_at = time.monotonic()

    def _is_due(self) -> bool:
        return time.monotonic() - self._written_at >= WRITE_SECONDS


def _silent(name: str) -> str:
    log.warning("%s is not ready: no answer within %g s", name, LOOK_SECONDS)
    return f"not ready: no answer within {LOOK_SECONDS:g} s"


def _state(name: str, check: Callable[[], None]) -> str:
    try:
        check()
    except (ArtifactsRefused, BrokerRefuses, StoreRefuses, WrongRevision) as error:
        log.warning("%s is not ready: %s", name, error)
        return f"not ready: {error.message}"
    except Exception as error:  # whatever a driver throws: it is not ready
        log.warning("%s is not ready: %s", name, error)
        return f"not ready: {type(error).__name__}"
    return "ready"


def _roots_exist(services: Services) -> None:
    for root in services.settings.data_roots:
        if not root.is_dir():
            raise NotADirectoryError(f"GKD_DATA_ROOTS names {root}, which is no folder")
