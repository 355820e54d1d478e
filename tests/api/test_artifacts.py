"""Published files over HTTP."""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from gkd_core.events import Checkpoint
from jobs.job import Artifact
from jobs.settings import Settings

CONTENT = bytes(range(256)) * 8
SHA256 = hashlib.sha256(CONTENT).hexdigest()
NAME = "student-best.safetensors"


BOTH = pytest.mark.parametrize("settings", ["folder", "s3"], indirect=True)
"""Stores of published files."""


@pytest.fixture
def settings(request: pytest.FixtureRequest, settings: Settings) -> Settings:
    if getattr(request, "param", "folder") == "folder":
        return settings
    request.getfixturevalue("s3")
    return settings.model_copy(update={"artifacts_url": "s3://models/gkd"})


@pytest.fixture
def url(service, train_spec, tmp_path: Path) -> str:
    """Return the URL of the artifacts of a running job, one of them published."""
    job_id = service.submit(train_spec)["id"]
    file = tmp_path / NAME
    file.write_bytes(CONTENT)
    blob = service.artifacts.put(file, SHA256)
    event = Checkpoint(
        run="student",
        epoch=1,
        step=9,
        file=NAME,
        size=blob.size,
        sha256=SHA256,
        metrics={"AP": 0.5},
        best=True,
    )
    artifact = Artifact(
        name=NAME, size=blob.size, sha256=SHA256, metrics=event.metrics, created_at=datetime.now(UTC)
    )
    service.store.commands.record(service.claim(job_id), event, 10, artifact)
    return f"/jobs/{job_id}/artifacts"


def test_a_checkpoint_is_listed_while_the_job_runs(service, url: str):
    (listed,) = service.http.get(url).json()
    assert (listed["name"], listed["size"], listed["sha256"]) == (NAME, len(CONTENT), SHA256)
    assert listed["metrics"] == {"AP": 0.5}


@BOTH
def test_a_download_is_whole_and_named_by_its_hash(service, url: str):
    answer = service.http.get(f"{url}/{NAME}")
    assert answer.content == CONTENT
    assert answer.headers["ETag"] == f'"{SHA256}"'
    assert NAME in answer.headers["Content-Disposition"]
    assert answer.headers["Content-Length"] == str(len(CONTENT))


@BOTH
def test_a_download_is_continued_with_a_range(service, url: str):
    headers = {"Range": "bytes=1000-", "If-Range": f'"{SHA256}"'}
    answer = service.http.get(f"{url}/{NAME}", headers=headers)
    assert answer.status_code == 206
    assert answer.content == CONTENT[1000:]
    assert answer.headers["Content-Range"] == f"bytes 1000-{len(CONTENT) - 1}/{len(CONTENT)}"


def test_a_range_of_another_file_gives_the_whole_file(service, url: str):
    headers = {"Range": "bytes=1000-", "If-Range": '"another"'}
    answer = service.http.get(f"{url}/{NAME}", headers=headers)
    assert (answer.status_code, answer.content) == (200, CONTENT)


def test_a_range_beyond_the_end_is_a_416_that_says_how_long_the_file_is(service, url: str):
    answer = service.http.get(f"{url}/{NAME}", headers={"Range": "bytes=999999-"})
    assert answer.status_code == 416
    assert answer.headers["Content-Range"] == f"bytes */{len(CONTENT)}"
    assert answer.json()["code"] == "range_not_satisfiable"


def test_a_range_that_is_none_is_refused(service, url: str):
    answer = service.http.get(f"{url}/{NAME}", headers={"Range": "lines=1-2"})
    assert (answer.status_code, answer.json()["code"]) == (400, "invalid_range")
    assert answer.headers["Content-Type"] == "application/problem+json"


@pytest.mark.parametrize("tags", [f'"{SHA256}"', f'"x", "{SHA256}"', f'W/"{SHA256}"', "*"])
def test_a_file_that_is_there_already_is_not_sent_again(service, url: str, tags: str):
    answer = service.http.get(f"{url}/{NAME}", headers={"If-None-Match": tags})
    assert (answer.status_code, answer.content) == (304, b"")


