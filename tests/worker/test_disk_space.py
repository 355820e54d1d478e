"""Whether there is room on the disk; tests/faults/test_disk.py shows what a runner does about it."""

import os
import shutil
from collections import namedtuple

import pytest

from gkd_core.run_dir import RunDir
from worker.disk_space import DiskSpace, free_on

Usage = namedtuple("Usage", "total used free")


@pytest.fixture
def run_dir(tmp_path):
    run_dir = RunDir(tmp_path / "runs" / "one")
    run_dir.checkpoints.mkdir(parents=True)
    return run_dir


@pytest.fixture
def free(monkeypatch):
    """Set how many bytes are free."""

    def set_free(size):
        monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(10**12, 0, size))

    return set_free


def test_with_as_much_as_is_asked_for_there_is_room(tmp_path, run_dir, free):
    free(1000)
    disk_space = DiskSpace([tmp_path], 1000)
    assert disk_space.shortage(run_dir) is None
    assert disk_space.free() == 1000


def test_what_is_missing_is_said_with_folder_and_sizes(tmp_path, run_dir, free):
    free(1_200_000_000)
    shortage = DiskSpace([tmp_path], 2_000_000_000).shortage(run_dir)
    assert str(shortage) == f"1.2 GB free on {tmp_path}, 2.0 GB needed"
    assert shortage.needs_free > shortage.needed


def test_the_fullest_folder_counts(tmp_path, run_dir, monkeypatch):
    free = {tmp_path / "runs": 3000, tmp_path / "published": 500}
    for folder in free:
        folder.mkdir(exist_ok=True)
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: Usage(10**12, 0, free[folder]))
    disk_space = DiskSpace(free, 1000)
    assert disk_space.free() == 500
    assert disk_space.shortage(run_dir).folder == tmp_path / "published"


def test_a_large_state_needs_more_than_the_least(tmp_path, run_dir, free):
    (run_dir.checkpoints / "old.pt").write_bytes(b"0" * 5000)
    (run_dir.checkpoints / "new.pt").write_bytes(b"0" * 700)
    os.utime(run_dir.checkpoints / "old.pt", (1, 1))
    disk_space = DiskSpace([tmp_path], 1000)
    free(1399)
    assert disk_space.shortage(run_dir).needed == 1400
    free(1400)
    assert disk_space.shortage(run_dir) is None


def test_a_folder_that_is_not_made_yet_is_as_free_as_where_it_will_be(tmp_path):
    assert free_on(tmp_path / "a" / "b") == pytest.approx(shutil.disk_usage(tmp_path).free, rel=0.01)
