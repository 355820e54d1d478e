"""Following a job through breaks, proxies and the end of the service."""

from __future__ import annotations

import json
import signal
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest

from client.client import ApiError, Client, Unreachable
from jobs.job import State

EVENTS = [
    {"number": 1, "attempt": 0, "time": "2026-01-01T00:00:00Z", "kind": "state", "body": {"state": "queued"}},
    {
        "number": 2,
        "attempt": 1,
        "time": "2026-01-01T00:00:01Z",
        "kind": "state",
        "body": {"state": "running"},
    },
    {
        "number": 3,
        "attempt": 1,
        "time": "2026-01-01T00:00:02Z",
        "kind": "state",
        "body": {"state": "succeeded"},
    },
]


def streamed(*events: dict[str, Any]) -> httpx.Response:
    lines = "".join(f"id: {event['number']}\ndata: {json.dumps(event)}\n\n" for event in events)
    return httpx.Response(200, text=f"retry: 1\n\n{lines}", headers={"Content-Type": "text/event-stream"})


def refused(status: int, code: str) -> httpx.Response:
    return httpx.Response(status, json={"code": code, "detail": code, "request_id": "r"})


Answer = httpx.Response | Exception


@pytest.fixture
def following(monkeypatch: pytest.MonkeyPatch) -> Callable[..., tuple[list[int], list[str]]]:
    """Return what a client yields and requests, when its streams are answered so, one after the other."""

    def hear(*answers: Answer, after: int = 0) -> tuple[list[int], list[str]]:
        left, asked = list(answers), []

        def answer(request: httpx.Request) -> httpx.Response:
            asked.append(f"{request.url.path} {request.headers.get('Last-Event-ID', '')}".strip())
            if request.url.path.endswith("/stream"):
                this = left.pop(0)
                if isinstance(this, Exception):
                    raise this
                return this
            if request.url.path.endswith("/events"):
                known = int(request.url.params["after"])
                items = [event for event in EVENTS if event["number"] > known]
                return httpx.Response(200, json={"items": items, "next": EVENTS[-1]["number"]})
            return httpx.Response(200, json=JOB)

        with Client("http://service") as client:
            monkeypatch.setattr(
                client._http,
                "client",
                httpx.Client(transport=httpx.MockTransport(answer), base_url="http://service"),
            )
            return [event.number for event in client.events("j", after=after, every=0.01)], asked

    return hear


JOB = {
    "id": "j", "name": "j", "kind": "train", "state": "succeeded", "desired": "run", "reason": "", "priority": 5,
    "tags": {}, "queue": "cpu", "attempt": 1, "worker": None, "lease_until": None,
    "created_at": "2026-01-01T00:00:00Z", "started_at": None, "finished_at": None, "waits_for": [], "spec": {},
    "resolved": {}, "progress": None, "evaluation": None, "failure": None, "attempts": [],
}  # fmt: skip


def test_one_stream_is_enough_where_it_holds(following):
    assert following(streamed(*EVENTS)) == ([1, 2, 3], ["/jobs/j/stream 0"])


def test_whatever_the_standard_allows_is_understood(following):
    """Send comments, line ends of another system, and data on several lines."""
    first, *rest = EVENTS
    data = "\r\n".join(f"data: {line}" for line in json.dumps(first, indent=1).splitlines())
    text = f": hello\r\n\r\nid: 1\r\n{data}\r\n\r\n: still there\r\n\r\n"
    odd = httpx.Response(200, text=text, headers={"Content-Type": "text/event-stream; charset=utf-8"})
    assert following(odd, streamed(*rest)) == ([1, 2, 3], ["/jobs/j/stream 0", "/jobs/j/stream 1"])


@pytest.mark.parametrize(
    "broken",
    [
        httpx.ConnectError("gone"),
        httpx.ReadTimeout("silent"),
        refused(503, "database_away"),
        refused(502, "bad"),
        streamed(),
    ],
    ids=["refused", "silent", "away", "proxy", "ended"],
)
def test_a_break_costs_nothing(following, broken: Answer):
    heard, asked = following(streamed(EVENTS[0]), broken, streamed(*EVENTS[1:]))
    assert heard == [1, 2, 3]
    if not isinstance(broken, httpx.ReadTimeout):
        assert asked == ["/jobs/j/stream 0", "/jobs/j/stream 1", "/jobs/j/stream 1"]


