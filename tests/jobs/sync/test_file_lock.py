"""Locks that are files."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

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


def test_where_nothing_can_be_locked_nobody_is_kept_out(tmp_path: Path) -> None:
    nowhere = tmp_path / "gone" / "lock"
    with alone(nowhere), alone(nowhere, 0.0):
        pass
    assert held(nowhere) is None
    with pytest.raises(FileNotFoundError):
        is_held(nowhere)