@pytest.mark.parametrize(
    ("asked", "start", "stop"),
    [("0-0", 0, 1), ("5-9", 5, 10), ("-7", 2041, 2048), ("-9999", 0, 2048), ("2040-9999", 2040, 2048)],
)
def test_a_part_is_as_it_was_asked_for(service, url: str, asked: str, start: int, stop: int):
    answer = service.http.get(f"{url}/{NAME}", headers={"Range": f"bytes={asked}"})
    assert (answer.status_code, answer.content) == (206, CONTENT[start:stop])
    assert answer.headers["Content-Range"] == f"bytes {start}-{stop - 1}/2048"


@pytest.mark.parametrize("asked", ["2048-", "-0", "9" * 18 + "-"])
def test_a_part_that_is_none_of_the_file_is_a_416(service, url: str, asked: str):
    answer = service.http.get(f"{url}/{NAME}", headers={"Range": f"bytes={asked}"})
    assert (answer.status_code, answer.headers["Content-Range"]) == (416, "bytes */2048")


@pytest.mark.parametrize("asked", ["bytes=-", "bytes=9-5", "bytes=a-b", "bytes", "bytes=" + "9" * 5000 + "-"])
def test_what_is_no_part_is_a_400(service, url: str, asked: str):
    assert service.http.get(f"{url}/{NAME}", headers={"Range": asked}).status_code == 400


def test_who_asks_for_a_thousand_parts_gets_the_file_once(service, url: str):
    ranges = ",".join(f"{number}-{number + 1}" for number in range(1000))
    answer = service.http.get(f"{url}/{NAME}", headers={"Range": f"bytes={ranges}"})
    assert (answer.status_code, answer.content) == (200, CONTENT)


@BOTH
def test_a_file_that_is_gone_is_gone_for_good(service, url: str):
    service.artifacts.remove(SHA256, older_than=-10.0)
    answer = service.http.get(f"{url}/{NAME}")
    assert (answer.status_code, answer.json()["code"]) == (410, "artifact_gone")
    assert service.http.head(f"{url}/{NAME}").status_code == 410


@pytest.mark.parametrize("settings", ["s3"], indirect=True)
def test_while_published_files_cannot_be_reached_that_is_said(service, url: str, s3: Any):
    s3.stop()
    for answer in (service.http.get(f"{url}/{NAME}"), service.http.head(f"{url}/{NAME}")):
        assert (answer.status_code, answer.headers["Retry-After"]) == (503, "5")
    ready = service.http.get("/readyz")
    assert (ready.status_code, ready.json()["parts"]["artifacts"]) == (503, "not ready: ArtifactsUnavailable")
    assert [listed["name"] for listed in service.http.get(url).json()] == [NAME]
    s3.start()
    assert service.http.get(f"{url}/{NAME}").content == CONTENT


@pytest.mark.parametrize("settings", ["s3"], indirect=True)
def test_a_bucket_that_nobody_made_is_said(service, s3: Any):
    s3.empty(bucket=False)
    parts = service.http.get("/readyz").json()["parts"]
    assert parts["artifacts"] == "not ready: S3 knows no bucket 'models'"


def test_a_file_that_changed_is_sent(service, url: str):
    answer = service.http.get(f"{url}/{NAME}", headers={"If-None-Match": '"older"'})
    assert (answer.status_code, answer.content) == (200, CONTENT)


@BOTH
def test_head_says_how_large_a_file_is(service, url: str):
    answer = service.http.head(f"{url}/{NAME}")
    assert (answer.status_code, answer.headers["Content-Length"], answer.content) == (
        200,
        str(len(CONTENT)),
        b"",
    )


@pytest.mark.parametrize(
    "name",
    [
        "absent",
        "..%2f..%2fgkd.db",
        "%2fetc%2fpasswd",
        "%2e%2e%2f%2e%2e",
        "%00",
        SHA256,
        "a" * 5000,
        "%ff",
    ],
)
def test_no_other_name_leads_to_a_file(service, url: str, name: str):
    answer = service.http.get(f"{url}/{name}")
    assert answer.status_code == 404
    assert answer.headers["Content-Type"] == "application/problem+json"
