"""The app: parts in, a FastAPI application out.

uvicorn starts it with `uvicorn --factory api.app:from_environment`; `gkd api` and `gkd serve` do it for you.
"""

from __future__ import annotations

from importlib.metadata import version
from typing import Any

from fastapi import FastAPI

from api import errors
from api.auth import OPEN, Entrance
from api.border import Border
from api.deps import Services
from api.feeds import Feeds
from api.routes import artifacts as artifact_routes
from api.routes import events, health, jobs, keys, metrics, stream, workers
from jobs.artifacts import Artifacts, open_artifacts
from jobs.queue import Doorbell, make_app
from jobs.settings import Settings
from jobs.store import Store

_PROBLEM = {"$ref": "#/components/schemas/ProblemDetails"}


class _App(FastAPI):
    """FastAPI, but its description says of which media type the errors are."""

    def openapi(self) -> dict[str, Any]:
        """The description at /openapi.json."""
        description = super().openapi()
        description["components"]["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
        for path, operations in description["paths"].items():
            for operation in operations.values():
                operation["security"] = [] if path in OPEN else [{"key": []}]
                for status in ("4XX", "422"):  # else it says what the route gives: JSON, text or a file
                    operation["responses"][status]["content"] = {errors.MEDIA_TYPE: {"schema": _PROBLEM}}
        return description


def create_app(store: Store, artifacts: Artifacts, doorbell: Doorbell, settings: Settings) -> FastAPI:
    """The HTTP service over a store. The caller migrates and closes the store."""
    refusal: dict[str, Any] = {"model": errors.ProblemDetails, "description": "what is wrong (RFC 9457)"}
    app = _App(
        title="GKD",
        version=version("gkd"),
        description="Distils object detectors, and proves what that gained against a control.",
        responses={"4XX": refusal, 422: refusal},
    )
    app.state.services = Services(store, artifacts, doorbell, settings)
    app.state.feeds = Feeds(store)
    app.add_middleware(Entrance, store=store, settings=settings)
    app.add_middleware(Border)  # added last, passed first
    errors.install(app)
    for routes in (jobs, events, stream, metrics, artifact_routes, keys, health, workers):
        app.include_router(routes.router)
    return app


def end_streams(app: FastAPI) -> None:
    """End what would go on for ever: a server that waits for its answers to end calls this first, in its loop."""
    app.state.feeds.close()


def from_environment() -> FastAPI:
    """The app as `GKD_*` variables describe it, its database migrated."""
    settings = Settings()
    artifacts, doorbell = open_artifacts(settings.artifacts_url), Doorbell(make_app(settings.broker_url))
    return create_app(Store.of(settings), artifacts, doorbell, settings)
