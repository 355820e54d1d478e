"""Workers."""

from __future__ import annotations

from fastapi import APIRouter

from api.deps import PrincipalDep, ServicesDep
from jobs.keys import Scope
from jobs.presence import Worker

router = APIRouter(tags=["workers"])


@router.get("/workers")
def list_workers(services: ServicesDep, principal: PrincipalDep) -> tuple[Worker, ...]:
    """List all workers, by name: their queues, their state, and the state of their GPUs.

    Of another tenant's job only that it keeps the worker busy; administrators see its id.
    """
    return services.store.workers.list_workers(
        tenant=None if principal.may(Scope.ADMIN) else principal.tenant
    )
