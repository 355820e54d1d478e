"""What works for the service."""

from __future__ import annotations

from fastapi import APIRouter

from api.deps import PrincipalDep, ServicesDep
from jobs.keys import Scope
from jobs.presence import Worker

router = APIRouter(tags=["workers"])


@router.get("/workers")
def list_workers(services: ServicesDep, principal: PrincipalDep) -> tuple[Worker, ...]:
    """Every worker, by name: what it listens to, what it does, and how its GPUs are.

    Of another tenant's job only that it keeps the worker busy; who may administrate sees its id.
    """
    return services.store.workers.list_workers(
        tenant=None if principal.may(Scope.ADMIN) else principal.tenant
    )
