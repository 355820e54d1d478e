"""The client against a real `gkd serve`."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from client.client import ApiError, Client, Unreachable
from jobs.job import State
from jobs.keys import Limits


def test_a_job_is_followed_from_its_spec_to_its_files(client: Client, spec, tmp_path: Path):
    job = client.submit({**spec, "name": "teacher"})
    ended = client.wait(job.id, timeout=60)
    assert (ended.state, ended.name, ended.attempt) == (State.SUCCEEDED, "teacher", 1)
    report = client.report(job.id)
    name = report.models["model"].file
    digest = client.download(job.id, str(name), tmp_path / "model.safetensors")
    assert digest == report.models["model"].sha256
    assert hashlib.sha256((tmp_path / "model.safetensors").read_bytes()).hexdigest() == digest
    assert [path.name for path in tmp_path.iterdir()] == ["model.safetensors"]
    assert name in {artifact.name for artifact in client.artifacts(job.id)}
    assert "attempt 1 starts" in client.log(job.id)[0]


def test_followed_events_come_once_in_order_and_end_with_the_job(client: Client, spec):
    job = client.submit(spec)
    events = list(client.events(job.id, every=0.05))
    assert [event.number for event in events] == list(range(1, len(events) + 1))
    assert events[-1].body["state"] == "succeeded"
    assert [event.number for event in client.events(job.id, after=3)] == [
        event.number for event in events[3:]
    ]


def test_a_distill_job_runs_after_its_teacher(client: Client, spec):
    teacher = client.submit(spec)
    student = client.submit(
        {"kind": "distill", "data": "shapes", "teacher": {"weights": f"job:{teacher.id}"}}
    )
    assert student.waits_for == (teacher.id,)
    assert client.wait(student.id, timeout=60).state is State.SUCCEEDED
    assert set(client.report(student.id).models) == {"teacher", "control", "student"}


def test_a_wrong_spec_is_an_error_that_names_each_field(client: Client, spec):
    with pytest.raises(ApiError) as caught:
        client.submit(
            {**spec, "data": "nowhere", "train": {"epochs": 2}, "tags": {"team": "lab"}, "priority": 5}
        )
    assert caught.value.code == "invalid_spec"
    assert caught.value.problems[0].loc == ("data", "path")
    assert "nowhere" in caught.value.message


def test_validating_tells_what_a_spec_comes_to(client: Client, spec):
    assert client.validate(spec)["config"]["data"]["format"] == "coco"


def test_the_same_key_gives_the_same_job(client: Client, spec):
    assert client.submit(spec, idempotency_key="k").id == client.submit(spec, idempotency_key="k").id


def test_more_jobs_than_fit_on_a_page_are_listed(client: Client, spec, monkeypatch: pytest.MonkeyPatch):
    made = [client.submit({**spec, "tags": {"test": "pages"}}).id for _ in range(3)]
    ask = client._http.json

    def small_pages(method: str, path: str, **how):
        how["params"]["limit"] = 1
        return ask(method, path, **how)

    monkeypatch.setattr(client._http, "json", small_pages)
    assert [job.id for job in client.jobs(tag="test:pages")] == made[::-1]
    assert [job.id for job in client.jobs(tag="test:pages", limit=2)] == made[:0:-1]


def test_what_is_not_allowed_says_so(client: Client, spec):
    job = client.wait(client.submit(spec).id, timeout=60)
    with pytest.raises(ApiError, match="cancel") as caught:
        client.cancel(job.id)
    assert (caught.value.status, caught.value.code) == (409, "not_allowed")


@pytest.mark.parametrize("job_id", ["nobody", "../healthz", "a/b", "?", "%2e%2e"])
def test_an_unknown_job_is_an_error_whatever_its_id_looks_like(client: Client, job_id: str):
    with pytest.raises(ApiError) as caught:
        client.job(job_id)
    assert caught.value.status == 404


def test_a_damaged_download_is_not_kept(client: Client, spec, home: Path, tmp_path: Path):
    job = client.wait(client.submit(spec).id, timeout=60)
    (report,) = (artifact for artifact in client.artifacts(job.id) if artifact.name == "report.json")
    (kept,) = (home / "artifacts").rglob(report.sha256)
    content = kept.read_bytes()
    kept.write_bytes(content[::-1])
    try:
        # the service compares the file with its hash before it sends it
        with pytest.raises(ApiError, match=report.sha256) as caught:
            client.download(job.id, "report.json", tmp_path / "report.json")
    finally:
        kept.write_bytes(content)
    assert (caught.value.status, caught.value.code) == (410, "artifact_damaged")
    assert list(tmp_path.iterdir()) == []


def test_an_absent_file_leaves_nothing_behind(client: Client, spec, tmp_path: Path):
    with pytest.raises(ApiError, match="absent"):
        client.download(client.submit(spec).id, "absent", tmp_path / "absent")
    assert list(tmp_path.iterdir()) == []


def test_a_service_that_is_not_there_is_said_so(port: int):
    with Client(f"http://127.0.0.1:{port}") as client, pytest.raises(Unreachable, match=str(port)) as caught:
        client.jobs()
    assert "gkd serve" in caught.value.hint


def test_a_proxy_for_the_world_is_not_asked_for_this_machine(url: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
    monkeypatch.setenv("ALL_PROXY", "http://127.0.0.1:1")
    monkeypatch.delenv("NO_PROXY", raising=False)
    with Client(url) as client:
        assert client.ready()


def test_limits_of_tenants_are_set_and_listed(client: Client):
    lab = client.set_limits("lab", Limits(running_jobs=2))
    assert (lab.name, lab.limits.running_jobs, lab.use.running_jobs) == ("lab", 2, 0)
    assert lab in client.tenants()


def test_the_schema_of_a_job_says_what_may_be_sent(client: Client, spec):
    assert spec["kind"] in client.schema()["discriminator"]["mapping"]
