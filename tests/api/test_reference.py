"""The page at /docs."""

from __future__ import annotations

import base64
import hashlib
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from api.routes.reference import PAGE, POLICY

ASSETS = {"/docs/swagger-ui-bundle.js": "text/javascript", "/docs/swagger-ui.css": "text/css"}
CHROMIUM = shutil.which("chromium")


def test_it_needs_nothing_from_another_machine(service):
    addresses = re.findall(r"""(?:src|href|url)\s*[=:]\s*["']([^"']*)["']""", PAGE)
    assert sorted(addresses) == ["data:,", "docs/swagger-ui-bundle.js", "docs/swagger-ui.css", "openapi.json"]
    assert not re.search(r"url\((?![\"']?data:)|@import", service.http.get("/docs/swagger-ui.css").text)


def test_its_policy_allows_its_own_script_its_files_and_this_service_alone():
    [script] = re.findall(r"<script>(.*?)</script>", PAGE, re.DOTALL)
    sha256 = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    rules = dict(rule.split(" ", 1) for rule in POLICY.split("; "))
    assert rules["script-src"] == f"'self' 'sha256-{sha256}'"
    assert rules["default-src"] == rules["frame-ancestors"] == rules["form-action"] == "'none'"
    sources = {source for each in rules.values() for source in each.split()}
    assert sources == {"'none'", "'self'", "data:", f"'sha256-{sha256}'"}


@pytest.mark.parametrize(("path", "media_type"), ASSETS.items())
def test_its_files_are_sent_once_to_each_browser(service, path: str, media_type: str):
    answer = service.http.get(path)
    assert answer.status_code == 200
    assert answer.headers["Content-Type"].startswith(media_type)
    again = service.http.get(path, headers={"If-None-Match": answer.headers["ETag"]})
    assert (again.status_code, again.content) == (304, b"")


def test_there_is_nothing_else_behind_it(service):
    for path in ("/docs/", "/docs/__init__.py", "/docs/../auth.py", "/docs/oauth2-redirect"):
        assert service.http.get(path).status_code == 404


@pytest.mark.skipif(CHROMIUM is None, reason="needs chromium")
def test_a_browser_shows_every_route_and_breaks_no_rule(service, server, tmp_path: Path):
    options = ["--headless", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr", "--dump-dom"]
    options += ["--virtual-time-budget=20000", f"--user-data-dir={tmp_path}", f"{server.url}/docs"]
    shown = subprocess.run([str(CHROMIUM), *options], capture_output=True, text=True, timeout=120)
    assert "CONSOLE" not in shown.stderr
    for path in service.http.get("/openapi.json").json()["paths"]:
        assert f'data-path="{path}"' in shown.stdout
