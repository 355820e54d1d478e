"""Cloning, retrying, changing and deleting jobs over HTTP."""

from __future__ import annotations

import shutil
import statistics
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest

from gkd_core.errors import Failure, FailureClass
from gkd_core.events import Evaluation, Progress

Spec = dict[str, Any]

BROKEN = Failure(failure_class=FailureClass.BUG, message="a defect")


def failed(service, spec: Spec) -> str:
    job_id = service.submit(spec)["id"]
    service.store.commands.fail(service.claim(job_id), BROKEN)
    return job_id


# ---- retry -----------------------------------------------------------------------------------------------


def test_a_retry_is_a_new_job_where_the_answer_says(service, train_spec: Spec):
    old = failed(service, {**train_spec, "name": "teacher"})
    answer = service.http.post(f"/jobs/{old}/retry")
    assert answer.status_code == 202
    new = service.http.get(answer.headers["Location"]).json()
    assert (new["id"], new["retry_of"], new["state"]) == (answer.json()["id"], old, "queued")
    assert (new["name"], new["spec"]) == ("teacher", service.store.reading.get(old).spec)
    assert service.http.get(f"/jobs/{old}").json()["state"] == "failed"


def test_a_retry_is_asked_for_once_however_often_it_is_sent(service, train_spec: Spec):
    old, key = failed(service, train_spec), {"Idempotency-Key": "k"}
    ids = {service.http.post(f"/jobs/{old}/retry", headers=key).json()["id"] for _ in range(3)}
    assert len(ids) == 1
    other = service.http.post(f"/jobs/{failed(service, train_spec)}/retry", headers=key)
    assert (other.status_code, other.json()["code"]) == (422, "idempotency_conflict")


def test_a_retry_of_what_cannot_be_carried_out_any_more_says_what_is_wrong(service, root, train_spec: Spec):
    old = failed(service, train_spec)
    shutil.rmtree(root / "discs")
    answer = service.http.post(f"/jobs/{old}/retry")
    assert (answer.status_code, answer.json()["errors"][0]["loc"]) == (422, ["data", "path"])
    assert len(service.jobs()) == 1


def test_only_what_went_wrong_is_tried_again(service, train_spec: Spec):
    job_id = service.submit(train_spec)["id"]
    answer = service.http.post(f"/jobs/{job_id}/retry")
    assert (answer.status_code, answer.json()["actions"]) == (409, ["cancel"])
    service.store.commands.succeed(service.claim(job_id))
    answer = service.http.post(f"/jobs/{job_id}/retry")
    assert (answer.status_code, answer.json()["actions"]) == (409, ["delete"])


# ---- clone -----------------------------------------------------------------------------------------------


def test_a_clone_is_the_same_spec_but_for_what_is_sent(service, train_spec: Spec):
    spec = {**train_spec, "name": "first", "tags": {"team": "lab", "round": "1"}}
    old = service.submit(spec)
    changes = {"name": None, "tags": {"round": "2"}, "train": {"epochs": 3}}
    answer = service.http.post(f"/jobs/{old['id']}/clone", json=changes)
    assert (answer.status_code, answer.headers["Location"]) == (201, f"/jobs/{answer.json()['id']}")
    assert answer.json()["spec"] == {
        "kind": "train",
        "data": {"path": "discs"},
        "tags": {"team": "lab", "round": "2"},
        "train": {"epochs": 3, "image_size": 64, "batch_size": 2},
    }
    assert answer.json()["retry_of"] is None
    same = service.http.post(f"/jobs/{old['id']}/clone")
    assert (same.status_code, same.json()["spec"]) == (201, old["spec"])


@pytest.mark.parametrize("since", ["nothing", "changed", "deleted", "data gone"])
def test_the_same_key_and_changes_give_the_first_clone_again(service, root, train_spec: Spec, since: str):
    old = service.submit(train_spec)["id"]
    changes = {"train": {"epochs": 3}, "tags": {"round": "2"}}

    def clone(**changed: Any) -> httpx.Response:
        sent = {"Idempotency-Key": "k"}
        return service.http.post(f"/jobs/{old}/clone", json={**changes, **changed}, headers=sent)

    first = clone()
    assert first.status_code == 201, first.text
    match since:
        case "changed":
            service.http.patch(f"/jobs/{old}", json={"name": "another", "priority": 9})
        case "deleted":
            service.http.post(f"/jobs/{old}/cancel")
            assert service.http.delete(f"/jobs/{old}").status_code == 204
        case "data gone":
            shutil.rmtree(root / "discs")
    again = clone()
    assert (again.status_code, again.json()["id"]) == (201, first.json()["id"]), again.text
    assert again.headers["Location"] == first.headers["Location"]
    assert clone(name="other").json()["code"] == "idempotency_conflict"


