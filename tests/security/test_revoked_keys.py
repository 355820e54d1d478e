"""A key that was revoked or has expired reads nothing more, not even through a connection that it opened before."""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest

from jobs.errors import StoreUnavailable
from jobs.keys import Scope
from jobs.resources import ResourceKind
from jobs.specs.spec import JobChange

ENDS_WITHIN = 20.0
"""Seconds: a few, and more for a busy machine; every connection here would last twice as long otherwise."""
LASTS = 2 * ENDS_WITHIN


@pytest.fixture
def job_id(service, train_spec: dict[str, Any]) -> str:
    """Return a job of the tenant of the keys here."""
    id_: str = service.submit(train_spec)["id"]
    return id_


def key(service, seconds: float | None = None) -> tuple[str, dict[str, str]]:
    """Return id and header of a key that reads and writes."""
    made, secret = service.store.keys.create_key("default", "k", {Scope.READ, Scope.WRITE}, seconds=seconds)
    return made.id, {"Authorization": f"Bearer {secret.text}"}


def listened(service, job_id: str, headers: dict[str, str]) -> Iterator[str]:
    """Yield the lines of a stream."""
    url, wait = f"/jobs/{job_id}/stream", {"wait": int(LASTS)}
    with service.http.stream("GET", url, params=wait, headers=headers) as answer:
        assert answer.status_code == 200
        yield from answer.iter_lines()


def test_a_stream_ends_soon_after_its_key_was_revoked(service, job_id: str):
    key_id, headers = key(service)
    lines = listened(service, job_id, headers)
    assert next(line for line in lines if line.startswith("id:")) == "id: 1"
    service.store.keys.revoke_key(key_id)
    revoked = time.monotonic()
    rest = list(lines)
    assert time.monotonic() - revoked < ENDS_WITHIN
    assert rest[-2:] == [": this API key is unknown, expired or revoked", ""]


def test_a_stream_ends_soon_after_its_key_has_expired(service, job_id: str):
    key(service)
    _, headers = key(service, seconds=3.0)
    began = time.monotonic()
    assert any("id: 1" in line for line in list(listened(service, job_id, headers)))
    assert time.monotonic() - began < ENDS_WITHIN


def test_a_busy_stream_ends_too(service, job_id: str):
    """Record events all the time, so that the stream never waits."""
    key_id, headers = key(service)
    lines = listened(service, job_id, headers)
    next(line for line in lines if line.startswith("id:"))
    service.store.keys.revoke_key(key_id)
    revoked, heard = time.monotonic(), 0
    for name in iter(lambda: f"n{time.monotonic()}", None):
        service.store.editing.change(job_id, JobChange(name=name))
        line = next(lines, None)
        heard += line is not None and line.startswith("id:")
        if line is None or time.monotonic() - revoked > LASTS / 2:
            break
    assert time.monotonic() - revoked < ENDS_WITHIN


def test_a_stream_that_needed_no_key_ends_once_there_is_one(service, job_id: str):
    lines = listened(service, job_id, {})
    next(line for line in lines if line.startswith("id:"))
    key(service)
    made = time.monotonic()
    list(lines)
    assert time.monotonic() - made < ENDS_WITHIN


@pytest.mark.parametrize("known", [False, True])
def test_a_long_poll_is_refused_once_its_key_was_revoked(service, job_id: str, known: bool):
    key_id, headers = key(service)
    url = f"/jobs/{job_id}"
    if known:
        headers |= {"If-None-Match": service.http.get(url, headers=headers).headers["ETag"]}
    with ThreadPoolExecutor(1) as pool:
        began = time.monotonic()
        poll = pool.submit(service.http.get, url, params={"wait": LASTS}, headers=headers)
        time.sleep(1.0)
        service.store.keys.revoke_key(key_id)
        answer: httpx.Response = poll.result()
    assert (answer.status_code, answer.json()["code"]) == (401, "unauthorized")
    assert time.monotonic() - began < ENDS_WITHIN


def test_an_upload_is_not_kept_when_its_key_was_revoked_meanwhile(service):
    key_id, headers = key(service)

    def archive() -> Iterator[bytes]:
        yield b"PK"
        service.store.keys.revoke_key(key_id)
        time.sleep(5.0)  # longer than a key is cached
        yield b"\3\4"

    sent = headers | {"Content-Type": "application/zip"}
    answer = service.http.post("/datasets", params={"name": "x"}, content=archive(), headers=sent)
    assert (answer.status_code, answer.json()["code"]) == (401, "unauthorized")
    assert service.store.resources.list_resources(ResourceKind.DATASET).items == ()


def test_streams_go_on_while_the_database_cannot_say_whose_key_it_is(service, job_id: str, monkeypatch):
    _, headers = key(service)
    lines = listened(service, job_id, headers)
    next(line for line in lines if line.startswith("id:"))
    monkeypatch.setattr(service.store.keys, "admit", _away)
    time.sleep(5.0)
    monkeypatch.undo()
    service.store.submission.cancel_requested(job_id)
    assert any("cancelled" in line for line in lines)


def _away(*_: object) -> None:
    raise StoreUnavailable(ConnectionError("gone"))
