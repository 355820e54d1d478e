"""Faults of a disk with published files."""

from __future__ import annotations

import errno
import os
import stat
import time
from pathlib import Path

import pytest

import jobs.artifacts.folder
from jobs.artifacts.folder import FolderArtifacts
from jobs.errors import ArtifactsRefused

BYTES = b"weights" * 300_000
HOUR = 3600.0


@pytest.fixture
def artifacts(tmp_path: Path) -> FolderArtifacts:
    return FolderArtifacts(tmp_path / "artifacts")


@pytest.fixture
def model(tmp_path: Path) -> Path:
    path = tmp_path / "model.safetensors"
    path.write_bytes(BYTES)
    return path


def kept(artifacts: FolderArtifacts) -> list[Path]:
    return [path for path in artifacts.root.rglob("*") if path.is_file()]


def aged(path: Path, seconds: float) -> Path:
    """Make the file as old as if it had been put so many seconds ago, and return it."""
    then = time.time() - seconds
    os.utime(path, (then, then))
    return path


def test_a_full_disk_leaves_no_half_file(
    artifacts: FolderArtifacts, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("jobs.artifacts.folder.os.fsync", full)
    with pytest.raises(OSError, match="No space left"):
        artifacts.put(model)
    assert kept(artifacts) == []


def test_putting_twice_keeps_one_file_that_others_may_read(artifacts: FolderArtifacts, model: Path) -> None:
    path = artifacts.path(artifacts.put(model).sha256)
    artifacts.put(model)
    assert kept(artifacts) == [path]
    assert path.stat().st_mode & 0o777 == 0o644


def test_what_is_taken_gets_a_second_name_and_is_young(artifacts: FolderArtifacts, model: Path) -> None:
    os.utime(model, (1, 1))
    path = artifacts.path(artifacts.take(model).sha256)
    assert path.samefile(model)
    assert stat.S_IMODE(path.stat().st_mode) == 0o644
    assert artifacts.older_than(3000.0) == frozenset()
    assert list(artifacts.root.glob(".incoming-*")) == []


def test_what_cannot_have_a_second_name_is_copied(
    artifacts: FolderArtifacts, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def other_disk(path: Path, target: Path) -> None:
        raise OSError(errno.EXDEV, "Invalid cross-device link")

    monkeypatch.setattr(Path, "hardlink_to", other_disk)
    path = artifacts.path(artifacts.take(model).sha256)
    assert not path.samefile(model)
    assert path.read_bytes() == model.read_bytes()


def test_a_file_that_is_put_just_when_it_was_found_old_enough_stays(
    artifacts: FolderArtifacts, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sha256 = artifacts.put(model).sha256
    aged(artifacts.path(sha256), 2 * HOUR)
    age_of = jobs.artifacts.folder._age

    def look_and_then_put(path: Path, now: float) -> float:
        age = age_of(path, now)
        artifacts.put(model)
        return age

    monkeypatch.setattr("jobs.artifacts.folder._age", look_and_then_put)
    artifacts.remove(sha256, HOUR)
    assert kept(artifacts) == [artifacts.path(sha256)]


def test_what_a_killed_process_had_moved_aside_is_put_back_and_young(
    artifacts: FolderArtifacts, model: Path
) -> None:
    path = artifacts.path(artifacts.put(model).sha256)
    aged(path, 2 * HOUR).rename(artifacts.root / f".removing-{path.name}.of-somebody")
    artifacts.clear_remains(HOUR)
    assert kept(artifacts) == [path]
    assert artifacts.older_than(HOUR) == frozenset()


def test_half_copies_of_killed_processes_go_and_those_under_way_stay(artifacts: FolderArtifacts) -> None:
    artifacts.root.mkdir()
    dead, alive = artifacts.root / ".incoming-dead", artifacts.root / ".incoming-alive"
    dead.touch()
    alive.touch()
    aged(dead, 2 * HOUR)
    artifacts.clear_remains(HOUR)
    assert kept(artifacts) == [alive]


def test_a_folder_that_may_not_be_read_is_not_ready(
    artifacts: FolderArtifacts, monkeypatch: pytest.MonkeyPatch
) -> None:
    artifacts.root.mkdir()
    monkeypatch.setattr("jobs.artifacts.folder.os.access", lambda path, mode: False)
    with pytest.raises(ArtifactsRefused, match="may not be read"):
        artifacts.ping()
