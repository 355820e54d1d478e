"""Dependencies of the routes: the services that the app was assembled from, and the caller."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Annotated, TypeVar

from anyio import CapacityLimiter, move_on_after, to_thread
from fastapi import Depends, Request

from api.errors import lacks
from api.feeds import Feeds
from api.submission_limit import Line, begin_to_write
from jobs.artifacts.base import Artifacts
from jobs.errors import UnknownJob, UnknownResource
from jobs.job import Job
from jobs.keys import Principal, Scope
from jobs.queue import JobQueue
from jobs.registry.check_runner import Checks
from jobs.registry.dataset_cache import DatasetCache
from jobs.resources import CheckedResource, ResourceKind
from jobs.settings import Settings
from jobs.specs.resolve import resolve
from jobs.specs.spec import JobSpec, Resolved
from jobs.store.store import Store
from jobs.uploads.submission_check import Apart

_PATIENCE_SECONDS = 10.0
"""Timeout for a data set that another request is unpacking: a small one is ready by then, and for a large
one a request must not hold one of the few threads."""

NOTIFICATIONS_AT_ONCE = 4
"""Concurrent notifications; more would only wait in other threads for the same broker."""
NOTIFY_SECONDS = 1.0
"""Time for which an answer waits for a notification to be sent. If a broker hangs, the next sweep notifies
instead."""

log = logging.getLogger(__name__)
T = TypeVar("T")
StillAdmitted = Callable[[], Awaitable[None]]
"""Raises `ApiError` (401) once the caller would not be admitted any more."""

ADMITTED_SECONDS = 3.0
"""Maximum time between two checks whether the caller of a long request is still admitted."""


@dataclass(frozen=True)
class Services:
    """The services, assembled once in `create_app`."""

    store: Store
    artifacts: Artifacts
    job_queue: JobQueue
    settings: Settings
    dataset_cache: DatasetCache
    checks: Checks
    line: Line
    _notifying: CapacityLimiter = field(default_factory=lambda: CapacityLimiter(NOTIFICATIONS_AT_ONCE))

    async def in_line(self, verb: Callable[[], T]) -> T:
        """Run a function that inspects a submission in a thread, once it is its turn, and return its result."""
        return await self.line.take(verb)

    async def notify(self, job: Job) -> None:
        """Notify workers of a job, with a timeout. Never fails: if it is lost, a sweep notifies again."""
        with move_on_after(NOTIFY_SECONDS) as waited:
            await to_thread.run_sync(
                self.job_queue.notify, job, limiter=self._notifying, abandon_on_cancel=True
            )
        if waited.cancelled_caught:
            log.warning(
                "could not notify workers of job %s within %g s; a sweep will", job.id, NOTIFY_SECONDS
            )

    def resolve(self, spec: JobSpec, tenant: str) -> Resolved:
        """Resolve a spec, with its data set checked.

        Args:
            spec: A well-formed spec.
            tenant: Its owner: resources of other tenants count as unknown.

        Raises:
            SpecError: it cannot be carried out; `problems` has all reasons.
            StillUnpacking: the data set that it names is being unpacked for another request.
            OperationCancelled: it took so long that the request was answered already.
        """
        resolved = resolve(
            spec,
            look=Apart(self.settings.check_memory, self.settings.look_seconds),
            roots=self.settings.data_roots,
            find_job=partial(self._find, tenant),
            find_resource=partial(self._find_resource, tenant),
            unpacked=lambda dataset: self.dataset_cache.folder(
                str(dataset.sha256), patience=_PATIENCE_SECONDS
            ),
        )
        begin_to_write()
        return resolved

    def _find(self, tenant: str, job_id: str) -> Job | None:
        try:
            return self.store.reading.get(job_id, tenant=tenant)
        except UnknownJob:
            return None

    def _find_resource(
        self, tenant: str | None, kind: ResourceKind, resource_id: str
    ) -> CheckedResource | None:
        try:
            return self.store.resources.get_resource(kind, resource_id, tenant=tenant)
        except UnknownResource:
            return None


async def _services(request: Request) -> Services:
    services: Services = request.app.state.services
    return services


async def _feeds(request: Request) -> Feeds:
    feeds: Feeds = request.app.state.feeds
    return feeds


async def _principal(request: Request) -> Principal:
    principal: Principal = request.scope["state"][
        "principal"
    ]  # of `AuthMiddleware`, except on the few open paths
    return principal


async def _still_admitted(request: Request) -> StillAdmitted:
    still_admitted: StillAdmitted = request.scope["state"]["still_admitted"]  # of `AuthMiddleware`
    return still_admitted


async def _tenant(principal: Annotated[Principal, Depends(_principal)]) -> str:
    return principal.tenant


async def _admin(principal: Annotated[Principal, Depends(_principal)]) -> Principal:
    if not principal.may(Scope.ADMIN):
        raise lacks(Scope.ADMIN)
    return principal


ServicesDep = Annotated[Services, Depends(_services)]
FeedsDep = Annotated[Feeds, Depends(_feeds)]
PrincipalDep = Annotated[Principal, Depends(_principal)]
"""The authenticated caller."""
AdminDep = Annotated[Principal, Depends(_admin)]
"""The caller, who must have the scope `admin`."""
StillAdmittedDep = Annotated[StillAdmitted, Depends(_still_admitted)]
"""For long requests: await it every `ADMITTED_SECONDS`."""
TenantDep = Annotated[str, Depends(_tenant)]
"""The caller's tenant; pass it to every method of the store."""