def test_a_key_of_a_clone_is_of_that_job_alone(service, train_spec: Spec):
    one, other = (service.submit(train_spec)["id"] for _ in range(2))
    sent = {"Idempotency-Key": "k"}
    assert service.http.post(f"/jobs/{one}/clone", headers=sent).status_code == 201
    for path in (f"/jobs/{other}/clone", f"/jobs/{one}/retry"):
        answer = service.http.post(path, headers=sent)
        assert (answer.status_code, answer.json()["code"]) == (422, "idempotency_conflict")


def test_clones_with_the_same_key_that_come_at_once_are_one(service, train_spec: Spec):
    old = service.submit(train_spec)["id"]
    with ThreadPoolExecutor(8) as pool:
        answers = list(
            pool.map(
                lambda _: service.http.post(f"/jobs/{old}/clone", headers={"Idempotency-Key": "k"}), range(8)
            )
        )
    assert {answer.status_code for answer in answers} == {201}
    assert len({answer.json()["id"] for answer in answers}) == 1


def test_what_is_wrong_with_a_clone_is_named_in_its_whole_spec(service, train_spec: Spec):
    old = service.submit(train_spec)["id"]
    for changes, loc in (
        ({"train": {"epoch": 3}}, ["train", "epoch"]),
        ({"data": "nowhere"}, ["data", "path"]),
        ({"kind": "distill"}, ["teacher"]),
    ):
        answer = service.http.post(f"/jobs/{old}/clone", json=changes)
        assert (answer.status_code, answer.json()["code"]) == (422, "invalid_spec")
        assert loc in [error["loc"] for error in answer.json()["errors"]]
    assert len(service.jobs()) == 1


@pytest.mark.parametrize(
    "body", ["[]", "3", '"text"', "[" * 3000, '{"a":' * 900 + "1" + "}" * 900, "{", "nul"]
)
def test_changes_that_are_no_object_are_refused(service, train_spec: Spec, body: str):
    old = service.submit(train_spec)["id"]
    for method, path in (("POST", f"/jobs/{old}/clone"), ("PATCH", f"/jobs/{old}")):
        answer = service.http.request(
            method, path, content=body, headers={"Content-Type": "application/json"}
        )
        assert answer.status_code in (400, 422), answer.text
        assert answer.headers["Content-Type"] == "application/problem+json"


# ---- change and delete -----------------------------------------------------------------------------------


def test_name_tags_and_priority_can_be_changed(service, train_spec: Spec):
    job_id = service.submit({**train_spec, "tags": {"team": "lab", "old": ""}})["id"]
    answer = service.http.patch(f"/jobs/{job_id}", json={"name": "new", "tags": {"old": None}, "priority": 9})
    assert answer.status_code == 200
    assert (answer.json()["name"], answer.json()["tags"], answer.json()["priority"]) == (
        "new",
        {"team": "lab"},
        9,
    )
    service.claim(job_id)
    refused = service.http.patch(f"/jobs/{job_id}", json={"priority": 1})
    assert (refused.status_code, refused.json()["code"]) == (409, "not_allowed")


@pytest.mark.parametrize(
    "changes",
    [{"kind": "distill"}, {"priority": 10}, {"priority": "high"}, {"tags": {"a b": "c"}}, {"name": "a\0b"}],
)
def test_a_change_that_cannot_be_is_refused_by_name(service, train_spec: Spec, changes: Spec):
    job_id = service.submit(train_spec)["id"]
    answer = service.http.patch(f"/jobs/{job_id}", json=changes)
    assert (answer.status_code, answer.json()["errors"][0]["loc"][0]) == (422, next(iter(changes)))


def test_several_tags_narrow_a_list_together(service, train_spec: Spec):
    both = service.submit({**train_spec, "tags": {"team": "lab", "round": "1"}})["id"]
    service.submit({**train_spec, "tags": {"team": "lab"}})
    listed = service.http.get("/jobs", params={"tag": ["team:lab", "round"]}).json()["items"]
    assert [job["id"] for job in listed] == [both]


def test_a_deleted_job_is_gone_from_everywhere(service, train_spec: Spec):
    job_id = failed(service, train_spec)
    answer = service.http.delete(f"/jobs/{job_id}")
    assert (answer.status_code, answer.content) == (204, b"")
    for path in ("", "/events", "/stream", "/metrics", "/log", "/artifacts"):
        assert service.http.get(f"/jobs/{job_id}{path}").status_code == 404
    assert service.http.delete(f"/jobs/{job_id}").status_code == 404
    assert service.http.get("/jobs").json()["items"] == []


