"""Bodies that are large, deep, slow, in several parts or with wrong numbers: an answer in time, nothing queued.

Single hostile bodies are in tests/api/test_errors.py.
"""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Iterator
from typing import Any

import pytest

from api import request_guard
from gkd_core.errors import SpecError
from jobs.specs.spec_errors import MOST, read_spec

from .conftest import within

BODIES = (
    "POST /jobs",
    "POST /jobs/validate",
    "POST /keys",
    "POST /jobs/x/clone",
    "PATCH /jobs/x",
    "PUT /tenants/x/limits",
)


@pytest.mark.parametrize("route", BODIES)
@pytest.mark.parametrize("opening", ["[", '{"a":', '{"spec":[', '[{"a":[', "[[[["])
def test_no_depth_of_nesting_takes_time_or_breaks_a_route(service, route: str, opening: str):
    method, path = route.split()
    bodies = [opening * 100_000, opening * 200 + "1"]
    if opening == "[":
        bodies.append("[" * 900 + "]" * 900)
    for body in bodies:
        with within(3):
            answer = service.http.request(
                method, path, content=body, headers={"Content-Type": "application/json"}
            )
        assert 400 <= answer.status_code < 500, answer.text
        assert answer.headers["Content-Type"] == "application/problem+json"


@pytest.mark.parametrize("route", BODIES)
@pytest.mark.parametrize("chunked", [False, True])
def test_a_body_over_the_limit_is_refused_on_every_route(service, route: str, chunked: bool):
    method, path = route.split()
    body: Any = b" " * (request_guard.BODY_LIMIT + 1)
    if chunked:
        body = iter([body[:500_000], body[500_000:]])
    answer = service.http.request(method, path, content=body, headers={"Content-Type": "application/json"})
    assert (answer.status_code, answer.json()["code"]) == (413, "too_large")


MANY: dict[str, Any] = {
    "unknown fields": {f"epoch{n}": 1 for n in range(60_000)},
    "unknown fields below": {"train": {f"epochs{n}": 1 for n in range(60_000)}},
    "wrong classes": {"data": {"path": "discs", "classes": [1] * 400_000}},
    "wrong tags": {"tags": {f"a b{n}": 1 for n in range(60_000)}},
    "a long name": {"x" * 900_000: 1},
    "a long kind": {"kind": "x" * 900_000},
    "a long value": {"model": {"backbone": "x" * 900_000}},
    "a long path": {"data": "x/" * 400_000},
    "a long hint": {"model": {"weights": "job:" + "x" * 900_000}},
}


@pytest.mark.parametrize("what", MANY)
def test_half_a_million_mistakes_take_no_time_and_no_long_answer(service, send, train_spec, what: str):
    with within(6):
        answer = send("/jobs", train_spec | MANY[what])
    assert answer.status_code in (413, 422), answer.text[:300]
    assert len(answer.content) < 5 * request_guard.BODY_LIMIT
    assert len(answer.json()["errors"]) <= MOST + 1


def test_how_many_mistakes_are_left_is_said():
    with pytest.raises(SpecError) as caught:
        read_spec({"kind": "train", "data": "x"} | {f"a{n}": 1 for n in range(MOST + 7)})
    assert caught.value.problems[-1].message == "and 7 more mistakes"
    assert len(caught.value.problems) == MOST + 1