@pytest.mark.parametrize(
    "instead",
    [refused(404, "not_found"), httpx.Response(200, text="<html>"), httpx.ReadTimeout("held back")],
    ids=["older", "proxy", "silent"],
)
def test_where_nothing_streams_it_is_asked_for_pages(following, instead: Answer):
    heard, asked = following(instead)
    assert heard == [1, 2, 3]
    assert asked[0] == "/jobs/j/stream 0"
    assert all("stream" not in path for path in asked[1:])


def test_who_knows_all_events_of_a_job_that_has_ended_is_told_so_at_once(following):
    assert following(httpx.Response(204), after=3) == ([], ["/jobs/j/stream 3"])


def test_a_refusal_is_final(following):
    with pytest.raises(ApiError, match="unknown_job"):
        following(refused(404, "unknown_job"))
    with pytest.raises(ApiError, match="unauthorized"):
        following(streamed(EVENTS[0]), refused(401, "unauthorized"))


def test_a_service_that_never_answered_is_not_waited_for(following):
    with pytest.raises(Unreachable):
        following(httpx.ConnectError("nobody"))


def test_a_service_that_does_not_come_back_is_given_up(following, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("client.client.PATIENCE_SECONDS", 0.2)
    with pytest.raises(Unreachable):
        following(streamed(EVENTS[0]), *[httpx.ConnectError("gone")] * 1000)


# ---- with a real service ---------------------------------------------------------------------------------


def test_following_outlasts_a_service_that_is_killed_and_started_anew(
    serve: Callable[..., Any], data: Path, port: int, spec: dict[str, Any], tmp_path: Path
):
    plan = {"FAKE_ENGINE": json.dumps({"epochs": 6, "seconds": 0.5})}
    heard: list[Any] = []
    with serve(tmp_path / "home", data, port, **plan) as server, Client(f"http://127.0.0.1:{port}") as client:
        job = client.submit(spec)
        listener = threading.Thread(target=lambda: heard.extend(client.events(job.id)))
        listener.start()
        while client.job(job.id).state is not State.RUNNING:
            time.sleep(0.05)
        server.end(signal.SIGKILL)
        with serve(tmp_path / "home", data, port, **plan):
            listener.join(90)
            assert not listener.is_alive()
            assert [event.number for event in heard] == [
                event.number for event in client.events(job.id, follow=False)
            ]
    assert heard[-1].body["state"] == "succeeded"


def test_a_service_with_listeners_ends_when_it_is_asked_to(
    serve: Callable[..., Any], data: Path, port: int, spec: dict[str, Any], tmp_path: Path
):
    plan = {"FAKE_ENGINE": json.dumps({"epochs": 1000, "seconds": 1})}
    with serve(tmp_path / "home", data, port, **plan) as server, Client(f"http://127.0.0.1:{port}") as client:
        job = client.submit(spec)
        polled: list[int] = []
        poll = partial(httpx.get, f"{client.url}/jobs/{job.id}?wait=30", timeout=60)
        with httpx.stream("GET", f"{client.url}/jobs/{job.id}/stream", timeout=60) as answer:
            lines = answer.iter_lines()
            assert any('"running"' in line for line in lines)
            waiting = threading.Thread(target=lambda: polled.append(poll().status_code))
            waiting.start()
            time.sleep(1)
            assert server.end() == 0
            list(lines)  # it ended as it should: otherwise this raises
        waiting.join()
        assert polled == [200]


def test_a_retry_goes_on_where_the_machine_failed(
    serve: Callable[..., Any], data: Path, port: int, spec: dict[str, Any], tmp_path: Path
):
    plan = {"FAKE_ENGINE": json.dumps({"epochs": 3, "seconds": 0.05, "die": 2}), "GKD_MAX_ATTEMPTS": "1"}
    with serve(tmp_path / "home", data, port, **plan), Client(f"http://127.0.0.1:{port}") as client:
        old = client.submit(spec).id
        assert client.wait(old, timeout=60).state is State.FAILED
    healthy = {"FAKE_ENGINE": json.dumps({"epochs": 3, "seconds": 0.05})}
    with serve(tmp_path / "home", data, port, **healthy), Client(f"http://127.0.0.1:{port}") as client:
        new = client.wait(client.retry(old).id, timeout=60)
        assert (new.state, new.retry_of, new.attempt) == (State.SUCCEEDED, old, 1)
        assert "attempt 1 starts at epoch 2" in client.log(new.id)[0]
        steps = [e.body["step"] for e in client.events(new.id, follow=False) if e.kind == "progress"]
        assert steps == [3], "what the old job told is not told again"
        told = (tmp_path / "home" / "runs" / new.id / "events.jsonl").read_text()
        assert told.startswith(
            (tmp_path / "home" / "runs" / old / "events.jsonl").read_text().rsplit("\n", 1)[0]
        )
