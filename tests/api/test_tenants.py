"""Every route with another tenant's key: their things are unknown, as if they did not exist."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest
from sqlalchemy import text

from gkd_core.events import Checkpoint
from jobs.job import Artifact
from jobs.keys import Scope
from jobs.presence import Presence
from jobs.resources import NewResource, ResourceKind

OURS = {
    "GET /jobs",
    "POST /jobs",
    "POST /jobs/validate",
    "GET /schema/job",
    "GET /datasets",
    "POST /datasets",
    "GET /models",
    "POST /models",
    "GET /whoami",
    "GET /workers",
    "GET /healthz",
    "GET /readyz",
}
"""Routes without an id: they answer, and nothing of another tenant may be in the answer."""

ADMINS = {
    "GET /metrics",
    "GET /keys",
    "POST /keys",
    "DELETE /keys/{key_id}",
    "GET /tenants",
    "PUT /tenants/{name}/limits",
}
"""Routes about the whole service: refused to keys without the scope admin."""

BODIES: dict[str, Any] = {
    "PUT /tenants/{name}/limits": {},
    "POST /keys": {"name": "x"},
    "POST /datasets": {"name": "x", "path": "discs"},
    "POST /models": {"name": "x", "path": "discs/images/train1.png"},
}
"""Bodies of routes that would refuse an empty one before they check the tenant."""

SECRET = "theirs-and-nobody-elses"


@pytest.fixture
def keys(service) -> dict[str, dict[str, str]]:
    """Return headers by tenant."""
    made = {
        t: service.store.keys.create_key(t, "k", {Scope.READ, Scope.WRITE})[1].text
        for t in ("ours", "theirs")
    }
    return {tenant: {"Authorization": f"Bearer {secret}"} for tenant, secret in made.items()}


@pytest.fixture
def theirs(service, keys, train_spec) -> dict[str, str]:
    """Return ids of another tenant's things, by the names of path parameters."""
    spec = train_spec | {"name": SECRET, "tags": {"team": SECRET}}
    job = service.http.post("/jobs", json=spec, headers=keys["theirs"] | {"Idempotency-Key": "k"}).json()
    ticket = service.claim(job["id"])
    service.settings.home.mkdir(exist_ok=True)
    file = service.settings.home / SECRET
    file.write_text(SECRET)
    blob = service.artifacts.put(file)
    event = Checkpoint(
        run="model", epoch=0, step=1, file=SECRET, size=blob.size, sha256=blob.sha256, best=True
    )
    artifact = Artifact(name=SECRET, size=blob.size, sha256=blob.sha256, created_at=datetime.now(UTC))
    service.store.commands.record(ticket, event, 1, artifact)
    service.store.workers.appear(Presence(name="a-worker", host="node", version="1", queues=("cpu",)))
    log = service.settings.runs / job["id"] / "log.txt"
    log.parent.mkdir(parents=True, exist_ok=True)
    log.write_text(SECRET)
    with service.store.database.write() as connection:
        connection.execute(text("""UPDATE jobs SET report = '{"theirs": true}'"""))
    ids = {
        f"{kind}_id": service.store.resources.add_resource(
            NewResource(kind, SECRET, "/there"), tenant="theirs"
        )[0].id
        for kind in ResourceKind
    }
    return {"job_id": job["id"], "name": SECRET} | ids


def operations(service) -> list[tuple[str, str]]:
    paths = service.http.get("/openapi.json").json()["paths"]
    return [(method.upper(), path) for path, methods in paths.items() for method in methods]


def without(answer_text: str, request_id: str, *ids: str) -> str:
    for each in (request_id, *ids):
        answer_text = answer_text.replace(each, "...")
    return answer_text


def test_with_their_own_key_it_is_all_there(service, keys, theirs):
    """Check that the tests below can fail."""
    job = f"/jobs/{theirs['job_id']}"
    resources = (f"/datasets/{theirs['dataset_id']}", f"/models/{theirs['model_id']}")
    for path in (
        job,
        *(f"{job}/{part}" for part in ("events", "log", "report", f"artifacts/{SECRET}")),
        *resources,
    ):
        assert service.http.get(path, headers=keys["theirs"]).status_code == 200, path


