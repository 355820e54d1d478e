"""The app: parts in, a FastAPI application out.

uvicorn starts it with `uvicorn --factory api.app:from_environment`; `gkd api` and `gkd serve` do it for you.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib.metadata import version

from fastapi import FastAPI

from api import errors
from api.auth import Entrance
from api.border import Border
from api.deps import Services
from api.description import described
from api.feeds import Feeds
from api.figures import Told
from api.line import Line
from api.routes import artifacts as artifact_routes
from api.routes import (
    datasets,
    events,
    figures,
    health,
    jobs,
    keys,
    metrics,
    models,
    reference,
    stream,
    workers,
)
from api.watch import Watched
from jobs.artifacts import open_artifacts
from jobs.artifacts.base import Artifacts
from jobs.queue import Doorbell, make_app
from jobs.registry.check_runner import Checks
from jobs.registry.dataset_cache import Shelf
from jobs.settings import Settings
from jobs.store.store import Store

_OF_JOBS = (jobs, events, stream, metrics, artifact_routes)


def create_app(store: Store, artifacts: Artifacts, doorbell: Doorbell, settings: Settings) -> FastAPI:
    """The HTTP service over a store. The caller migrates and closes the store."""
    shelf = Shelf.of(settings, artifacts)
    checks = Checks(store, shelf, settings)
    app = described(version("gkd"), lifespan=lambda _: _while_served(checks))
    app.state.services = services = Services(
        store, artifacts, doorbell, settings, shelf, checks, Line(settings.look_seconds)
    )
    app.state.lookout = health.Lookout(services)
    app.state.feeds = feeds = Feeds(store)
    app.state.told = told = Told(store, feeds)
    app.add_middleware(Entrance, store=store, settings=settings)
    app.add_middleware(Border, upload_bytes=settings.upload_bytes)
    app.add_middleware(Watched, told=told)  # added last, passed first
    errors.install(app)
    for routes in (*_OF_JOBS, datasets, models, keys, workers, health, figures, reference):
        app.include_router(routes.router)
    return app


@asynccontextmanager
async def _while_served(checks: Checks) -> AsyncIterator[None]:
    """What goes on beside the answers for as long as a server stands in front of the app."""
    with checks:
        yield


def end_streams(app: FastAPI) -> None:
    """End what would go on for ever: a server that waits for its answers to end calls this first, in its loop."""
    app.state.feeds.close()


def from_environment() -> FastAPI:
    """The app as `GKD_*` variables describe it, its database migrated."""
    settings = Settings()
    artifacts, doorbell = open_artifacts(settings.artifacts_url), Doorbell(make_app(settings.broker_url))
    return create_app(Store.of(settings), artifacts, doorbell, settings)
