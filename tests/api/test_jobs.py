"""Reading jobs over HTTP, against a real store."""

from __future__ import annotations

import asyncio
import shutil
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest
from fastapi.concurrency import run_in_threadpool

from api import feeds
from api.routes import jobs as jobs_routes
from api.submission_limit import AT_ONCE
from gkd_core.errors import Failure, FailureClass
from gkd_core.events import Report
from jobs.specs.resolve import resolve

Spec = dict[str, Any]


def test_a_submitted_job_is_queued_and_found_where_the_answer_says(service, train_spec: Spec):
    answer = service.http.post("/jobs", json={**train_spec, "name": "teacher", "tags": {"team": "lab"}})
    assert answer.status_code == 201
    job = service.http.get(answer.headers["Location"]).json()
    assert job["id"] == answer.json()["id"]
    assert (job["state"], job["name"], job["tags"]) == ("queued", "teacher", {"team": "lab"})
    assert job["actions"] == ["cancel"]
    assert job["resolved"]["train"]["epochs"] == 2
    assert job["resolved"]["data"]["train"]["images"] == str(
        service.settings.data_roots[0] / "discs" / "images"
    )


def test_the_same_key_and_spec_give_the_first_job_again(service, train_spec: Spec):
    first = service.submit(train_spec, **{"Idempotency-Key": "k"})
    second = service.submit(train_spec, **{"Idempotency-Key": "k"})
    assert first["id"] == second["id"]
    assert len(service.jobs()) == 1


def test_the_first_answer_stays_even_if_the_data_has_gone_since(service, root, train_spec: Spec):
    first = service.submit(train_spec, **{"Idempotency-Key": "k"})
    shutil.rmtree(root / "discs")
    assert service.submit(train_spec, **{"Idempotency-Key": "k"})["id"] == first["id"]


def test_the_same_key_with_another_spec_is_refused(service, train_spec: Spec):
    service.submit(train_spec, **{"Idempotency-Key": "k"})
    other = {**train_spec, "name": "other"}
    answer = service.http.post("/jobs", json=other, headers={"Idempotency-Key": "k"})
    assert (answer.status_code, answer.json()["code"]) == (422, "idempotency_conflict")
    assert len(service.jobs()) == 1


def test_validating_shows_the_resolved_spec_and_the_data_and_queues_nothing(service, train_spec: Spec):
    answer = service.http.post("/jobs/validate", json=train_spec)
    assert answer.status_code == 200
    body = answer.json()
    assert body["config"]["data"]["format"] == "coco"
    assert body["config"]["model"]["architecture"] == "fcos"
    assert body["report"]["classes"] == ["disc", "ring"]
    assert service.jobs() == ()


def test_what_the_check_found_stands_in_the_answer_and_in_the_job(service, train_spec: Spec):
    assert not any("batch_size" in warning for warning in service.submit(train_spec)["warnings"])
    spec = {**train_spec, "train": {"batch_size": 64}}
    found = service.http.post("/jobs/validate", json=spec).json()["warnings"]
    assert "train.batch_size is 64" in found[-1]
    job = service.submit(spec)
    assert job["warnings"] == found
    assert service.http.get(f"/jobs/{job['id']}").json()["warnings"] == found
    events = service.http.get(f"/jobs/{job['id']}/events").json()["items"]
    assert [event["body"]["message"] for event in events if event["kind"] == "warning"] == found


def test_a_distill_job_waits_for_its_teacher_and_says_so(service, train_spec: Spec):
    teacher = service.submit(train_spec)
    student = service.submit(
        {"kind": "distill", "data": "discs", "teacher": {"weights": f"job:{teacher['id']}"}}
    )
    assert student["waits_for"] == [teacher["id"]]
    assert teacher["id"] in student["reason"]


def test_pages_go_from_new_to_old_without_gaps_or_repeats(service, train_spec: Spec):
    made = [service.submit({**train_spec, "name": f"job-{n}"})["id"] for n in range(5)]
    seen, after = [], None
    while True:
        page = service.http.get("/jobs", params={"limit": 2, **({"after": after} if after else {})}).json()
        seen += [job["id"] for job in page["items"]]
        after = page["next"]
        if after is None:
            break
    assert seen == made[::-1]


