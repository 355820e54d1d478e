"""Files being uploaded: what counts of them, and what becomes of those whose process was killed."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from jobs.uploads import incoming
from jobs.uploads.incoming import Incoming

BEGIN = """
import pathlib, sys, time
from jobs.uploads.incoming import Incoming
arriving = Incoming(pathlib.Path(sys.argv[1])).create("lab")
arriving.cut(1000)
print(arriving.path, flush=True)
time.sleep(600)
"""


@pytest.fixture
def uploads(tmp_path: Path) -> Incoming:
    return Incoming(tmp_path / "incoming")


def fits(size: int) -> None:
    """Accept any size."""


def make_old(path: Path, seconds: float) -> None:
    then = time.time() - seconds
    os.utime(path, (then, then))


def test_each_sees_what_the_others_of_its_tenant_have_reserved(uploads: Incoming) -> None:
    first, second, other = uploads.create("lab"), uploads.create("lab"), uploads.create("lab-2")
    asked: list[int] = []
    other.reserve(1000, asked.append)
    first.reserve(100, asked.append)
    second.reserve(20, asked.append)
    first.reserve(150, asked.append)
    assert asked == [1000, 100, 120, 170]
    first.end()
    assert uploads.bytes_of("lab") == 20


def test_who_finds_no_room_has_reserved_nothing(uploads: Incoming) -> None:
    def full(size: int) -> None:
        raise MemoryError

    arriving = uploads.create("lab")
    with pytest.raises(MemoryError):
        arriving.reserve(100, full)
    assert (arriving.size, uploads.bytes_of("lab")) == (0, 0)


def test_a_process_that_is_frozen_while_it_reserves_holds_nobody_up(
    uploads: Incoming, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(incoming, "_PATIENCE_SECONDS", 0.2)
    first, second = uploads.create("lab"), uploads.create("lab")
    frozen, thawed = threading.Event(), threading.Event()

    def freeze(size: int) -> None:
        frozen.set()
        thawed.wait(60)

    thread = threading.Thread(target=first.reserve, args=(100, freeze))
    thread.start()
    try:
        assert frozen.wait(30)
        asked: list[int] = []
        other = threading.Thread(target=second.reserve, args=(20, asked.append), daemon=True)
        other.start()
        other.join(30)
        assert asked == [20]
    finally:
        thawed.set()
        thread.join()


def test_what_is_reserved_takes_no_room(uploads: Incoming) -> None:
    arriving = uploads.create("lab")
    arriving.reserve(10 * 2**30, fits)
    assert arriving.path.stat().st_blocks == 0


def test_what_is_being_sent_stays_however_slowly_it_comes(uploads: Incoming) -> None:
    arriving = uploads.create("lab")
    make_old(arriving.path, 100_000)
    uploads.tidy()
    assert arriving.path.exists()
    arriving.end()
    arriving.end()
    assert uploads.bytes_of("lab") == 0


def test_what_a_killed_process_left_is_removed(uploads: Incoming) -> None:
    command = [sys.executable, "-c", BEGIN, str(uploads.folder)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            left = Path(process.stdout.readline().strip())
            make_old(left, 4000)
            uploads.tidy()
            assert left.exists()
        finally:
            process.kill()
            process.wait()
    uploads.tidy()
    assert not left.exists()


def test_what_a_killed_process_was_receiving_counts_no_more(uploads: Incoming) -> None:
    other, asked = uploads.create("lab"), list[int]()
    command = [sys.executable, "-c", BEGIN, str(uploads.folder)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            process.stdout.readline()
            assert uploads.bytes_of("lab") == 1000
        finally:
            process.kill()
            process.wait()
    assert uploads.bytes_of("lab") == 0
    other.reserve(30, asked.append)
    assert asked == [30]


def test_what_another_machine_receives_counts_though_its_lock_is_not_seen(
    uploads: Incoming, monkeypatch: pytest.MonkeyPatch
) -> None:
    arriving = uploads.create("lab")
    arriving.reserve(100, fits)
    monkeypatch.setattr(incoming, "is_held", lambda path: False)
    monkeypatch.setattr(incoming, "_machine", lambda: "another")
    assert uploads.bytes_of("lab") == 100
    make_old(arriving.path, 1000)
    uploads.tidy()
    assert arriving.path.exists()
    make_old(arriving.path, 4000)
    assert uploads.bytes_of("lab") == 0
    uploads.tidy()
    assert not arriving.path.exists()


def test_what_was_just_made_is_not_removed_before_it_is_held(uploads: Incoming, monkeypatch) -> None:
    arriving = uploads.create("lab")
    monkeypatch.setattr(incoming, "is_held", lambda path: False)
    uploads.tidy()
    assert arriving.path.exists()


def test_who_begins_while_others_look_is_not_disturbed(uploads: Incoming) -> None:
    looked, stop = [0], threading.Event()

    def look() -> None:
        while not stop.is_set():
            looked[0] += uploads.bytes_of("lab")

    threads = [threading.Thread(target=look) for _ in range(3)]
    for thread in threads:
        thread.start()
    try:
        for _ in range(100):
            uploads.create("lab").end()
    finally:
        stop.set()
        for thread in threads:
            thread.join()


def test_where_the_disk_knows_no_locks_only_age_tells(
    uploads: Incoming, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_locks(path: Path) -> bool:
        raise OSError("no locks here")

    monkeypatch.setattr(incoming, "is_held", no_locks)
    young, old = uploads.create("lab"), uploads.create("lab")
    make_old(young.path, 4000)
    make_old(old.path, 90_000)
    uploads.tidy()
    assert (young.path.exists(), old.path.exists()) == (True, False)
