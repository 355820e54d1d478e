"""Files are kept whole, once, and under what they hold."""

from __future__ import annotations

import hashlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from jobs.artifacts import Artifacts, WrongContent

BYTES = b"weights" * 300_000


@pytest.fixture
def artifacts(tmp_path: Path) -> Artifacts:
    return Artifacts(tmp_path / "artifacts")


@pytest.fixture
def model(tmp_path: Path) -> Path:
    path = tmp_path / "model.safetensors"
    path.write_bytes(BYTES)
    return path


def kept(artifacts: Artifacts) -> list[Path]:
    return [path for path in artifacts.root.rglob("*") if path.is_file()]


def test_a_file_is_kept_under_its_hash(artifacts: Artifacts, model: Path) -> None:
    blob = artifacts.put(model)
    assert blob == (hashlib.sha256(BYTES).hexdigest(), len(BYTES))
    assert artifacts.path(blob.sha256).read_bytes() == BYTES


def test_a_kept_file_outlives_the_original(artifacts: Artifacts, model: Path) -> None:
    blob = artifacts.put(model)
    model.write_bytes(b"another model")
    model.unlink()
    assert artifacts.path(blob.sha256).read_bytes() == BYTES


def test_putting_twice_at_once_keeps_one_file(artifacts: Artifacts, model: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        blobs = set(pool.map(lambda _: artifacts.put(model), range(8)))
    assert kept(artifacts) == [artifacts.path(blobs.pop().sha256)]


def test_a_file_that_is_not_the_announced_one_is_refused(artifacts: Artifacts, model: Path) -> None:
    with pytest.raises(WrongContent, match=r"model\.safetensors has the SHA-256 .* replaced or damaged"):
        artifacts.put(model, "0" * 64)
    assert kept(artifacts) == []


def test_the_announced_file_is_kept(artifacts: Artifacts, model: Path) -> None:
    assert artifacts.put(model, hashlib.sha256(BYTES).hexdigest()).size == len(BYTES)


def test_a_missing_file_leaves_nothing(artifacts: Artifacts, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        artifacts.put(tmp_path / "nothing")
    assert kept(artifacts) == []


def test_a_full_disk_leaves_no_half_file(
    artifacts: Artifacts, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("jobs.artifacts.os.fsync", full)
    with pytest.raises(OSError, match="No space left"):
        artifacts.put(model)
    assert kept(artifacts) == []


def test_an_empty_file_is_a_file(artifacts: Artifacts, tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.touch()
    assert artifacts.path(artifacts.put(empty).sha256).read_bytes() == b""