def test_a_list_goes_on_after_the_job_at_the_end_of_a_page_was_deleted(service, train_spec: Spec):
    made = [service.submit(train_spec)["id"] for _ in range(3)]
    after = service.http.get("/jobs", params={"limit": 2}).json()["next"]
    service.http.post(f"/jobs/{made[1]}/cancel")
    assert service.http.delete(f"/jobs/{made[1]}").status_code == 204
    rest = service.http.get("/jobs", params={"after": after})
    assert rest.status_code == 200, rest.text
    assert [job["id"] for job in rest.json()["items"]] == made[:1]


def test_a_cursor_of_an_earlier_release_is_refused_with_what_to_do(service, train_spec: Spec):
    answer = service.http.get("/jobs", params={"after": service.submit(train_spec)["id"]})
    assert (answer.status_code, answer.json()["code"]) == (422, "invalid_request")
    assert "ask for the first page" in answer.json()["detail"]


def test_jobs_are_filtered_by_state_kind_and_tag(service, train_spec: Spec):
    tagged = service.submit({**train_spec, "tags": {"team": "lab"}})["id"]
    plain = service.submit({**train_spec, "name": "100% plain"})["id"]
    service.http.post(f"/jobs/{plain}/cancel")

    def ids(**params: str) -> list[str]:
        return [job["id"] for job in service.http.get("/jobs", params=params).json()["items"]]

    assert ids(state="cancelled") == [plain]
    assert ids(tag="team:lab") == ids(tag="team") == [tagged]
    assert ids(tag="team:other") == []
    assert ids(kind="distill") == []
    assert ids(q="PLAIN") == ids(q="%") == ids(q=plain[:8]) == [plain]
    assert ids(q="plain", tag="team") == ids(q="_") == []


def test_a_wrong_filter_is_named(service):
    for params, name in (({"state": "lost"}, "state"), ({"limit": "0"}, "limit")):
        answer = service.http.get("/jobs", params=params)
        assert (answer.status_code, answer.json()["code"]) == (422, "invalid_request")
        assert answer.json()["errors"][0]["loc"] == ["query", name]


def test_a_made_up_cursor_is_refused(service, train_spec: Spec):
    service.submit(train_spec)
    for cursor in ("nonsense", "%00", "-1", "9" * 40):
        answer = service.http.get("/jobs", params={"after": cursor})
        assert (answer.status_code, answer.json()["code"]) == (422, "invalid_request"), cursor
        assert answer.json()["errors"][0]["loc"] == ["query", "after"]


def test_a_queued_job_is_cancelled_at_once_and_stays_so(service, train_spec: Spec):
    job = service.submit(train_spec)
    answer = service.http.post(f"/jobs/{job['id']}/cancel")
    assert (answer.status_code, answer.json()["state"]) == (202, "cancelled")
    again = service.http.post(f"/jobs/{job['id']}/cancel")
    assert (again.status_code, again.json()["actions"]) == (409, ["retry", "delete"])


def test_what_a_state_does_not_allow_is_answered_with_what_it_does(service, train_spec: Spec):
    job = service.submit(train_spec)
    for verb in ("pause", "resume"):
        answer = service.http.post(f"/jobs/{job['id']}/{verb}")
        assert (answer.status_code, answer.json()["code"]) == (409, "not_allowed")
        assert answer.json()["actions"] == ["cancel"]


def test_pausing_and_resuming_a_running_job(service, train_spec: Spec):
    job_id = service.submit(train_spec)["id"]
    ticket = service.claim(job_id)
    asked = service.http.post(f"/jobs/{job_id}/pause")
    assert (asked.status_code, asked.json()["state"], asked.json()["desired"]) == (202, "running", "pause")
    service.store.commands.pause(ticket)
    assert service.http.get(f"/jobs/{job_id}").json()["actions"] == ["resume", "cancel"]
    resumed = service.http.post(f"/jobs/{job_id}/resume")
    assert (resumed.status_code, resumed.json()["state"]) == (202, "queued")


