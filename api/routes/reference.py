"""The interactive page of the API at /docs: FastAPI's own, with script and style served from here.

Nothing is fetched from another machine, so the page works without a network. The files come from
`fastapi-swagger`.
"""

from __future__ import annotations

import base64
import hashlib
import re
from importlib.resources import files
from typing import NamedTuple

from fastapi import APIRouter, Response
from fastapi.openapi.docs import get_swagger_ui_html
from fastapi.responses import HTMLResponse

from api.entity_tags import KnownTags, KnownTagsDep, weak_tag

router = APIRouter(include_in_schema=False)

_SETTINGS = {
    "docExpansion": "list",
    "filter": True,  # by tag
    "displayRequestDuration": True,
    "validatorUrl": None,  # otherwise the page requests a badge from another machine
}


class _Asset(NamedTuple):
    """A file of the page."""

    body: bytes
    tag: str
    media_type: str

    def answer(self, known: KnownTags) -> Response:
        headers = {"ETag": self.tag, "Cache-Control": "no-cache"}
        if known.hold(self.tag):
            return Response(status_code=304, headers=headers)
        return Response(self.body, headers=headers, media_type=self.media_type)


def _page() -> str:
    """Return the page; its URLs are relative, so that it also works behind a proxy that adds a prefix."""
    answer = get_swagger_ui_html(
        openapi_url="openapi.json",
        title="GKD: HTTP",
        swagger_js_url="docs/swagger-ui-bundle.js",
        swagger_css_url="docs/swagger-ui.css",
        swagger_favicon_url="data:,",
        swagger_ui_parameters=_SETTINGS,
    )
    return bytes(answer.body).decode()


def _policy(page: str) -> str:
    """Return the Content-Security-Policy of a page.

    It allows these files, the inline script, and requests to this service only.
    """
    [script] = re.findall(r"<script>(.*?)</script>", page, re.DOTALL)
    sha256 = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return (
        "default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
        f"script-src 'self' 'sha256-{sha256}'; style-src 'self'; img-src 'self' data:; connect-src 'self'"
    )


def _asset(name: str, media_type: str) -> _Asset:
    body = files("fastapi_swagger.resources").joinpath(name).read_bytes()
    return _Asset(body, weak_tag(body), media_type)


PAGE = _page()
POLICY = _policy(PAGE)
_SCRIPT = _asset("swagger-ui-bundle.js", "text/javascript")
_STYLE = _asset("swagger-ui.css", "text/css")


@router.get("/docs")
async def docs() -> HTMLResponse:
    """Return the interactive page of all routes."""
    return HTMLResponse(PAGE, headers={"Content-Security-Policy": POLICY})


@router.get("/docs/swagger-ui-bundle.js")
async def docs_script(known: KnownTagsDep) -> Response:
    """Return the script of the page."""
    return _SCRIPT.answer(known)


@router.get("/docs/swagger-ui.css")
async def docs_style(known: KnownTagsDep) -> Response:
    """Return the style of the page."""
    return _STYLE.answer(known)