def test_every_route_keeps_what_is_theirs_from_us(service, keys, theirs, train_spec):
    before = service.store.reading.get(theirs["job_id"])
    for method, path in operations(service):
        route = f"{method} {path}"
        body = BODIES.get(route, train_spec if route in OURS else {})
        how: dict[str, Any] = {"headers": keys["ours"], "json": None if method == "GET" else body}
        if route in OURS or route in ADMINS:
            answer = service.http.request(method, path.format_map({"key_id": "x"} | theirs), **how)
            assert answer.status_code == 403 if route in ADMINS else answer.is_success, (route, answer.text)
            assert SECRET not in without(answer.text, path.format_map({"key_id": "x"} | theirs)), route
            assert theirs["job_id"] not in answer.text, route
            continue
        unknown = {name: "0" * len(value) for name, value in theirs.items()}
        try:
            answers = [service.http.request(method, path.format_map(ids), **how) for ids in (theirs, unknown)]
        except KeyError as missing:
            pytest.fail(f"{route}: make a thing of theirs for {missing}, or say in OURS or ADMINS why not")
        assert [answer.status_code for answer in answers] == [404, 404], (route, answers[0].text)
        texts = [
            without(answer.text, answer.headers["X-Request-ID"], *ids.values())
            for answer, ids in zip(answers, (theirs, unknown), strict=True)
        ]
        assert texts[0] == texts[1], f"{route} tells that it is there"
    assert service.store.reading.get(theirs["job_id"]) == before, "and nothing of theirs was changed"


def test_every_route_but_health_needs_a_key(service, keys, theirs):
    for method, path in operations(service):
        answer = service.http.request(method, path.format_map({"key_id": "x"} | theirs))
        open_to_all = path in ("/healthz", "/readyz")
        assert (answer.status_code == 401) is not open_to_all, (method, path, answer.text)


@pytest.mark.parametrize("role", ["model", "teacher"])
def test_their_job_is_no_origin_of_weights_for_us(service, keys, theirs, train_spec, role: str):
    weights = {"weights": f"job:{theirs['job_id']}"}
    spec = train_spec | ({"model": weights} if role == "model" else {"kind": "distill", "teacher": weights})
    for path in ("/jobs", "/jobs/validate"):
        answer = service.http.post(path, json=spec, headers=keys["ours"])
        assert answer.status_code == 422
        assert f"there is no job '{theirs['job_id']}'" in answer.json()["detail"]
    assert service.http.post("/jobs/validate", json=spec, headers=keys["theirs"]).status_code == 200


def test_a_worker_is_busy_but_not_with_what(service, keys, theirs):
    seen = {
        tenant: service.http.get("/workers", headers=headers).json()[0] for tenant, headers in keys.items()
    }
    assert [worker["state"] for worker in seen.values()] == ["busy", "busy"]
    assert (seen["ours"]["job_id"], seen["theirs"]["job_id"]) == (None, theirs["job_id"])


def test_their_job_is_no_place_in_our_list(service, keys, theirs):
    answers = [
        service.http.get(f"/jobs?after={after}", headers=keys["ours"]) for after in (theirs["job_id"], "0")
    ]
    assert [answer.status_code for answer in answers] == [422, 422]
    assert service.http.get("/jobs", headers=keys["ours"]).json()["items"] == []
    assert len(service.http.get("/jobs", headers=keys["theirs"]).json()["items"]) == 1


def test_their_idempotency_key_is_nothing_to_us(service, keys, theirs, train_spec):
    headers = keys["ours"] | {"Idempotency-Key": "k"}
    job = service.http.post("/jobs", json=train_spec, headers=headers)
    assert job.status_code == 201
    assert job.json()["id"] != theirs["job_id"]
    for verb in ("retry", "clone"):
        new = keys["ours"] | {"Idempotency-Key": f"for a {verb}"}
        assert service.http.post(f"/jobs/{theirs['job_id']}/{verb}", headers=new).status_code == 404
