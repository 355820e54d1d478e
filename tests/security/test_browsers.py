"""A page of another site, open in a browser on this machine: it may neither change nor read anything.

`Sec-Fetch-Site` and foreign names of the host are in tests/api/test_request_guard.py.
"""

from __future__ import annotations

import pytest


@pytest.mark.parametrize(
    "origin",
    [
        "https://evil.example",
        "null",
        "http://127.0.0.1",
        "http://127.0.0.1:1",
        "http://localhost.evil.example",
        "x",
        "http://[",
        "",
    ],
)
@pytest.mark.parametrize("verb", ["cancel", "retry", "clone"])
def test_an_older_browser_says_where_a_page_is_from_and_is_believed(
    service, train_spec, origin: str, verb: str
):
    job_id = service.submit(train_spec)["id"]
    answer = service.http.post(f"/jobs/{job_id}/{verb}", headers={"Origin": origin})
    assert (answer.status_code, answer.json()["code"]) == (403, "forbidden")
    assert service.store.reading.get(job_id).state == "queued"
    assert len(service.jobs()) == 1


def test_a_page_of_this_service_may(service, train_spec):
    job_id = service.submit(train_spec)["id"]
    origin = str(service.http.base_url).rstrip("/")
    assert service.http.post(f"/jobs/{job_id}/cancel", headers={"Origin": origin}).status_code == 202


@pytest.mark.parametrize("path", ["/jobs", "/whoami", "/openapi.json", "/healthz"])
def test_no_other_site_is_told_that_it_may_read(service, path: str):
    for method in ("GET", "OPTIONS"):
        headers = {"Origin": "https://evil.example", "Access-Control-Request-Method": "POST"}
        answer = service.http.request(method, path, headers=headers)
        assert not [name for name in answer.headers if name.startswith("access-control")]


@pytest.mark.parametrize("name", ["X-HTTP-Method-Override", "X-HTTP-Method", "X-Method-Override", "_method"])
def test_no_header_makes_another_method_of_a_request(service, train_spec, name: str):
    job_id = service.submit(train_spec)["id"]
    service.store.submission.cancel_requested(job_id)
    assert service.http.get(f"/jobs/{job_id}?_method=DELETE", headers={name: "DELETE"}).status_code == 200
    assert service.http.post(f"/jobs/{job_id}", headers={name: "DELETE"}).status_code == 405
    assert service.store.reading.get(job_id).state == "cancelled"


@pytest.mark.parametrize(
    "name", ["X-Forwarded-For", "X-Real-IP", "X-Forwarded-Host", "Forwarded", "X-Original-URL"]
)
def test_no_header_makes_a_stranger_of_this_machine_or_the_other_way(service, name: str):
    value = {"X-Original-URL": "/healthz"}.get(name, "127.0.0.1")
    answer = service.http.get("/jobs", headers={"Host": "evil.example", name: value})
    assert answer.status_code == 403


@pytest.mark.parametrize(
    "path", ["/jobs/", "//evil.example/", "/jobs/x/events/", "/docs/", "/%2f/evil.example"]
)
def test_nothing_is_redirected(service, path: str):
    """Request paths that might redirect: a redirect would repeat the Host header of the request."""
    base = str(service.http.base_url).rstrip("/")  # so that two slashes begin a path and no host
    answer = service.http.get(base + path)
    assert answer.status_code == 404
    assert "Location" not in answer.headers


def test_the_one_redirect_names_no_host(service):
    answer = service.http.get("/", follow_redirects=False)
    assert (answer.status_code, answer.headers["Location"]) == (303, "/ui/jobs")


def test_every_route_names_its_methods_when_asked_with_another(service):
    for path, methods in service.http.get("/openapi.json").json()["paths"].items():
        answer = service.http.request("TRACE", path.replace("{", "").replace("}", ""))
        assert answer.status_code == 405, path
        allowed = set(answer.headers["Allow"].lower().split(", "))
        assert set(methods) <= allowed, path
        assert "trace" not in allowed
