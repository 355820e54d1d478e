"""Faults of S3: a real server on the loopback, which is stopped, returns wrong bytes, or refuses."""

from __future__ import annotations

import hashlib
import sys
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

import pytest

from jobs.artifacts import open_artifacts
from jobs.artifacts import s3 as s3_artifacts
from jobs.artifacts.s3 import S3Artifacts
from jobs.errors import ArtifactsRefused, ArtifactsUnavailable, OperationCancelled, WrongContent

MIB = 1 << 20
HOUR = 3600.0
BYTES = bytes(range(256)) * (11 * MIB // 256)
"""Two parts of the least size that S3 allows, and a little more."""
SHA256 = hashlib.sha256(BYTES).hexdigest()


@pytest.fixture
def artifacts(s3: Any) -> S3Artifacts:
    return S3Artifacts("s3://models/gkd", part_bytes=5 * MIB)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    path = tmp_path / "model.safetensors"
    path.write_bytes(BYTES)
    return path


@pytest.fixture
def calls(artifacts: S3Artifacts, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return the list of S3 calls from now on, by name; a test may act between them."""
    asked: list[str] = []
    call = artifacts._call

    def note(method: str, **arguments: Any) -> dict[str, Any]:
        asked.append(method)
        return call(method, **arguments)

    monkeypatch.setattr(artifacts, "_call", note)
    return asked


def test_a_large_file_is_sent_in_parts_and_read_in_pieces(
    artifacts: S3Artifacts, model: Path, calls: list[str]
) -> None:
    artifacts.put(model)
    assert calls.count("upload_part") == 3
    assert [len(block) for block in artifacts.read(SHA256)] == [8 * MIB, 3 * MIB]
    assert hashlib.sha256(b"".join(artifacts.read(SHA256))).hexdigest() == SHA256


def test_what_is_there_is_not_sent_again(
    s3: Any, artifacts: S3Artifacts, model: Path, calls: list[str]
) -> None:
    artifacts.put(model)
    calls.clear()
    artifacts.put(model)
    s3.make_old(SHA256, 2 * HOUR)
    artifacts.put(model)
    assert set(calls) == {"list_objects_v2", "delete_object"}
    assert len(s3.keys()) == 1


def test_a_server_that_goes_away_in_the_middle_leaves_nothing_that_can_be_seen(
    s3: Any, artifacts: S3Artifacts, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    call = artifacts._call

    def go_away(method: str, **arguments: Any) -> dict[str, Any]:
        if arguments.get("PartNumber") == 2:
            s3.stop()
        return call(method, **arguments)

    monkeypatch.setattr(artifacts, "_call", go_away)
    with pytest.raises(ArtifactsUnavailable, match="does not answer"):
        artifacts.put(model)
    monkeypatch.setattr(artifacts, "_call", call)
    s3.start()
    assert (s3.keys(), len(s3.uploads())) == ([], 1)
    artifacts.put(model)
    assert hashlib.sha256(b"".join(artifacts.read(SHA256))).hexdigest() == SHA256


def test_uploads_of_killed_processes_go_and_those_under_way_stay(
    s3: Any, artifacts: S3Artifacts, monkeypatch: pytest.MonkeyPatch
) -> None:
    call = artifacts._call

    def begun_today(method: str, **arguments: Any) -> dict[str, Any]:
        answer = call(method, **arguments)
        for upload in answer.get("Uploads", ()):
            upload["Initiated"] = datetime.now(UTC) - timedelta(hours=5)  # a slow line
        return answer

    artifacts._call("create_multipart_upload", Key="gkd/abc/def")
    monkeypatch.setattr(artifacts, "_call", begun_today)
    artifacts.clear_remains(HOUR)
    assert len(s3.uploads()) == 1
    monkeypatch.setattr(artifacts, "_call", call)  # this server reports that every upload began in 2010
    artifacts.clear_remains(HOUR)
    assert s3.uploads() == []


def test_a_file_that_was_sent_for_long_is_young_all_the_same(
    s3: Any, artifacts: S3Artifacts, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    call = artifacts._call

    def dated_as_s3_does(method: str, **arguments: Any) -> dict[str, Any]:
        answer = call(method, **arguments)
        if method == "complete_multipart_upload":
            s3.make_old(SHA256, 2 * HOUR)
        return answer

    monkeypatch.setattr(artifacts, "_call", dated_as_s3_does)
    artifacts.put(model)
    assert artifacts.older_than(HOUR) == frozenset()
    assert len(s3.keys()) == 1


def test_an_upload_that_breaks_off_is_taken_back(
    s3: Any, artifacts: S3Artifacts, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    call = artifacts._call

    def break_off(method: str, **arguments: Any) -> dict[str, Any]:
        if method == "complete_multipart_upload":
            raise KeyboardInterrupt
        return call(method, **arguments)

    monkeypatch.setattr(artifacts, "_call", break_off)
    with pytest.raises(KeyboardInterrupt):
        artifacts.put(model)
    assert (s3.keys(), s3.uploads()) == ([], [])


def test_a_file_that_changes_while_it_is_sent_is_not_kept(
    s3: Any, artifacts: S3Artifacts, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    call = artifacts._call

    def change(method: str, **arguments: Any) -> dict[str, Any]:
        if method == "create_multipart_upload":
            model.write_bytes(b"x" * 11 * MIB)
        return call(method, **arguments)

    monkeypatch.setattr(artifacts, "_call", change)
    with pytest.raises(WrongContent):
        artifacts.put(model)
    assert (s3.keys(), s3.uploads()) == ([], [])


def test_a_server_that_kept_less_than_it_was_sent_is_found_out(
    s3: Any, artifacts: S3Artifacts, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "small").write_bytes(b"weights")
    call = artifacts._call

    def lose(method: str, **arguments: Any) -> dict[str, Any]:
        if method == "put_object":
            arguments["Body"] = arguments["Body"][:-1]
        return call(method, **arguments)

    monkeypatch.setattr(artifacts, "_call", lose)
    with pytest.raises(ArtifactsUnavailable, match="it kept 6 bytes of 7 bytes"):
        artifacts.put(tmp_path / "small")
    assert s3.keys() == []


def test_a_damaged_object_is_not_fetched(
    s3: Any, artifacts: S3Artifacts, model: Path, tmp_path: Path
) -> None:
    artifacts.put(model)
    [key] = s3.keys()
    artifacts._call("put_object", Key=key, Body=b"damaged")
    with pytest.raises(WrongContent):
        artifacts.fetch(SHA256, tmp_path / "fetched")
    assert list((tmp_path / "fetched").iterdir()) == []


def test_a_copy_that_nobody_wants_any_more_is_broken_off(
    artifacts: S3Artifacts, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(s3_artifacts, "_READ_BYTES", 4 * MIB)
    artifacts.put(model)
    cancelled, get, got = threading.Event(), artifacts._get, []

    def give_up_meanwhile(*about: Any) -> bytes:
        cancelled.set()
        got.append(get(*about))
        return got[-1]

    monkeypatch.setattr(artifacts, "_get", give_up_meanwhile)
    with pytest.raises(OperationCancelled):
        artifacts.fetch(SHA256, tmp_path / "fetched", cancelled)
    assert len(got) == 1
    assert list((tmp_path / "fetched").iterdir()) == []


def test_who_reads_goes_on_when_the_object_is_renewed_meanwhile(
    s3: Any, artifacts: S3Artifacts, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(s3_artifacts, "_READ_BYTES", 4 * MIB)
    artifacts.put(model)
    reading = artifacts.read(SHA256)
    content = next(reading)
    before = s3.keys()
    s3.make_old(SHA256, 2 * HOUR)
    artifacts.put(model)
    assert s3.keys() != before
    assert content + b"".join(reading) == BYTES


def test_who_finds_a_file_just_before_it_is_removed_sends_it_anew(
    s3: Any, artifacts: S3Artifacts, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    artifacts.put(model)
    s3.make_old(SHA256, 2 * HOUR)
    copy = artifacts._copy

    def be_late(key: str, other: str) -> None:
        artifacts.remove(SHA256, HOUR)
        copy(key, other)

    monkeypatch.setattr(artifacts, "_copy", be_late)
    artifacts.put(model)
    assert artifacts.size(SHA256) == 11 * MIB


def test_what_lies_beside_the_prefix_is_somebody_elses(s3: Any, artifacts: S3Artifacts, model: Path) -> None:
    other = S3Artifacts("s3://models/gkd2")
    other.put(model)
    assert artifacts.older_than(-HOUR) == frozenset()
    assert artifacts.belongs_to("one")
    assert other.belongs_to("two")
    whole_bucket = S3Artifacts("s3://models")
    assert whole_bucket.belongs_to("three")


def test_a_bucket_that_is_not_there_is_named(s3: Any) -> None:
    with pytest.raises(ArtifactsRefused, match=r"S3 knows no bucket 'another'\. Make it"):
        S3Artifacts("s3://another/gkd").ping()


def test_without_credentials_one_is_told_what_to_set(s3: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    with pytest.raises(ArtifactsRefused, match=r"no credentials for S3\. Set AWS_ACCESS_KEY_ID"):
        S3Artifacts("s3://models").ping()


@pytest.fixture
def closed(s3: Any) -> Iterator[None]:
    """Make the server refuse all credentials."""
    set_open_requests(s3, "0")
    yield
    set_open_requests(s3, "Infinity")


def set_open_requests(s3: Any, count: str) -> None:
    url, kind = f"{s3.url}/moto-api/reset-auth", {"Content-Type": "text/plain"}
    urlopen(Request(url, data=count.encode(), headers=kind, method="POST"), timeout=30).close()


def test_credentials_that_are_refused_are_told(s3: Any, artifacts: S3Artifacts, closed: None) -> None:
    with pytest.raises(
        ArtifactsRefused, match=r"lets nobody in with these credentials \(InvalidAccessKeyId\)"
    ):
        artifacts.ping()


def test_a_server_that_is_not_there_is_away(s3: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", "http://127.0.0.1:1")
    artifacts = S3Artifacts("s3://models")
    with pytest.raises(ArtifactsUnavailable, match="s3://models does not answer"):
        artifacts.ping()


def test_without_its_library_one_is_told_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "jobs.artifacts.s3")
    monkeypatch.setitem(sys.modules, "s3fs", None)
    with pytest.raises(ArtifactsRefused, match=r"library that is missing \(s3fs\)\. pip install 'gkd\[s3\]'"):
        open_artifacts("s3://models")
