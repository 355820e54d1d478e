"""One connection: refusals become errors, and files are kept only with the announced hash."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest

from client.connection import Connection, route
from client.errors import ApiError, ClientError, DamagedDownload, Unreachable

Answering = Callable[[httpx.Response], Connection]


@pytest.fixture
def answering(monkeypatch: pytest.MonkeyPatch) -> Answering:
    """Return a connection that always gets the same answer."""
    monkeypatch.setattr("client.connection.RETRY_SECONDS", 0)

    def connection(answer: httpx.Response) -> Connection:
        made = Connection("http://service/", timeout=1, api_key=None)
        transport = httpx.MockTransport(lambda _: answer)
        monkeypatch.setattr(made, "client", httpx.Client(transport=transport, base_url=made.url))
        return made

    return connection


def test_a_refusal_has_its_code_its_problems_and_their_hints(answering: Answering) -> None:
    problem = {"loc": ["data", "path"], "message": "no such folder", "hint": "Name another."}
    body = {"code": "invalid_spec", "detail": "data.path", "errors": [problem], "request_id": "r"}
    with pytest.raises(ApiError, match=r"data\.path") as caught:
        answering(httpx.Response(422, json=body)).ask("POST", "/jobs")
    assert (caught.value.status, caught.value.code, caught.value.request_id) == (422, "invalid_spec", "r")
    assert caught.value.problems[0].loc == ("data", "path")
    assert caught.value.hint == "Name another."


def test_an_error_that_is_not_of_the_service_says_who_answered_what(answering: Answering) -> None:
    with pytest.raises(ApiError, match="http://service/jobs answered 502 Bad Gateway") as caught:
        answering(httpx.Response(502, text="<html>")).ask("GET", "/jobs")
    assert caught.value.code == "not_gkd"


def test_a_connection_that_breaks_is_unreachable(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(_: httpx.Request) -> httpx.Response:
        raise httpx.ReadError("reset")

    connection = Connection("http://service", timeout=1, api_key=None)
    monkeypatch.setattr(connection, "client", httpx.Client(transport=httpx.MockTransport(broken)))
    with pytest.raises(Unreachable, match="no answer from http://service: reset") as caught:
        connection.ask("GET", "http://service/jobs")
    assert "gkd serve" in caught.value.hint


def test_a_file_appears_whole_with_its_hash(answering: Answering, tmp_path: Path) -> None:
    digest = hashlib.sha256(b"model").hexdigest()
    whole = httpx.Response(200, content=b"model", headers={"ETag": f'"{digest}"'})
    assert answering(whole).download("/file", "model", tmp_path / "model") == digest
    assert [(path.name, path.read_bytes()) for path in tmp_path.iterdir()] == [("model", b"model")]


def test_what_arrives_otherwise_than_announced_is_not_kept(answering: Answering, tmp_path: Path) -> None:
    torn = httpx.Response(200, content=b"mod", headers={"ETag": f'"{hashlib.sha256(b"model").hexdigest()}"'})
    with pytest.raises(DamagedDownload, match="model arrived with SHA-256"):
        answering(torn).download("/file", "model", tmp_path / "model")
    assert list(tmp_path.iterdir()) == []


def test_what_a_user_types_stays_one_segment() -> None:
    assert route("jobs", "../healthz", "artifacts", "a/b?") == "/jobs/..%2Fhealthz/artifacts/a%2Fb%3F"


@pytest.mark.parametrize("name", ["", ".", ".."])
def test_a_name_that_a_url_would_lose_is_no_id(name: str) -> None:
    with pytest.raises(ClientError, match="is no id of a dataset") as caught:
        route("datasets", name)
    assert "gkd datasets list" in caught.value.hint
