"""Is it alive, and is it ready?"""

from __future__ import annotations

import logging
from collections.abc import Callable

from fastapi import APIRouter
from fastapi.responses import JSONResponse

from api.deps import Services, ServicesDep
from jobs.errors import ArtifactsRefused

router = APIRouter(tags=["health"])

log = logging.getLogger(__name__)


@router.get("/healthz")
async def healthz() -> dict[str, str]:
    """The process answers. Says nothing about the parts that it needs; a restart would not help those."""
    return {"status": "alive"}


@router.get("/readyz", responses={503: {"description": "the parts that are not ready, and why"}})
def readyz(services: ServicesDep) -> JSONResponse:
    """Whether jobs can be taken in and found: database, broker, published files and data roots."""
    checks: dict[str, Callable[[], None]] = {
        "database": services.store.ping,
        "broker": services.doorbell.ping,
        "artifacts": services.artifacts.ping,
        "data_roots": lambda: _roots_exist(services),
    }
    parts = {name: _state(name, check) for name, check in checks.items()}
    ready = all(state == "ready" for state in parts.values())
    body = {"status": "ready" if ready else "not ready", "parts": parts}
    return JSONResponse(body, 200 if ready else 503)


def _state(name: str, check: Callable[[], None]) -> str:
    try:
        check()
    except ArtifactsRefused as error:
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
