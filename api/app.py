"""The FastAPI application, assembled from the store, the artifacts, the job queue and the settings.

uvicorn starts it with `uvicorn --factory api.app:from_environment`; `gkd api` and `gkd serve` do it for you.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib.metadata import version

from fastapi import FastAPI

from api import errors
from api.auth import Authenticator, AuthMiddleware
from api.deps import Services
from api.description import described
from api.feeds import Feeds
from api.metrics import ServiceMetrics
from api.request_guard import RequestGuard
from api.request_log import RequestLog
from api.routes import artifacts as artifact_routes
from api.routes import (
    datasets,
    events,
    health,
    jobs,
    keys,
    metrics,
    models,
    reference,
    service_metrics,
    stream,
    workers,
)
from api.submission_limit import Line
from api.ui import compare_page, job_actions, job_list, job_page, login, new_job, resource_pages, static_files
from api.ui.error_pages import ErrorPages
from jobs.artifacts import open_artifacts
from jobs.artifacts.base import Artifacts
from jobs.queue import JobQueue, make_app
from jobs.registry.check_runner import Checks
from jobs.registry.dataset_cache import DatasetCache
from jobs.settings import Settings
from jobs.store.store import Store

_OF_JOBS = (jobs, events, stream, metrics, artifact_routes)
_PAGES = (login, compare_page, new_job, job_list, job_page, job_actions, static_files, resource_pages)


def create_app(store: Store, artifacts: Artifacts, job_queue: JobQueue, settings: Settings) -> FastAPI:
    """Return the HTTP service over a store. The caller migrates and closes the store."""
    dataset_cache = DatasetCache.of(settings, artifacts)
    checks = Checks(store, dataset_cache, settings)
    app = described(version("gkd"), lifespan=lambda _: _while_served(checks))
    app.state.services = services = Services(
        store, artifacts, job_queue, settings, dataset_cache, checks, Line(settings.look_seconds)
    )
    app.state.readiness = health.ReadinessProbe(services)
    app.state.curve_cache = job_page.CurveCache()
    app.state.feeds = feeds = Feeds(store)
    app.state.metrics = metrics = ServiceMetrics(store, feeds)
    app.state.authenticator = authenticator = Authenticator(store, settings)
    app.add_middleware(AuthMiddleware, authenticator=authenticator)
    app.add_middleware(RequestGuard, upload_bytes=settings.upload_bytes, allowed_hosts=settings.allowed_hosts)
    app.add_middleware(RequestLog, metrics=metrics)
    app.add_middleware(ErrorPages)  # added last, passed first
    errors.install(app)
    for routes in (*_OF_JOBS, datasets, models, keys, workers, health, service_metrics, reference, *_PAGES):
        app.include_router(routes.router)
    return app


@asynccontextmanager
async def _while_served(checks: Checks) -> AsyncIterator[None]:
    """Run the background checks while a server serves the app."""
    with checks:
        yield


def end_streams(app: FastAPI) -> None:
    """End all streams, which would never end by themselves. A server calls this in its loop when it shuts down."""
    app.state.feeds.close()


def from_environment() -> FastAPI:
    """Return the app as `GKD_*` variables configure it, its database migrated."""
    settings = Settings()
    artifacts, job_queue = open_artifacts(settings.artifacts_url), JobQueue(make_app(settings.broker_url))
    return create_app(Store.of(settings), artifacts, job_queue, settings)
