"""Server-Sent Events: what a client receives, and what clients cost."""

from __future__ import annotations

import gc
import json
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest

from gkd_core.config import DataConfig, TrainRun
from gkd_core.events import Progress
from gkd_core.events import Warning as Remark
from jobs.errors import StoreUnavailable
from jobs.specs.spec import Resolved, job_spec


def progress(step: int) -> Progress:
    return Progress(run="model", epoch=0, epochs=1, step=step, steps=100, fraction=step / 100)


def queued(service) -> str:
    """Return a job with one event, whose data nobody checked."""
    spec = job_spec.validate_python({"kind": "train", "data": "/data"})
    resolved = Resolved(config=TrainRun(data=DataConfig(path="/data")))
    return service.store.submission.submit(spec, resolved)[0].id


def blocks(answer: httpx.Response) -> Iterator[dict[str, str]]:
    """Yield the blocks of a stream; comments under the name ""."""
    block: dict[str, str] = {}
    for line in answer.iter_lines():
        if not line:
            yield block
            block = {}
        else:
            name, _, value = line.partition(":")
            block[name] = value.strip()


def told(service, job_id: str, *, params=None, headers=None) -> list[dict[str, str]]:
    """Return every event of a stream, up to its end."""
    with service.http.stream("GET", f"/jobs/{job_id}/stream", params=params, headers=headers) as answer:
        assert answer.status_code == 200
        return [block for block in blocks(answer) if "id" in block]


@pytest.fixture
def ended(service) -> str:
    """Return a job with five events, the last of which ended it."""
    job_id = queued(service)
    ticket = service.claim(job_id)
    for step in (1, 2):
        service.store.commands.record(ticket, progress(step), offset=step)
    service.store.commands.succeed(ticket)
    return job_id


def test_a_stream_tells_every_event_under_its_number_and_ends_with_the_job(service, ended: str):
    heard = told(service, ended)
    assert [(block["id"], block["event"]) for block in heard] == [
        ("1", "state"),
        ("2", "state"),
        ("3", "progress"),
        ("4", "progress"),
        ("5", "state"),
    ]
    events = service.http.get(f"/jobs/{ended}/events").json()["items"]
    assert [json.loads(block["data"]) for block in heard] == events


def test_a_stream_is_what_browsers_and_proxies_need(service, ended: str):
    with service.http.stream("GET", f"/jobs/{ended}/stream") as answer:
        assert answer.headers["Content-Type"].startswith("text/event-stream")
        assert answer.headers["Cache-Control"] == "no-store"
        assert answer.headers["X-Accel-Buffering"] == "no"
        assert next(blocks(answer)) == {"retry": "1000"}


def test_a_listener_that_comes_back_misses_nothing_and_hears_nothing_twice(service, ended: str):
    assert [block["id"] for block in told(service, ended, headers={"Last-Event-ID": "3"})] == ["4", "5"]
    assert [block["id"] for block in told(service, ended, params={"after": 4})] == ["5"]
    both = told(service, ended, params={"after": 1}, headers={"Last-Event-ID": "4"})
    assert [block["id"] for block in both] == ["5"], "what the browser says is newer than the address"


def test_nobody_is_made_to_come_back_to_a_job_that_has_nothing_more_to_say(service, ended: str):
    answer = service.http.get(f"/jobs/{ended}/stream", headers={"Last-Event-ID": "5"})
    assert (answer.status_code, answer.content) == (204, b"")


@pytest.mark.parametrize("number", ["x", "-1", "1e3", "9" * 30])
def test_a_number_that_is_none_is_refused(service, ended: str, number: str):
    for how in ({"headers": {"Last-Event-ID": number}}, {"params": {"after": number}}):
        answer = service.http.get(f"/jobs/{ended}/stream", **how)
        assert (answer.status_code, answer.json()["code"]) == (422, "invalid_request")


def test_an_unknown_job_has_no_stream(service):
    answer = service.http.get("/jobs/nothing/stream")
    assert (answer.status_code, answer.json()["code"]) == (404, "unknown_job")


def test_events_arrive_while_they_happen(service):
    job_id = queued(service)
    with service.http.stream("GET", f"/jobs/{job_id}/stream") as answer:
        heard = (block for block in blocks(answer) if "id" in block)
        assert next(heard)["id"] == "1"
        ticket = service.claim(job_id)
        assert json.loads(next(heard)["data"])["body"]["state"] == "running"
        service.store.commands.record(ticket, progress(7), offset=1)
        started = time.monotonic()
        assert json.loads(next(heard)["data"])["body"]["step"] == 7
        assert time.monotonic() - started < 2
        service.store.submission.cancel_requested(job_id)
        service.store.commands.cancel(ticket)
        assert [block["event"] for block in heard] == ["request", "state"]


def test_silence_is_broken_by_a_sign_of_life(service, monkeypatch):
    monkeypatch.setattr("api.routes.stream.HEARTBEAT_SECONDS", 0.2)
    job_id = queued(service)
    with service.http.stream("GET", f"/jobs/{job_id}/stream") as answer:
        said = blocks(answer)
        assert [next(said) for _ in range(4)][2:] == [{"": "still there"}] * 2