def test_what_is_still_needed_is_not_deleted_and_the_answer_says_by_whom(service, train_spec: Spec):
    teacher = service.submit(train_spec)["id"]
    running = service.http.delete(f"/jobs/{teacher}")
    assert (running.status_code, running.json()["code"], running.json()["actions"]) == (
        409,
        "not_allowed",
        ["cancel"],
    )
    distill = {"kind": "distill", "data": "discs", "teacher": {"weights": f"job:{teacher}"}}
    student = service.submit(distill)["id"]
    service.store.commands.succeed(service.claim(teacher))
    answer = service.http.delete(f"/jobs/{teacher}")
    assert (answer.status_code, answer.json()["code"]) == (409, "in_use")
    assert student in answer.json()["detail"]


def test_a_stream_of_a_job_that_is_deleted_ends(service, train_spec: Spec):
    job_id = service.submit(train_spec)["id"]
    with service.http.stream("GET", f"/jobs/{job_id}/stream") as answer:
        lines = answer.iter_lines()
        assert any(line.startswith("data:") for line in lines)
        service.store.submission.cancel_requested(job_id)
        service.store.editing.delete(job_id)
        list(lines)


# ---- curves ----------------------------------------------------------------------------------------------


def test_metrics_are_curves_of_what_was_measured(service, train_spec: Spec):
    job_id = service.submit(train_spec)["id"]
    ticket = service.claim(job_id)
    for step in range(50):
        event = Progress(
            run="model", epoch=0, epochs=1, step=step, steps=50, fraction=0, losses={"loss_cls": step / 2}
        )
        service.store.commands.record(ticket, event, offset=step + 1)
    scored = Evaluation(run="model", epoch=1, metrics={"AP": 0.25}, per_class={"disc": 0.25}, seconds=1)
    service.store.commands.record(ticket, scored, offset=51)
    model = service.http.get(f"/jobs/{job_id}/metrics").json()["runs"]["model"]
    assert model["losses"]["loss_cls"] == {"x": list(range(50)), "y": [step / 2 for step in range(50)]}
    assert model["evaluation"] == {"AP": {"x": [1], "y": [0.25]}}
    thinned = service.http.get(f"/jobs/{job_id}/metrics", params={"points": 10}).json()["runs"]["model"]
    assert len(thinned["losses"]["loss_cls"]["x"]) <= 10
    for points in (9, 10_001, "many"):
        assert service.http.get(f"/jobs/{job_id}/metrics", params={"points": points}).status_code == 422


# ---- many at once, and quickly ---------------------------------------------------------------------------


@pytest.mark.parametrize("database", ["service", "service_on_postgresql"])
def test_fifty_equal_requests_with_one_key_make_one_job(request, server, train_spec: Spec, database: str):
    service = request.getfixturevalue(database)
    limits = httpx.Limits(max_connections=50)
    with httpx.Client(base_url=server.url, timeout=60, limits=limits) as http, ThreadPoolExecutor(50) as pool:
        answers = list(
            pool.map(
                lambda _: http.post("/jobs", json=train_spec, headers={"Idempotency-Key": "k"}), range(50)
            )
        )
    assert {answer.status_code for answer in answers} == {201}
    assert len({answer.json()["id"] for answer in answers}) == 1
    assert len(service.jobs()) == 1


@pytest.mark.parametrize("database", ["service", "service_on_postgresql"])
def test_cancel_is_answered_quickly_in_every_state(request, train_spec: Spec, database: str):
    service = request.getfixturevalue(database)

    def queued() -> str:
        return service.submit(train_spec)["id"]

    def running() -> str:
        job_id = queued()
        service.claim(job_id)
        return job_id

    def paused() -> str:
        job_id = queued()
        ticket = service.claim(job_id)
        service.store.submission.pause_requested(job_id)
        service.store.commands.pause(ticket)
        return job_id

    def pausing() -> str:
        job_id = running()
        service.store.submission.pause_requested(job_id)
        return job_id

    def ended() -> str:
        return failed(service, train_spec)

    for make, status in ((queued, 202), (running, 202), (pausing, 202), (paused, 202), (ended, 409)):
        jobs = [make() for _ in range(20)]
        taken = [
            (
                seconds(service, "GET", "/healthz", 200),
                seconds(service, "POST", f"/jobs/{job}/cancel", status),
            )
            for job in jobs
        ]
        # On a busy machine, too: at least one of twenty is not delayed by other programs, and most of the delay of the
        # others is that of a request that does nothing.
        assert min(cancel for _, cancel in taken) < 0.2, make.__name__
        assert statistics.median(cancel - nothing for nothing, cancel in taken) < 0.2, make.__name__


def seconds(service, method: str, path: str, status: int) -> float:
    started = time.monotonic()
    assert service.http.request(method, path).status_code == status
    return time.monotonic() - started
