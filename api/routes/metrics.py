"""Metric curves of a job."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query

from api.deps import ServicesDep, TenantDep
from jobs.curves import LEAST_POINTS, MOST_POINTS, JobCurves

router = APIRouter(prefix="/jobs/{job_id}", tags=["following"])

Points = Annotated[
    int,
    Query(
        ge=LEAST_POINTS, le=MOST_POINTS, description="maximum number of points of each curve", examples=[200]
    ),
]


@router.get("/metrics")
def metrics(job_id: str, services: ServicesDep, tenant: TenantDep, points: Points = 500) -> JobCurves:
    """Return losses, learning rate and speed over steps, metrics over epochs, downsampled so that every spike stays."""
    return services.store.following.curves(job_id, points=points, tenant=tenant)
