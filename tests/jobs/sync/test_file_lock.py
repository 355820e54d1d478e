"""Locks as files."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from jobs.errors import OperationCancelled
from jobs.sync.file_lock import alone, held, is_held


def test_one_at_a_time_does_what_is_locked(tmp_path: Path) -> None:
    inside, most = 0, []

    def work() -> None:
        nonlocal inside
        for _ in range(20):
            with alone(tmp_path / "lock"):
                inside += 1
                most.append(inside)
                inside -= 1

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (max(most), len(most)) == (1, 80)


def test_patience_comes_to_an_end(tmp_path: Path) -> None:
    with alone(tmp_path / "lock"), pytest.raises(TimeoutError), alone(tmp_path / "lock", 0.2):
        pass
    with alone(tmp_path / "lock", 0.0):
        pass


def test_who_waits_can_give_up(tmp_path: Path) -> None:
    cancelled = threading.Event()
    threading.Timer(0.2, cancelled.set).start()
    with (
        alone(tmp_path / "lock"),
        pytest.raises(OperationCancelled),
        alone(tmp_path / "lock", 60.0, cancelled),
    ):
        pass


def test_where_nothing_can_be_locked_nobody_is_kept_out(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    nowhere = tmp_path / "file" / "lock"
    with alone(nowhere), alone(nowhere, 0.0):
        pass
    held(nowhere).release()
    with pytest.raises(NotADirectoryError):
        is_held(nowhere)


def test_a_lock_is_held_until_it_is_released_by_whichever_thread(tmp_path: Path) -> None:
    path = tmp_path / "file"
    lock = held(path)
    assert is_held(path)
    thread = threading.Thread(target=lock.release)
    thread.start()
    thread.join()
    assert not is_held(path)


def test_to_ask_whether_a_file_is_held_does_not_make_it(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        is_held(tmp_path / "gone")
    assert not (tmp_path / "gone").exists()
