"""The page at /docs."""

from __future__ import annotations

import base64
import hashlib
import re
from typing import Any

from api.reference import POLICY, page

HOSTILE = "</pre><script>alert(1)</script>&\"'`x`"


def described(text: str) -> dict[str, Any]:
    """A description in which everything that can be a text is this one."""
    answer = {"description": text, "content": {text: {"schema": {"$ref": text}}}}
    parameter = {"name": text, "in": text, "description": text, "schema": {"enum": [text], "type": text}}
    body = {"content": {text: {"schema": {"type": text}, "examples": {text: {"value": {text: text}}}}}}
    operation = {
        **{"operationId": text, "tags": [text], "summary": text, "description": text},
        **{"parameters": [parameter], "requestBody": body, "responses": {text: answer}},
    }
    shape = {"description": text, "properties": {text: {"type": text, "description": text}}}
    return {
        "info": {"title": text, "version": text, "description": text},
        "tags": [{"name": text, "description": text}],
        "paths": {text: {"get": operation}},
        "components": {"schemas": {text: shape, f"{text}2": {"const": text}}},
    }


def test_it_names_every_route_and_every_shape(service):
    description = service.http.get("/openapi.json").json()
    answer = service.http.get("/docs")
    assert answer.headers["Content-Type"].startswith("text/html")
    for path in description["paths"]:
        assert f"<code>{path}</code>" in answer.text
    for name in description["components"]["schemas"]:
        assert f'id="shape-{name}"' in answer.text
    linked = set(re.findall(r'href="#([^"]+)"', answer.text))
    assert linked <= set(re.findall(r'id="([^"]+)"', answer.text))


def test_it_needs_nothing_from_anywhere_and_runs_nothing(service):
    text = service.http.get("/docs").text
    assert "<script" not in text
    assert re.findall(r'(?:src|href)="(?!#)([^"]*)"', text) == ["/openapi.json"]
    assert not re.search(r"\son\w+=|\sstyle=|@import|url\(", text)


def test_its_policy_allows_its_own_style_and_nothing_else(service):
    style = re.search(r"<style>(.*?)</style>", service.http.get("/docs").text, re.DOTALL)
    sha256 = base64.b64encode(hashlib.sha256(style[1].encode()).digest()).decode()
    assert f"style-src 'sha256-{sha256}'" in POLICY
    assert "default-src 'none'" in POLICY
    assert "unsafe" not in POLICY


def test_no_text_becomes_a_tag():
    shown = page(described(HOSTILE))
    assert "<script" not in shown
    assert shown.count("</pre>") == 1
