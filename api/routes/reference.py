"""The description of the API as a page: FastAPI's own at /docs, whose script and style come from here.

Nothing is fetched from another machine, so the page works without a network. `fastapi-swagger` brings the files.
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
    "validatorUrl": None,  # else a picture is asked for at another machine
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
    """Return the page; its addresses are relative, so that it also works behind a proxy that adds a prefix."""
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
    """Return the Content-Security-Policy under which a page may run our files and its own script, and ask us alone."""
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
    """Every route, what it takes and what it answers, for people, who can try it."""
    return HTMLResponse(PAGE, headers={"Content-Security-Policy": POLICY})


@router.get("/docs/swagger-ui-bundle.js")
async def docs_script(known: KnownTagsDep) -> Response:
    """The script of the page."""
    return _SCRIPT.answer(known)


@router.get("/docs/swagger-ui.css")
async def docs_style(known: KnownTagsDep) -> Response:
    """The style of the page."""
    return _STYLE.answer(known)
