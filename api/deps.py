"""What a route may ask for: the parts that the app was built from."""

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
from api.line import Line, begin_to_write
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
"""For a data set that another request has unpacked: a small one is there by then, and for a large one a request must
not keep one of the few threads."""

RINGS_AT_ONCE = 4
"""Notifications under way at a time; more would only wait in other threads for the same broker."""
NOTIFY_SECONDS = 1.0
"""How long an answer waits until a notification was taken. A broker that hangs takes longer, and its sweep makes that
good."""

log = logging.getLogger(__name__)
T = TypeVar("T")
StillAdmitted = Callable[[], Awaitable[None]]
"""Raises `ApiError` (401) once who asks would not be let in any more."""

ADMITTED_SECONDS = 3.0
"""Between two looks whether somebody who reads on may still do so, at most."""


@dataclass(frozen=True)
class Services:
    """The parts, put together once in `create_app`."""

    store: Store
    artifacts: Artifacts
    job_queue: JobQueue
    settings: Settings
    dataset_cache: DatasetCache
    checks: Checks
    line: Line
    _rings: CapacityLimiter = field(default_factory=lambda: CapacityLimiter(RINGS_AT_ONCE))

    async def in_line(self, verb: Callable[[], T]) -> T:
        """What a verb gives that looks into a submission, once it is its turn; in a thread."""
        return await self.line.take(verb)

    async def notify(self, job: Job) -> None:
        """Notify workers of a job, for so long at most. Never fails: a sweep notifies again of what was lost."""
        with move_on_after(NOTIFY_SECONDS) as waited:
            await to_thread.run_sync(self.job_queue.notify, job, limiter=self._rings, abandon_on_cancel=True)
        if waited.cancelled_caught:
            log.warning(
                "could not notify workers of job %s within %g s; a sweep will", job.id, NOTIFY_SECONDS
            )

    def resolve(self, spec: JobSpec, tenant: str) -> Resolved:
        """A spec with nothing left to be looked up, its data set checked.

        Args:
            spec: A well-formed spec.
            tenant: Whose it is: what it names of another tenant's is unknown.

        Raises:
            SpecError: it cannot be carried out; `problems` says all that is wrong.
            StillUnpacking: the data set that it names is being unpacked for another request.
            OperationCancelled: it took so long that nobody waits for it any more.
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
"""Who asks, and what he may."""
AdminDep = Annotated[Principal, Depends(_admin)]
"""Who asks for what concerns the whole service, and may."""
StillAdmittedDep = Annotated[StillAdmitted, Depends(_still_admitted)]
"""For what takes long: await it every `ADMITTED_SECONDS`."""
TenantDep = Annotated[str, Depends(_tenant)]
"""Whose things may be seen and changed; pass it to every verb of the store."""
