"""A published file with a flipped bit: it is neither served nor trained from, and a new copy repairs it."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest

from gkd_core.config import DataConfig, DetectorConfig, TrainRun
from gkd_core.errors import DataError, FailureClass
from jobs.artifacts.base import Artifacts, WrongContent
from jobs.artifacts.folder import FolderArtifacts
from jobs.artifacts.s3 import S3Artifacts
from jobs.resources import NewResource, ResourceKind
from worker.weights import find_weights

BYTES = os.urandom(5 << 18)
SHA256 = hashlib.sha256(BYTES).hexdigest()


def flip_a_bit(artifacts: Artifacts, sha256: str = SHA256, at: int = 1000) -> None:
    """Flip a bit as a failing disk or controller does, except that the time of the file changes."""
    if isinstance(artifacts, S3Artifacts):
        [key] = [generation.key for generation in artifacts._generations(sha256)]
        content = bytearray(artifacts._get(key, 0, 1 << 30))
        content[at] ^= 1
        artifacts._call("put_object", Key=key, Body=bytes(content))
        return
    assert isinstance(artifacts, FolderArtifacts)
    with artifacts.path(sha256).open("r+b") as file:
        file.seek(at)
        byte = file.read(1)[0]
        file.seek(at)
        file.write(bytes([byte ^ 1]))


@pytest.fixture
def model(tmp_path: Path) -> Path:
    (tmp_path / "model.safetensors").write_bytes(BYTES)
    return tmp_path / "model.safetensors"


@pytest.mark.parametrize("fetched_before", [False, True])
def test_a_damaged_file_is_not_fetched(
    artifacts: Artifacts, model: Path, tmp_path: Path, fetched_before: bool
):
    artifacts.put(model)
    if fetched_before:
        copy = artifacts.fetch(SHA256, tmp_path / "fetched")
        if isinstance(artifacts, S3Artifacts):  # the copy, too
            copy.write_bytes(BYTES[:-1])
    flip_a_bit(artifacts)
    with pytest.raises(WrongContent, match="replaced or damaged"):
        artifacts.fetch(SHA256, tmp_path / "fetched")


def test_a_damaged_copy_is_fetched_anew(artifacts: Artifacts, model: Path, tmp_path: Path):
    artifacts.put(model)
    copy = artifacts.fetch(SHA256, tmp_path / "fetched")
    if isinstance(artifacts, FolderArtifacts):
        return  # there is no copy
    copy.write_bytes(b"x")
    assert artifacts.fetch(SHA256, tmp_path / "fetched").read_bytes() == BYTES


def test_a_damaged_file_is_not_read_to_its_end(artifacts: Artifacts, model: Path):
    artifacts.put(model)
    flip_a_bit(artifacts)
    read: list[bytes] = []
    with pytest.raises(WrongContent):
        read.extend(artifacts.read(SHA256))
    assert sum(map(len, read)) < len(BYTES)


def test_to_put_a_file_again_mends_it(tmp_path: Path, model: Path):
    artifacts = FolderArtifacts(tmp_path / "artifacts")
    artifacts.put(model)
    flip_a_bit(artifacts)
    artifacts.put(model)
    assert b"".join(artifacts.read(SHA256)) == BYTES


@pytest.mark.parametrize("asked_before", [False, True])
@pytest.mark.parametrize("part", [{}, {"Range": "bytes=0-9"}])
def test_wrong_bytes_are_not_served_under_the_old_tag(
    service, train_spec, publish, asked_before: bool, part: dict[str, str]
):
    job_id = service.submit(train_spec)["id"]
    url = publish(service, service.claim(job_id), "model.safetensors", BYTES) + "/model.safetensors"
    if asked_before:
        assert service.http.get(url).content == BYTES
    flip_a_bit(service.artifacts)
    answer = service.http.get(url, headers=part)
    assert (answer.status_code, answer.json()["code"]) == (410, "artifact_damaged")
    assert "ETag" not in answer.headers


def test_a_sound_file_is_read_for_its_hash_once(
    service, train_spec, publish, monkeypatch: pytest.MonkeyPatch
):
    """Read ranges of a file of gigabytes: they must not hash the whole each time."""
    job_id = service.submit(train_spec)["id"]
    url = publish(service, service.claim(job_id), "model.safetensors", BYTES) + "/model.safetensors"
    looks: list[object] = []
    measure = "jobs.artifacts.folder.measure"
    from jobs.artifacts.base import measure as own

    monkeypatch.setattr(measure, lambda source: looks.append(source) or own(source))
    for _ in range(3):
        assert service.http.get(url, headers={"Range": "bytes=0-9"}).content == BYTES[:10]
    assert len(looks) == 1


def test_a_teacher_with_a_flipped_bit_fails_the_job(service, model: Path, tmp_path: Path):
    """Fail with class `data`, which is not retried: the next attempt would read the same."""
    service.artifacts.put(model)
    new = NewResource(ResourceKind.MODEL, "mine", size=len(BYTES), sha256=SHA256)
    resource = service.store.resources.add_resource(new, tenant="default")[0]
    config = TrainRun(data=DataConfig(path="/data"), model=DetectorConfig(weights=f"model:{resource.id}"))
    assert find_weights(config, service.store, service.artifacts, tmp_path / "fetched").model.weights
    flip_a_bit(service.artifacts)
    with pytest.raises(DataError, match="replaced or damaged") as caught:
        find_weights(config, service.store, service.artifacts, tmp_path / "fetched")
    assert caught.value.failure().failure_class is FailureClass.DATA
