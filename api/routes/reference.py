"""The description of the API as a page."""

from __future__ import annotations

from functools import lru_cache

from fastapi import APIRouter, FastAPI, Request
from fastapi.responses import HTMLResponse

from api import reference

router = APIRouter()


@router.get("/docs", include_in_schema=False)
def docs(request: Request) -> HTMLResponse:
    """Every route, what it takes and what it answers, for people."""
    return HTMLResponse(_page(request.app), headers={"Content-Security-Policy": reference.POLICY})


@lru_cache(maxsize=1)
def _page(app: FastAPI) -> str:
    return reference.page(app.openapi())