def test_a_failure_is_shown_with_class_message_and_hint(service, train_spec: Spec):
    job_id = service.submit(train_spec)["id"]
    failure = Failure(failure_class=FailureClass.DIVERGED, message="loss_box became NaN", hint="Lower lr.")
    service.store.commands.fail(service.claim(job_id), failure)
    job = service.http.get(f"/jobs/{job_id}").json()
    assert job["state"] == "failed"
    assert job["failure"] == failure.model_dump(mode="json")


def test_an_unchanged_job_is_not_sent_again(service, train_spec: Spec):
    job_id = service.submit(train_spec)["id"]
    tag = service.http.get(f"/jobs/{job_id}").headers["ETag"]
    again = service.http.get(f"/jobs/{job_id}", headers={"If-None-Match": tag})
    assert (again.status_code, again.content) == (304, b"")
    service.store.submission.cancel_requested(job_id)
    assert service.http.get(f"/jobs/{job_id}", headers={"If-None-Match": tag}).status_code == 200


def test_a_long_poll_answers_as_soon_as_the_job_ends(service, train_spec: Spec):
    job_id = service.submit(train_spec)["id"]
    timer = threading.Timer(0.3, service.store.submission.cancel_requested, [job_id])
    timer.start()
    started = time.monotonic()
    job = service.http.get(f"/jobs/{job_id}", params={"wait": 30}).json()
    timer.join()
    assert job["state"] == "cancelled"
    assert 0.2 < time.monotonic() - started < 10


def test_a_long_poll_for_a_change_answers_as_soon_as_a_worker_takes_the_job(service, train_spec: Spec):
    job_id = service.submit(train_spec)["id"]
    tag = service.http.get(f"/jobs/{job_id}").headers["ETag"]
    timer = threading.Timer(0.3, service.claim, [job_id])
    timer.start()
    started = time.monotonic()
    answer = service.http.get(f"/jobs/{job_id}", params={"wait": 30}, headers={"If-None-Match": tag})
    timer.join()
    assert (answer.status_code, answer.json()["state"]) == (200, "running")
    assert answer.headers["ETag"] != tag
    assert 0.2 < time.monotonic() - started < 20


def test_a_long_poll_hears_of_a_change_that_comes_while_it_looks(service, train_spec: Spec, monkeypatch):
    """End the job between a reader's query and its wait for news: all followers must still be notified."""
    job_id = service.submit(train_spec)["id"]
    tag = service.http.get(f"/jobs/{job_id}").headers["ETag"]
    look, looks = jobs_routes._read_job, []

    async def slow_look(*what: Any) -> Any:
        seen = await look(*what)
        looks.append(seen)
        if len(looks) == 2:  # the first one that the follower opens
            await run_in_threadpool(service.store.submission.cancel_requested, job_id)
            await asyncio.sleep(4 * feeds.LOOK_SECONDS)
        return seen

    monkeypatch.setattr(jobs_routes, "_read_job", slow_look)
    monkeypatch.setattr(jobs_routes, "LOOK_SECONDS", 60)
    started = time.monotonic()
    answer = service.http.get(f"/jobs/{job_id}", params={"wait": 30}, headers={"If-None-Match": tag})
    assert answer.json()["state"] == "cancelled"
    assert time.monotonic() - started < 25


def test_a_long_poll_for_a_change_that_does_not_come_is_a_304(service, train_spec: Spec):
    job_id = service.submit(train_spec)["id"]
    tag = service.http.get(f"/jobs/{job_id}").headers["ETag"]
    answer = service.http.get(f"/jobs/{job_id}", params={"wait": 0.3}, headers={"If-None-Match": tag})
    assert (answer.status_code, answer.content, answer.headers["ETag"]) == (304, b"", tag)