def test_a_stream_ends_after_the_time_that_was_asked_for(service):
    job_id = queued(service)
    assert [block["id"] for block in told(service, job_id, params={"wait": 0})] == ["1"]
    started = time.monotonic()
    assert [block["id"] for block in told(service, job_id, params={"wait": 1})] == ["1"]
    assert 0.9 < time.monotonic() - started < 10


def test_a_line_break_in_what_is_told_breaks_no_event(service):
    job_id = queued(service)
    ticket = service.claim(job_id)
    service.store.commands.record(ticket, Remark(message="a\nid: 99\n\rdata: lies\u2028\x85"), offset=1)
    service.store.commands.succeed(ticket)
    with service.http.stream("GET", f"/jobs/{job_id}/stream") as answer:
        lines = b"".join(answer.iter_bytes()).decode().splitlines(keepends=False)
    assert "id: 99" not in lines
    (data,) = [line for line in lines if '"warning"' in line]
    assert json.loads(data.removeprefix("data: "))["body"]["message"].startswith("a\nid: 99\n\rdata: lies")


def test_who_is_far_behind_reads_the_database_page_by_page_and_then_follows(service, monkeypatch):
    monkeypatch.setattr("api.feeds.MEMORY", 4)
    job_id = queued(service)
    ticket = service.claim(job_id)
    for step in range(11):
        service.store.commands.record(ticket, progress(step), offset=step + 1)
    with service.http.stream("GET", f"/jobs/{job_id}/stream") as answer:
        heard = (int(block["id"]) for block in blocks(answer) if "id" in block)
        first = [next(heard) for _ in range(13)]
        for step in range(11, 30):
            service.store.commands.record(ticket, progress(step), offset=step + 1)
        service.store.commands.succeed(ticket)
        assert first + list(heard) == list(range(1, 34))


def test_a_hundred_listeners_cost_no_more_looks_than_one(service, server, monkeypatch):
    job_id = queued(service)
    ticket = service.claim(job_id)
    looks: list[str] = []
    for part, verb in ((service.store.following, "heads"), (service.store.reading, "events")):
        real = getattr(part, verb)

        def counted(*given, _real=real, _verb=verb, **named):
            looks.append(_verb)
            return _real(*given, **named)

        monkeypatch.setattr(part, verb, counted)
    everybody = threading.Barrier(101)

    def listen(_: int) -> list[int]:
        with http.stream("GET", f"/jobs/{job_id}/stream", params={"after": 2}) as answer:
            said = blocks(answer)
            next(said)
            everybody.wait(60)
            return [int(block["id"]) for block in said if "id" in block]

    limits = httpx.Limits(max_connections=100)
    with (
        httpx.Client(base_url=server.url, timeout=60, limits=limits) as http,
        ThreadPoolExecutor(100) as pool,
    ):
        listening = pool.map(listen, range(100))
        everybody.wait(60)
        time.sleep(0.5)
        looks.clear()
        started = time.monotonic()
        for step in range(10):
            service.store.commands.record(ticket, progress(step), offset=step + 1)
            time.sleep(0.1)
        service.store.commands.succeed(ticket)
        heard = list(listening)
    seconds = time.monotonic() - started
    assert heard == [list(range(3, 14))] * 100
    assert looks.count("heads") <= seconds / 0.25 + 2
    assert looks.count("events") <= looks.count("heads")


def test_a_listener_that_goes_away_leaves_nothing_behind(service, server):
    feeds = server.app.state.feeds
    job_id = queued(service)
    for _ in range(3):
        with service.http.stream("GET", f"/jobs/{job_id}/stream") as answer:
            said = blocks(answer)  # kept: it hangs up when it is thrown away
            assert next(said) == {"retry": "1000"}
            assert wait_until(lambda: feeds._feeds)
    assert wait_until(lambda: not feeds._feeds and feeds._polling is None)
    gc.collect()  # a generator that was left open would complain here
    assert service.http.get(f"/jobs/{job_id}/stream", params={"wait": 0}).status_code == 200


def test_a_stream_outlasts_a_database_that_is_away(service, monkeypatch):
    monkeypatch.setattr("api.routes.stream.PATIENCE_SECONDS", 0.1)
    job_id = queued(service)
    ticket = service.claim(job_id)
    away = threading.Event()
    for part, verb in ((service.store.following, "heads"), (service.store.reading, "events")):
        real = getattr(part, verb)

        def faulty(*given, _real=real, **named):
            if away.is_set():
                raise StoreUnavailable(OSError("gone"))
            return _real(*given, **named)

        monkeypatch.setattr(part, verb, faulty)
    with service.http.stream("GET", f"/jobs/{job_id}/stream") as answer:
        heard = (int(block["id"]) for block in blocks(answer) if "id" in block)
        assert [next(heard), next(heard)] == [1, 2]
        away.set()
        service.store.commands.record(ticket, progress(1), offset=1)
        time.sleep(0.6)
        away.clear()
        service.store.commands.succeed(ticket)
        assert list(heard) == [3, 4]


def wait_until(true, seconds: float = 20.0) -> bool:
    deadline = time.monotonic() + seconds
    while not true():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True
