"""Rendering of pages: templates in which every value is escaped, and the headers that each page has."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from fastapi import Request
from fastapi.responses import HTMLResponse
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from api.ui import static_files, words
from api.ui.session import TOKEN_FIELD, form_secret, form_token, keep_form_secret, theme_of

POLICY = "; ".join(
    (
        "default-src 'none'",
        *(f"{kind}-src 'self'" for kind in ("script", "style", "img", "connect", "font")),
        "form-action 'self'",
        "base-uri 'none'",
        "frame-ancestors 'none'",
    )
)
"""Content-Security-Policy of every page: nothing inline, nothing from elsewhere."""

HEADERS = {
    "Content-Security-Policy": POLICY,
    # Forms need their origin on servers without TLS, where browsers send nothing else about their page.
    "Referrer-Policy": "same-origin",
}

_environment = Environment(
    loader=FileSystemLoader(Path(__file__).parent / "templates"),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)
_environment.filters |= words.FILTERS
_environment.globals |= {"static": static_files.address, "token_field": TOKEN_FIELD}


def render(request: Request, template: str, status: int = 200, **values: Any) -> HTMLResponse:
    """Return a page.

    Args:
        request: The request; its path, theme, session and caller are known to the template.
        template: Name of the template.
        status: HTTP status.
        values: What the template shows.
    """
    secret = form_secret(request)
    text = _environment.get_template(template).render(
        path=request.url.path,
        here=here(request),
        theme=theme_of(request),
        token=form_token(request, secret),
        principal=request.scope.get("state", {}).get("principal"),
        **values,
    )
    body = text.encode(errors="replace")  # a quotation may contain lone surrogates, which UTF-8 refuses
    answer = HTMLResponse(body, status, headers=HEADERS)
    keep_form_secret(request, answer, secret)
    return answer


def here(request: Request) -> str:
    """Return the address of the page that a person is on: of a form, the page that it stands on."""
    path = request.url.path
    if request.method not in ("GET", "HEAD"):
        return path.rpartition("/")[0]
    return path + (f"?{request.url.query}" if request.url.query else "")
