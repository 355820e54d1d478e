"""The checks that every request passes first."""

from __future__ import annotations

import pytest

from jobs.keys import Scope


@pytest.mark.parametrize("host", ["evil.example", "evil.example:8000", "127.0.0.1.evil.example", ""])
def test_a_name_that_is_not_this_machine_is_not_answered(service, host: str):
    answer = service.http.get("/jobs", headers={"Host": host})
    assert (answer.status_code, answer.json()["code"]) == (403, "forbidden")


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost:8000", "[::1]:8000", "LOCALHOST"])
def test_every_name_of_this_machine_is_answered(service, host: str):
    assert service.http.get("/healthz", headers={"Host": host}).status_code == 200


@pytest.mark.parametrize("site", ["cross-site", "same-site"])
def test_a_page_of_another_site_changes_nothing(service, train_spec, site: str):
    job_id = service.submit(train_spec)["id"]
    answer = service.http.post(f"/jobs/{job_id}/cancel", headers={"Sec-Fetch-Site": site})
    assert (answer.status_code, answer.json()["code"]) == (403, "forbidden")
    assert service.store.reading.get(job_id).state == "queued"


@pytest.mark.parametrize(
    ("host", "path", "status"),
    [
        ("gkd.example.org", "/jobs", 401),
        ("GKD.example.org:443", "/jobs", 401),
        ("localhost:8000", "/jobs", 401),
        ("evil.example", "/jobs", 403),
        ("evil.example", "/ui/login", 403),
        ("evil.example", "/docs", 403),
        ("10.0.0.7:8000", "/healthz", 200),
        ("10.0.0.7:8000", "/readyz", 200),
    ],
)
def test_with_a_list_of_names_the_service_answers_to_no_other(
    service_with_names, host: str, path: str, status: int
):
    service_with_names.store.keys.create_key("lab", "k", {Scope.READ})
    assert service_with_names.http.get(path, headers={"Host": host}).status_code == status


def test_with_keys_and_without_a_list_any_name_will_do(service):
    service.store.keys.create_key("lab", "k", {Scope.READ})
    assert service.http.get("/ui/login", headers={"Host": "behind.a.proxy"}).status_code == 200
