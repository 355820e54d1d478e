"""What a route may ask for: the parts that the app was built from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from fastapi import Depends, Request

from jobs.artifacts import Artifacts
from jobs.errors import UnknownJob
from jobs.job import Job
from jobs.queue import Doorbell
from jobs.resolve import resolve
from jobs.settings import Settings
from jobs.spec import JobSpec, Resolved
from jobs.store import Store


@dataclass(frozen=True)
class Services:
    """The parts, put together once in `create_app`."""

    store: Store
    artifacts: Artifacts
    doorbell: Doorbell
    settings: Settings

    def resolve(self, spec: JobSpec) -> Resolved:
        """A spec with nothing left to be looked up, its data set checked.

        Raises:
            SpecError: it cannot be carried out; `problems` says all that is wrong.
        """
        return resolve(spec, roots=self.settings.data_roots, find_job=self._find)

    def _find(self, job_id: str) -> Job | None:
        try:
            return self.store.get(job_id)
        except UnknownJob:
            return None


async def _services(request: Request) -> Services:
    services: Services = request.app.state.services
    return services


ServicesDep = Annotated[Services, Depends(_services)]