def test_a_long_poll_gives_up_after_its_time(service, train_spec: Spec):
    job_id = service.submit(train_spec)["id"]
    started = time.monotonic()
    assert service.http.get(f"/jobs/{job_id}", params={"wait": 0.3}).json()["state"] == "queued"
    assert 0.3 <= time.monotonic() - started < 10


def test_a_report_that_is_not_there_is_a_404_that_says_why(service, train_spec: Spec):
    job_id = service.submit(train_spec)["id"]
    answer = service.http.get(f"/jobs/{job_id}/report")
    assert (answer.status_code, answer.json()["code"]) == (404, "no_report")
    assert "queued" in answer.json()["detail"]


def other_kind(kind: str, weights: str) -> Spec:
    parts = ("teacher", "student") if kind == "prototypes" else ("model",)
    return {"kind": kind, "data": "discs"} | {part: {"weights": weights} for part in parts}


@pytest.mark.parametrize("kind", ["evaluate", "prototypes", "export"])
def test_a_job_that_trains_nothing_waits_for_its_model_and_reports(service, train_spec: Spec, kind: str):
    model = service.submit(train_spec)
    job = service.submit(other_kind(kind, f"job:{model['id']}"))
    assert (job["kind"], job["queue"], job["name"]) == (kind, "cpu", f"{kind}-{job['id']}")
    assert f"waits for job {model['id']}" in job["reason"]
    service.store.commands.succeed(service.claim(model["id"]))
    ticket = service.claim(job["id"])
    service.store.commands.record(ticket, Report(models={}, notes=("all is well",)), 10)
    report = service.http.get(f"/jobs/{job['id']}/report").json()
    assert (report["models"], report["notes"]) == ({}, ["all is well"])
    answer = service.http.post("/jobs", json=other_kind("evaluate", f"job:{job['id']}"))
    (error,) = answer.json()["errors"]
    assert (answer.status_code, error["loc"]) == (422, ["model", "weights"])
    assert f"of kind {kind}, which makes no model" in error["message"]
    assert [each["id"] for each in service.http.get(f"/jobs?kind={kind}").json()["items"]] == [job["id"]]


def test_a_job_of_several_gpus_waits_for_a_worker_that_has_them(service, train_spec: Spec):
    recipe = {**train_spec["train"], "batch_size": 6}
    job = service.submit({**train_spec, "train": recipe, "resources": {"gpus": 3}})
    assert (job["queue"], job["resolved"]["processes"]) == ("gpu4", 3)
    assert "waiting for a worker with 4 GPUs" in job["reason"]


def test_the_schema_of_a_job_names_every_field(service):
    schema = service.http.get("/schema/job").json()
    assert set(schema["discriminator"]["mapping"]) == {"train", "distill", "evaluate", "prototypes", "export"}
    assert {"per_class", "alpha"} <= set(schema["$defs"]["PrototypesConfig"]["properties"])


def test_reading_does_not_wait_for_submissions_whose_data_sets_are_slow_to_read(
    service, train_spec: Spec, monkeypatch: pytest.MonkeyPatch
):
    job, read = service.submit(train_spec), resolve
    disk_answers, waiting = threading.Event(), threading.Semaphore(0)

    def slowly(*given, **named):
        waiting.release()
        assert disk_answers.wait(60)
        return read(*given, **named)

    monkeypatch.setattr("api.deps.resolve", slowly)
    limits = httpx.Limits(max_connections=60)
    with (
        httpx.Client(base_url=service.http.base_url, timeout=90, limits=limits) as http,
        ThreadPoolExecutor(50) as pool,
    ):
        sent = [pool.submit(http.post, "/jobs", json=train_spec) for _ in range(50)]  # more than threads
        assert all(waiting.acquire(timeout=60) for _ in range(AT_ONCE))
        assert not waiting.acquire(timeout=1)  # the others wait without a thread
        assert service.http.get(f"/jobs/{job['id']}").status_code == 200  # its client gives up after 40 s
        assert not any(each.done() for each in sent)
        disk_answers.set()
        assert [each.result().status_code for each in sent] == [201] * 50
