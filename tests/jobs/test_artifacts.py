"""Files are kept whole, once, and under what they hold."""

from __future__ import annotations

import hashlib
import os
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

import jobs.artifacts
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


# ---- what nobody needs any more --------------------------------------------------------------------------

HOUR = 3600.0


def aged(path: Path, seconds: float) -> Path:
    """The file, as if it had been put so long ago."""
    then = time.time() - seconds
    os.utime(path, (then, then))
    return path


def test_files_are_told_by_their_age(artifacts: Artifacts, model: Path, tmp_path: Path) -> None:
    old = artifacts.put(model).sha256
    model.write_bytes(b"a later one")
    artifacts.put(model)
    aged(artifacts.path(old), 2 * HOUR)
    assert artifacts.older_than(HOUR) == {old}


def test_an_old_file_is_removed_and_may_be_put_again(artifacts: Artifacts, model: Path) -> None:
    sha256 = artifacts.put(model).sha256
    aged(artifacts.path(sha256), 2 * HOUR)
    artifacts.remove(sha256, HOUR)
    assert kept(artifacts) == []
    artifacts.remove(sha256, HOUR)
    artifacts.put(model)
    assert artifacts.path(sha256).read_bytes() == BYTES


def test_a_file_that_is_put_again_is_young_again_and_stays(artifacts: Artifacts, model: Path) -> None:
    sha256 = artifacts.put(model).sha256
    aged(artifacts.path(sha256), 2 * HOUR)
    artifacts.put(model)
    assert artifacts.older_than(HOUR) == frozenset()
    artifacts.remove(sha256, HOUR)
    assert kept(artifacts) == [artifacts.path(sha256)]


def test_a_file_that_is_put_just_when_it_was_found_old_enough_stays(
    artifacts: Artifacts, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sha256 = artifacts.put(model).sha256
    aged(artifacts.path(sha256), 2 * HOUR)
    age_of = jobs.artifacts._age

    def look_and_then_put(path: Path, now: float) -> float:
        age = age_of(path, now)
        artifacts.put(model)
        return age

    monkeypatch.setattr("jobs.artifacts._age", look_and_then_put)
    artifacts.remove(sha256, HOUR)
    assert kept(artifacts) == [artifacts.path(sha256)]


def test_a_file_that_many_remove_and_one_puts_at_once_is_there_in_the_end(
    artifacts: Artifacts, model: Path
) -> None:
    sha256 = artifacts.put(model).sha256
    with ThreadPoolExecutor(4) as pool:
        for _ in range(30):
            aged(artifacts.path(sha256), 2 * HOUR)
            removals = [pool.submit(artifacts.remove, sha256, HOUR) for _ in range(3)]
            pool.submit(artifacts.put, model).result()
            for removal in removals:
                removal.result()
            assert kept(artifacts) == [artifacts.path(sha256)]


def test_what_a_killed_process_had_moved_aside_is_put_back_and_young(
    artifacts: Artifacts, model: Path
) -> None:
    path = artifacts.path(artifacts.put(model).sha256)
    aged(path, 2 * HOUR).rename(artifacts.root / f".removing-{path.name}.of-somebody")
    artifacts.clear_remains(HOUR)
    assert kept(artifacts) == [path]
    assert artifacts.older_than(HOUR) == frozenset()


def test_half_copies_of_killed_processes_go_and_those_under_way_stay(
    artifacts: Artifacts, tmp_path: Path
) -> None:
    artifacts.root.mkdir()
    dead, alive = artifacts.root / ".incoming-dead", artifacts.root / ".incoming-alive"
    dead.touch()
    alive.touch()
    aged(dead, 2 * HOUR)
    artifacts.clear_remains(HOUR)
    assert kept(artifacts) == [alive]


def test_a_folder_belongs_to_the_first_who_asks(artifacts: Artifacts) -> None:
    assert artifacts.belongs_to("one")
    assert artifacts.belongs_to("one")
    assert not artifacts.belongs_to("another")
