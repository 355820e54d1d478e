"""The checks that every request passes first."""

from __future__ import annotations

import pytest


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
