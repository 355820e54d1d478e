"""A home folder belongs to one process at a time."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from worker.home import HomeInUse, hold

HOLD = (
    "import sys, time; from pathlib import Path; from worker.home import hold\n"
    "with hold(Path(sys.argv[1])): print('held', flush=True); time.sleep(60)"
)


def test_a_home_is_held_by_one_process_and_the_other_is_told_by_which(tmp_path):
    env = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    command = [sys.executable, "-c", HOLD, str(tmp_path)]
    with subprocess.Popen(command, env=env, stdout=subprocess.PIPE) as other:
        assert other.stdout.readline() == b"held\n"
        with pytest.raises(HomeInUse, match=f"process {other.pid}"), hold(tmp_path):
            pass
        other.kill()
    with hold(tmp_path):  # its holder is dead: there is nothing to clean up
        pass


def test_a_home_that_does_not_exist_is_made(tmp_path):
    with hold(tmp_path / "new" / "home"):
        assert (tmp_path / "new" / "home").is_dir()
