"""Metrics of the service, for Prometheus."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request, Response

from api.metrics import CONTENT_TYPE

router = APIRouter(tags=["health"])

_ANSWERS: dict[int | str, dict[str, Any]] = {
    200: {"description": "Prometheus' text format", "content": {CONTENT_TYPE: {"schema": {"type": "string"}}}}
}


@router.get("/metrics", response_class=Response, responses=_ANSWERS)
def service_metrics(request: Request) -> Response:
    """Return the service's metrics in Prometheus' format. Needs a key with the scope `metrics` or `admin`."""
    return Response(request.app.state.metrics.text(), headers={"Content-Type": CONTENT_TYPE})