def numbers(value: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """Yield the paths of numbers in a schema."""
    for name, field in value.get("properties", {}).items():
        if any(kind in json.dumps(field) for kind in ('"number"', '"integer"')) and "$ref" not in json.dumps(
            field
        ):
            yield (*path, name)


def every_number(service) -> list[tuple[str, str]]:
    """Return definition and field of every number in a spec."""
    definitions = service.http.get("/schema/job").json()["$defs"]
    return [(name, path[0]) for name, each in definitions.items() for path in numbers(each)]


WHERE = {
    "FpnConfig": ("model", "fpn"),
    "HeadConfig": ("model", "head"),
    "DetectorConfig": ("model",),
    "TrainConfig": ("train",),
    "Resources": ("resources",),
    "TrainSpec": (),
}


@pytest.mark.parametrize(
    "text", ["NaN", "Infinity", "-Infinity", "1e999", "-1e999", "9" * 4400, "true", '"1"', "[1]"]
)
def test_what_is_no_finite_number_is_none_in_any_field(service, send, text: str):
    tried = 0
    for definition, field in every_number(service):
        if definition not in WHERE:
            continue
        body: Any = "@"
        for name in reversed((*WHERE[definition], field)):
            body = {name: body}
        spec = json.dumps({"kind": "train", "data": "nowhere"} | body).replace('"@"', text)
        answer = send("/jobs/validate", spec.encode())
        assert answer.status_code in (400, 422), spec
        if text not in ('"1"', "[1]"):
            told = answer.json()
            assert told["code"] == "invalid_json" or field in told["detail"], (spec, told)
        tried += 1
    assert tried > 10


def test_of_two_equal_fields_the_last_is_checked_and_kept(service, send, train_spec):
    """Send a field twice: one parser reads a body once, so that the checked value is the used one."""
    body = json.dumps(train_spec | {"priority": 1})[:-1] + ', "priority": 99}'
    assert send("/jobs", body.encode()).status_code == 422
    body = json.dumps(train_spec | {"priority": 99})[:-1] + ', "priority": 3}'
    answer = send("/jobs", body.encode())
    assert answer.status_code == 201
    assert service.store.reading.get(answer.json()["id"]).spec["priority"] == 3


@pytest.mark.parametrize(
    "media_type",
    [
        "text/plain",
        "application/x-www-form-urlencoded",
        "multipart/form-data; boundary=x",
        "application/xml",
        "",
        "a/b; json",
    ],
)
@pytest.mark.parametrize("route", BODIES)
def test_what_does_not_say_that_it_is_json_is_not_read_as_json(
    service, train_spec, route: str, media_type: str
):
    """Send the types that a form of another site can send without asking the browser for permission."""
    method, path = route.split()
    answer = service.http.request(
        method, path, content=json.dumps(train_spec), headers={"Content-Type": media_type}
    )
    assert 400 <= answer.status_code < 500, answer.text
    assert service.jobs() == ()
    assert not service.store.keys.has_keys()


@pytest.mark.parametrize("encoding", ["gzip", "deflate", "br", "zstd"])
def test_a_packed_body_is_not_unpacked(service, encoding: str):
    answer = service.http.post(
        "/jobs",
        content=b"\x1f\x8b" * 50,
        headers={"Content-Type": "application/json", "Content-Encoding": encoding},
    )
    assert (answer.status_code, answer.json()["code"]) == (400, "invalid_json")


@pytest.mark.parametrize("length", ["Content-Length: 1000", "Transfer-Encoding: chunked"])
def test_a_body_that_does_not_come_is_given_up(service, monkeypatch: pytest.MonkeyPatch, length: str):
    monkeypatch.setattr(request_guard, "BODY_SECONDS", 0.3)
    url = service.http.base_url
    head = f"POST /jobs HTTP/1.1\r\nHost: {url.host}\r\nContent-Type: application/json\r\n{length}\r\n\r\n"
    with socket.create_connection((url.host, url.port), timeout=30) as connection:
        connection.sendall(head.encode())
        connection.sendall(b"1\r\n{\r\n" if "chunked" in length else b"{")
        told = b"".join(iter(lambda: connection.recv(4096), b""))  # to the end: the connection is closed
    assert told.startswith(b"HTTP/1.1 408")
    assert b"too_slow" in told


def test_a_body_that_drips_is_given_up_too(service, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(request_guard, "BODY_SECONDS", 0.5)
    url = service.http.base_url
    head = f"POST /jobs HTTP/1.1\r\nHost: {url.host}\r\nContent-Type: application/json\r\nContent-Length: 9999\r\n\r\n"
    with socket.create_connection((url.host, url.port), timeout=30) as connection:
        connection.sendall(head.encode())
        connection.settimeout(0.1)
        told, deadline = b"", time.monotonic() + 30
        while not told and time.monotonic() < deadline:
            connection.sendall(b" ")
            try:
                told = connection.recv(4096)
            except TimeoutError:
                continue
    assert told.startswith(b"HTTP/1.1 408")


def test_others_are_answered_while_many_bodies_do_not_come(service, train_spec):
    """Leave bodies unsent: each costs a connection, no thread."""
    url = service.http.base_url
    head = f"POST /jobs HTTP/1.1\r\nHost: {url.host}\r\nContent-Type: application/json\r\nContent-Length: 9\r\n\r\n"
    held = [socket.create_connection((url.host, url.port), timeout=30) for _ in range(100)]
    try:
        for connection in held:
            connection.sendall(head.encode())
        assert service.submit(train_spec)["state"] == "queued"
    finally:
        for connection in held:
            connection.close()
