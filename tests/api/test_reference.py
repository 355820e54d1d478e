"""The page at /docs."""

from __future__ import annotations

import base64
import hashlib
import re
from contextlib import closing
from typing import Any

import pytest

from api.app import create_app
from api.reference import POLICY, page
from jobs.artifacts import open_artifacts
from jobs.queue import JobQueue, make_app
from jobs.settings import Settings
from jobs.store.store import Store

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


@pytest.fixture(scope="module")
def description() -> dict[str, Any]:
    settings = Settings()
    with closing(Store("sqlite://")) as store:
        parts = store, open_artifacts(settings.home), JobQueue(make_app("memory://")), settings
        return create_app(*parts).openapi()


@pytest.fixture(scope="module")
def shown(description: dict[str, Any]) -> str:
    return page(description)


def test_it_names_every_route_and_every_shape(description: dict[str, Any], shown: str):
    for path in description["paths"]:
        assert f"<code>{path}</code>" in shown
    for name in description["components"]["schemas"]:
        assert f'id="shape-{name}"' in shown
    linked = set(re.findall(r'href="#([^"]+)"', shown))
    assert linked <= set(re.findall(r'id="([^"]+)"', shown))


def test_it_needs_nothing_from_anywhere_and_runs_nothing(shown: str):
    assert "<script" not in shown
    assert re.findall(r'(?:src|href)="(?!#)([^"]*)"', shown) == ["/openapi.json"]
    assert not re.search(r"\son\w+=|\sstyle=|@import|url\(", shown)


def test_its_policy_allows_its_own_style_and_nothing_else(shown: str):
    style = re.search(r"<style>(.*?)</style>", shown, re.DOTALL)
    sha256 = base64.b64encode(hashlib.sha256(style[1].encode()).digest()).decode()
    assert f"style-src 'sha256-{sha256}'" in POLICY
    assert "default-src 'none'" in POLICY
    assert "unsafe" not in POLICY


def test_no_text_becomes_a_tag():
    shown = page(described(HOSTILE))
    assert "<script" not in shown
    assert shown.count("</pre>") == 1
