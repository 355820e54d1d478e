"""Published files are stored whole, once, and by their hash: in a folder and on S3."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from jobs.artifacts.base import Artifacts, WrongContent
from jobs.errors import ContentGone

BYTES = b"weights" * 300_000
SHA256 = hashlib.sha256(BYTES).hexdigest()
HOUR = 3600.0

MakeOld = Callable[[str, float], None]


@pytest.fixture
def model(tmp_path: Path) -> Path:
    path = tmp_path / "model.safetensors"
    path.write_bytes(BYTES)
    return path


def content(artifacts: Artifacts, sha256: str) -> bytes:
    return b"".join(artifacts.read(sha256))


def kept(artifacts: Artifacts) -> frozenset[str]:
    """Return the hashes of all files, however young."""
    return artifacts.older_than(-HOUR)


def test_a_file_is_kept_under_its_hash(artifacts: Artifacts, model: Path) -> None:
    assert artifacts.put(model) == (SHA256, len(BYTES))
    assert content(artifacts, SHA256) == BYTES
    assert artifacts.size(SHA256) == len(BYTES)


def test_a_kept_file_outlives_the_original(artifacts: Artifacts, model: Path) -> None:
    artifacts.put(model)
    model.write_bytes(b"another model")
    model.unlink()
    assert content(artifacts, SHA256) == BYTES


def test_any_part_can_be_read(artifacts: Artifacts, model: Path) -> None:
    artifacts.put(model)
    for start, stop in [(0, 0), (0, 1), (5, 2_000_000), (1_048_576, None), (7, 10**9), (10**9, None)]:
        assert b"".join(artifacts.read(SHA256, start, stop)) == BYTES[start:stop]


def test_putting_twice_at_once_keeps_the_file(artifacts: Artifacts, model: Path) -> None:
    with ThreadPoolExecutor(4) as pool:
        blobs = set(pool.map(lambda _: artifacts.put(model), range(4)))
    assert kept(artifacts) == {blob.sha256 for blob in blobs} == {SHA256}
    assert content(artifacts, SHA256) == BYTES


def test_a_file_that_is_not_the_announced_one_is_refused(artifacts: Artifacts, model: Path) -> None:
    with pytest.raises(WrongContent, match=r"model\.safetensors has the SHA-256 .* replaced or damaged"):
        artifacts.put(model, "0" * 64)
    assert kept(artifacts) == frozenset()


def test_the_announced_file_is_kept(artifacts: Artifacts, model: Path) -> None:
    assert artifacts.put(model, SHA256).size == len(BYTES)


def test_a_missing_file_leaves_nothing(artifacts: Artifacts, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        artifacts.put(tmp_path / "nothing")
    assert artifacts.belongs_to("one")
    assert kept(artifacts) == frozenset()


def test_an_empty_file_is_a_file(artifacts: Artifacts, tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.touch()
    sha256, size = artifacts.put(empty)
    assert (content(artifacts, sha256), size, artifacts.size(sha256)) == (b"", 0, 0)


def test_a_file_that_is_taken_is_kept_as_one_that_is_put(artifacts: Artifacts, model: Path) -> None:
    for _ in range(2):
        assert artifacts.take(model) == (SHA256, len(BYTES))
    model.unlink()
    assert b"".join(artifacts.read(SHA256)) == BYTES
    with pytest.raises(FileNotFoundError):
        artifacts.take(model)


def test_a_file_that_was_never_put_is_gone(artifacts: Artifacts, tmp_path: Path) -> None:
    for ask in (artifacts.size, lambda sha256: next(artifacts.read(sha256))):
        with pytest.raises(ContentGone, match=SHA256):
            ask(SHA256)
    with pytest.raises(ContentGone):
        artifacts.fetch(SHA256, tmp_path / "fetched")


def test_a_fetched_file_is_a_file_of_this_machine(artifacts: Artifacts, model: Path, tmp_path: Path) -> None:
    artifacts.put(model)
    first, second = (artifacts.fetch(SHA256, tmp_path / "fetched") for _ in range(2))
    assert first == second
    assert first.read_bytes() == BYTES


def test_a_place_that_is_empty_is_ready(artifacts: Artifacts) -> None:
    artifacts.ping()


# ---- what nobody needs any more --------------------------------------------------------------------------


def test_files_are_told_by_their_age(artifacts: Artifacts, model: Path, make_old: MakeOld) -> None:
    artifacts.put(model)
    make_old(SHA256, 2 * HOUR)
    model.write_bytes(b"a later one")
    artifacts.put(model)
    assert artifacts.older_than(HOUR) == {SHA256}


def test_an_old_file_is_removed_and_may_be_put_again(
    artifacts: Artifacts, model: Path, make_old: MakeOld
) -> None:
    artifacts.put(model)
    make_old(SHA256, 2 * HOUR)
    artifacts.remove(SHA256, HOUR)
    assert kept(artifacts) == frozenset()
    artifacts.remove(SHA256, HOUR)
    artifacts.put(model)
    assert content(artifacts, SHA256) == BYTES


def test_a_file_that_is_put_again_is_young_again_and_stays(
    artifacts: Artifacts, model: Path, make_old: MakeOld
) -> None:
    artifacts.put(model)
    make_old(SHA256, 2 * HOUR)
    artifacts.put(model)
    assert artifacts.older_than(HOUR) == frozenset()
    artifacts.remove(SHA256, HOUR)
    assert content(artifacts, SHA256) == BYTES


def test_a_file_that_many_remove_and_one_puts_at_once_is_there_in_the_end(
    artifacts: Artifacts, model: Path, make_old: MakeOld
) -> None:
    artifacts.put(model)
    with ThreadPoolExecutor(4) as pool:
        for _ in range(10):
            make_old(SHA256, 2 * HOUR)
            removals = [pool.submit(artifacts.remove, SHA256, HOUR) for _ in range(3)]
            pool.submit(artifacts.put, model).result()
            for removal in removals:
                removal.result()
            assert kept(artifacts) == {SHA256}
            assert artifacts.size(SHA256) == len(BYTES)


def test_a_place_belongs_to_the_first_who_asks(artifacts: Artifacts) -> None:
    assert artifacts.belongs_to("one")
    assert artifacts.belongs_to("one")
    assert not artifacts.belongs_to("another")
    assert artifacts.older_than(-HOUR) == frozenset()
