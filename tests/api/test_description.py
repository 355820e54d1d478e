"""The description at /openapi.json names all that can happen, and its examples work."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime
from typing import Any

import pytest

from api.app import create_app
from gkd_core.errors import Failure, FailureClass
from gkd_core.events import Checkpoint
from jobs.artifacts import open_artifacts
from jobs.job import Artifact
from jobs.queue import JobQueue, make_app
from jobs.resources import NewResource, ResourceKind
from jobs.settings import Settings
from jobs.store.store import Store

Operation = tuple[str, str, dict[str, Any]]

_ANSWERED_OTHERWISE = {"GET /jobs/{job_id}/report": {"404"}}
"""Routes without an answer in this test: the engine that would write it is not run."""


@pytest.fixture(scope="module")
def description() -> dict[str, Any]:
    settings = Settings()
    with closing(Store("sqlite://")) as store:
        app = create_app(store, open_artifacts(settings.home), JobQueue(make_app("memory://")), settings)
        return app.openapi()


@pytest.fixture(scope="module")
def operations(description: dict[str, Any]) -> list[Operation]:
    return [
        (f"{method.upper()} {path}", path, operation)
        for path, methods in description["paths"].items()
        for method, operation in methods.items()
    ]


def test_every_route_says_what_it_does_and_what_it_takes(operations: list[Operation]):
    for route, _, operation in operations:
        assert operation["description"], f"{route} has no docstring"
        assert 2 <= len(operation["summary"].split()) <= 20, (route, operation["summary"])
        for parameter in operation.get("parameters", ()):
            assert parameter.get("description"), f"{route}: say what {parameter['name']} is"
            assert _example(parameter) is not None, f"{route}: give an example of {parameter['name']}"


def test_every_route_is_called_otherwise(operations: list[Operation]):
    names = [operation["operationId"] for _, _, operation in operations]
    assert len(set(names)) == len(names)


def test_every_refusal_is_a_problem(operations: list[Operation]):
    for route, _, operation in operations:
        refusals = {status: answer for status, answer in operation["responses"].items() if status >= "400"}
        assert "500" in refusals, route
        for status, answer in refusals.items():
            assert answer["description"], (route, status)
            if (route, status) != ("GET /readyz", "503"):
                assert list(answer["content"]) == ["application/problem+json"], (route, status)


def test_what_needs_a_key_says_so(operations: list[Operation]):
    for route, path, operation in operations:
        is_open = path in ("/healthz", "/readyz")
        assert ({"401", "403", "429"} <= set(operation["responses"])) is not is_open, route
        assert bool(operation["security"]) is not is_open, route


def test_verbs_say_what_they_may_not_do(operations: list[Operation]):
    may_not = {route for route, _, operation in operations if "409" in operation["responses"]}
    assert {f"POST /jobs/{{job_id}}/{verb}" for verb in ("cancel", "pause", "resume", "retry")} <= may_not
    assert {"DELETE /jobs/{job_id}", "PATCH /jobs/{job_id}"} <= may_not


def test_every_body_has_an_example(operations: list[Operation]):
    bodies = [(route, operation) for route, _, operation in operations if "requestBody" in operation]
    assert bodies
    for route, operation in bodies:
        assert list(_bodies(operation)), f"{route}: give an example of its body"


def test_the_example_of_a_problem_is_one_that_happens(service, description, train_spec):
    [example] = description["components"]["schemas"]["ProblemDetails"]["examples"]
    job_id = service.submit(train_spec)["id"]
    seen = service.http.post(f"/jobs/{job_id}/pause").text.replace(job_id, "4f1c0a9be27d")
    assert json.loads(seen) | {"request_id": ""} == example | {"request_id": ""}


# ---- examples that work ----------------------------------------------------------------------------------


CURSORS = ("e4hnK1JkY9w8pWzr2mVbXQ", "Jq0c7xSg2nP4mTzVbD8w1A", "yL5uR3kXh9aWf6oQeC2d7g")
"""Cursors in the examples: pages of jobs, data sets and models."""


@pytest.fixture
def there(service, root, draw, train_spec) -> dict[str, str]:
    """Return the ids that stand in this test for those of the examples."""
    draw(root / "bccd")
    (root / "models").mkdir()
    (root / "models" / "teacher.safetensors").write_bytes(b"weights")
    upload = service.artifacts.put(root / "models" / "teacher.safetensors")

    def added(new: NewResource) -> str:
        id_: str = service.store.resources.add_resource(new, tenant="default")[0].id
        return id_

    for kind in ResourceKind:
        added(NewResource(kind, "first", "/there"))
    known = {
        "4f1c0a9be27d": service.submit(train_spec | {"data": "bccd", "tags": {"team": "lab"}})["id"],
        "9d02be6617ac": service.submit(train_spec | {"data": "bccd"})["id"],
        "5b7f20c3e9d1": added(NewResource(ResourceKind.DATASET, "x", "/there")),
        "e04a96d17b52": added(NewResource(ResourceKind.MODEL, "x", size=upload.size, sha256=upload.sha256)),
        "8c2e51f0a7d3": service.store.keys.create_key("lab", "k", {"admin"})[0].id,
    }
    pages = [service.store.reading.list_jobs(tenant="default", limit=1)]
    pages += [
        service.store.resources.list_resources(kind, tenant="default", limit=1) for kind in ResourceKind
    ]
    return known | dict(zip(CURSORS, (page.next for page in pages), strict=True))


def test_every_example_does_what_the_description_says(service, operations, there, train_spec):
    key = {"Authorization": f"Bearer {service.store.keys.create_key('default', 'k', {'admin'})[1].text}"}
    deleted_last = sorted(operations, key=lambda each: each[0].startswith("DELETE"))
    for route, path, operation in deleted_last:
        for body in [*_bodies(operation)] or [None]:
            now = there | {"4f1c0a9be27d": _job_for(route, service, train_spec, key) or there["4f1c0a9be27d"]}
            method, url, how = _request(route, path, operation, body, now)
            how["headers"] |= key
            answer = service.http.request(method, url, **how)
            good = {status for status in operation["responses"] if status < "400"}
            expected = _ANSWERED_OTHERWISE.get(route, good)
            assert str(answer.status_code) in expected, (route, body, answer.text)


def _job_for(route: str, service, train_spec, key) -> str | None:
    """Return a job in the state that the command needs; None: any job."""
    verb = route.removeprefix("POST /jobs/{job_id}/")
    if verb not in ("cancel", "pause", "resume", "retry") and not route.startswith(
        ("DELETE /jobs/", "GET /jobs/{job_id}/a")
    ):
        return None
    job = service.http.post("/jobs", json=train_spec | {"data": "bccd"}, headers=key).json()
    ticket = service.claim(job["id"])
    if verb == "resume":
        service.store.submission.pause_requested(job["id"])
        service.store.commands.pause(ticket)
    if verb == "retry":
        service.store.commands.fail(
            ticket, Failure(failure_class=FailureClass.INFRASTRUCTURE, message="the disk is full")
        )
    if route.startswith("DELETE"):
        service.store.commands.succeed(ticket)
    if "/artifacts/" in route:
        _publish(service, ticket, "student.safetensors")
    return job["id"]


def _publish(service, ticket, name: str) -> None:
    file = service.settings.home / name
    file.parent.mkdir(exist_ok=True)
    file.write_bytes(b"weights")
    blob = service.artifacts.put(file)
    event = Checkpoint(
        run="student", epoch=0, step=1, file=name, size=blob.size, sha256=blob.sha256, best=True
    )
    artifact = Artifact(name=name, size=blob.size, sha256=blob.sha256, created_at=datetime.now(UTC))
    service.store.commands.record(ticket, event, 1, artifact)


def _request(
    route: str, path: str, operation: dict[str, Any], body: Any, there: dict[str, str]
) -> tuple[str, str, dict[str, Any]]:
    """Return the request that the examples of an operation describe."""
    sent: dict[str, dict[str, Any]] = {"path": {}, "query": {}, "header": {}}
    for parameter in operation.get("parameters", ()):
        sent[parameter["in"]][parameter["name"]] = _example(parameter)
    text = json.dumps([path.format_map(sent["path"]), sent["query"], sent["header"], body])
    for written, here in there.items():
        text = text.replace(written, here)
    url, query, headers, content = json.loads(text)
    headers = {name: str(value) for name, value in headers.items()}
    if "idempotency-key" in headers:
        headers["idempotency-key"] = uuid.uuid4().hex  # each body is another job
    how = {"params": query, "headers": headers} | ({} if body is None else {"json": content})
    return route.split()[0], url, how


def _example(parameter: dict[str, Any]) -> Any:
    examples = parameter["schema"].get("examples")
    return parameter.get("example", examples[0] if examples else None)


def _bodies(operation: dict[str, Any]) -> Iterator[Any]:
    for content in operation.get("requestBody", {}).get("content", {}).values():
        for example in content.get("examples", {}).values():
            yield example["value"]
