"""The same API over PostgreSQL, which accepts less text than SQLite."""

from __future__ import annotations

import json

import pytest

from gkd_core.events import Progress


def test_a_job_from_submit_to_its_end(service_on_postgresql, train_spec):
    service = service_on_postgresql
    spec = {**train_spec, "name": "größer 😀", "tags": {"team": "lab"}}
    job = service.submit(spec, **{"Idempotency-Key": "k"})
    assert service.submit(spec, **{"Idempotency-Key": "k"})["id"] == job["id"]
    ticket = service.claim(job["id"])
    event = Progress(run="model", epoch=1, epochs=1, step=9, steps=9, fraction=1)
    service.store.commands.record(ticket, event, offset=1)
    service.store.commands.succeed(ticket)
    (listed,) = service.http.get("/jobs", params={"tag": "team:lab", "state": "succeeded"}).json()["items"]
    assert (listed["id"], listed["name"], listed["progress"]["step"]) == (job["id"], "größer 😀", 9)
    events = service.http.get(f"/jobs/{job['id']}/events").json()["items"]
    assert [event["number"] for event in events] == list(range(1, len(events) + 1))
    assert service.http.get("/readyz").status_code == 200


@pytest.mark.parametrize("text", ["%00", "%ff", "%F0%9F%98%80", "'; drop table jobs; --"])
def test_text_that_no_database_can_hold_is_found_nowhere(service_on_postgresql, train_spec, text: str):
    service = service_on_postgresql
    job_id = service.submit(train_spec)["id"]
    for route in (f"/jobs/{text}", f"/jobs/{job_id}/artifacts/{text}"):
        assert service.http.get(route).status_code == 404
    assert service.http.get(f"/jobs?tag={text}").json()["items"] == []
    for query in ("kind", "after"):
        assert service.http.get(f"/jobs?{query}={text}").status_code == 422


@pytest.mark.parametrize("name", ["a\0b", "\ud800"])
def test_a_name_that_cannot_be_stored_is_refused(service_on_postgresql, train_spec, name: str):
    answer = service_on_postgresql.http.post(
        "/jobs",
        content=json.dumps({**train_spec, "name": name}),
        headers={"Content-Type": "application/json"},
    )
    assert (answer.status_code, answer.json()["errors"][0]["loc"]) == (422, ["name"])


def test_an_idempotency_key_that_cannot_be_stored_is_refused(service_on_postgresql, train_spec):
    headers = {"Idempotency-Key": b"a\xffb"}
    answer = service_on_postgresql.http.post("/jobs", json=train_spec, headers=headers)
    assert answer.status_code in (201, 422)
