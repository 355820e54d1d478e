"""docs/http.md names each route and each error, and the commands that it shows work."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path
from typing import Any

import pytest

from api.app import create_app

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "http.md").read_text()
ELSEWHERE = ("/datasets", "/models")
"""Routes below these are described on pages of their own."""

LINES = re.findall(r"^curl .*$", PAGE, re.MULTILINE)
REFUSALS_ON_THE_WAY = {"not_allowed", "no_report", "unknown_artifact", "unknown_key"}
"""Errors that are right for a job that was cancelled before it ran, and for a key that was never made."""


def test_each_route_is_on_the_page_and_no_other(service):
    described = create_app(service.store, service.artifacts, None, service.settings).openapi()["paths"]
    routes = {(method.upper(), path) for path, methods in described.items() for method in methods}
    here = {route for route in routes if not route[1].startswith(ELSEWHERE)}
    named = set(re.findall(r"`(GET|POST|PUT|PATCH|DELETE) (/[^`\s]*)`", PAGE))
    assert named == here


def test_each_code_of_an_error_is_on_the_page_and_no_other():
    source = "\n".join(path.read_text() for path in (ROOT / "api").rglob("*.py"))
    raised = set(re.findall(r'(?:\b[45]\d\d[,:] |\bcode=)"([a-z_]+)"', source))
    rows = re.findall(r"^\| \d{3} \|(.*?)\|", PAGE, re.MULTILINE)
    assert {code for row in rows for code in re.findall(r"`(\w+)`", row)} == raised


@pytest.mark.parametrize("line", LINES)
def test_what_the_page_says_to_type_works(service, train_spec: dict[str, Any], line: str):
    job_id = service.submit(train_spec)["id"]
    service.store.submission.cancel_requested(job_id)
    line = line.replace("$GKD", "").replace("$ID", job_id).replace("$KEY_ID", "0123456789ab")
    answer = service.http.request(**request(line.replace('"data": "cells"', '"data": "discs"')))
    assert answer.is_success or answer.json()["code"] in REFUSALS_ON_THE_WAY, answer.text


def request(line: str) -> dict[str, Any]:
    """Return the request that a line of curl sends."""
    words = iter(shlex.split(line)[1:])
    sent: dict[str, Any] = {"method": "GET", "headers": {}}
    for word in words:
        match word:
            case "-X":
                sent["method"] = next(words)
            case "-H":
                name, value = next(words).split(": ", 1)
                sent["headers"][name] = value
            case "-d":
                sent["json"] = json.loads(next(words))
            case "-C":
                next(words)
            case "-N" | "-O" | "-i":
                pass
            case path:
                sent["url"] = path
    return sent
