"""The slots of a machine's workers: who had one before, and whether its holder is alive."""

import os
import signal
import subprocess
import sys
import time

import pytest

from worker import slots
from worker.slots import missing, take_slot

HOLD = """
import sys, time
from pathlib import Path
from worker.slots import take_slot

with take_slot(Path(sys.argv[1])) as slot:
    print(slot.name, flush=True)
    time.sleep(60)
"""


@pytest.fixture
def other(tmp_path):
    """Yield another process that holds a slot, and its name."""
    process = subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    yield process, process.stdout.readline().strip()
    process.kill()
    process.wait()
    process.stdout.close()


def test_no_two_workers_have_the_same_place_or_name(tmp_path, other):
    with take_slot(tmp_path) as slot:
        assert slot.earlier is None
        assert slot.name != other[1]
        assert len(list((tmp_path / "workers").iterdir())) == 2


def test_who_takes_the_place_of_a_killed_worker_learns_its_name(tmp_path, other):
    process, name = other
    process.kill()
    process.wait()
    with take_slot(tmp_path) as slot:
        assert slot.earlier == name
        assert slot.name != name


def test_a_frozen_worker_keeps_its_place(tmp_path, other):
    process, _ = other
    process.send_signal(signal.SIGSTOP)
    with take_slot(tmp_path) as slot:
        assert slot.earlier is None
    process.send_signal(signal.SIGCONT)


def test_who_ended_as_it_should_is_nobodys_predecessor(tmp_path):
    with take_slot(tmp_path):
        pass
    with take_slot(tmp_path) as slot:
        assert slot.earlier is None


def test_a_worker_that_gives_signs_is_not_missing(tmp_path):
    with take_slot(tmp_path) as slot:
        assert missing(tmp_path) is None
        slot.sign()
        assert missing(tmp_path) is None


def test_where_no_worker_is_one_is_missing(tmp_path):
    assert "no worker" in missing(tmp_path)
    with take_slot(tmp_path):
        pass
    assert "no worker" in missing(tmp_path)


def test_a_worker_that_gave_no_sign_for_long_is_missing(tmp_path, monkeypatch):
    monkeypatch.setattr(slots, "STALE_SECONDS", 0.05)
    with take_slot(tmp_path) as slot:
        time.sleep(0.1)
        assert "no sign of life" in missing(tmp_path)
        slot.sign()
        assert missing(tmp_path) is None


def test_a_host_of_a_longer_name_is_another_host(tmp_path, monkeypatch):
    monkeypatch.setattr(slots.socket, "gethostname", lambda: "worker-cpu")
    with take_slot(tmp_path):
        monkeypatch.setattr(slots.socket, "gethostname", lambda: "worker")
        assert "no worker of worker runs" in missing(tmp_path)


def test_signs_from_before_the_machine_was_started_do_not_count(tmp_path):
    with take_slot(tmp_path):
        [file] = (tmp_path / "workers").iterdir()
        file.write_text(slots._SIGN.format(time.monotonic() + 3600) + "name\n")
        assert "no sign of life" in missing(tmp_path)


def test_a_sign_needs_no_space(tmp_path):
    with take_slot(tmp_path) as slot:
        [file] = (tmp_path / "workers").iterdir()
        size = os.stat(file).st_size
        slot.sign()
        assert os.stat(file).st_size == size
