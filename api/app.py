"""The app: parts in, a FastAPI application out.

uvicorn starts it with `uvicorn --factory api.app:from_environment`; `gkd api` and `gkd serve` do it for you.
"""

from __future__ import annotations

from importlib.metadata import version

from fastapi import FastAPI

from api import errors
from api.auth import Entrance
from api.border import Border
from api.deps import Services
from api.description import described
from api.feeds import Feeds
from api.figures import Figures
from api.routes import artifacts as artifact_routes
from api.routes import events, health, jobs, keys, metrics, reference, stream, workers
from api.watch import Watched
from jobs.artifacts import Artifacts, open_artifacts
from jobs.queue import Doorbell, make_app
from jobs.settings import Settings
from jobs.store import Store


def create_app(store: Store, artifacts: Artifacts, doorbell: Doorbell, settings: Settings) -> FastAPI:
    """The HTTP service over a store. The caller migrates and closes the store."""
    app = described(version("gkd"))
    app.state.services = Services(store, artifacts, doorbell, settings)
    app.state.feeds = feeds = Feeds(store)
    app.state.figures = figures = Figures(feeds)
    app.add_middleware(Entrance, store=store, settings=settings)
    app.add_middleware(Border)
    app.add_middleware(Watched, figures=figures)  # added last, passed first
    errors.install(app)
    for routes in (jobs, events, stream, metrics, artifact_routes, keys, health, workers, reference):
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
