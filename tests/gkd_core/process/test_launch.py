"""How several processes end as one. That they start, stop and die together is tested in tests/worker/test_engine.py."""

import signal
from pathlib import Path

import pytest

from gkd_core.config import DataConfig, TrainRun
from gkd_core.errors import Failure, FailureClass, SpecError, StoppedError
from gkd_core.process.engine import failure_of, follow_run
from gkd_core.process.launch import conclude
from gkd_core.run_dir import COMPLETE, FAILED, LAUNCHED, STOPPED, RunDir

KILLED, ENDED = -signal.SIGKILL, -signal.SIGTERM
"""Killed by something else, and ended by us because another process failed."""


@pytest.fixture
def run_dir(tmp_path: Path) -> RunDir:
    run_dir = RunDir(tmp_path)
    run_dir.prepare(TrainRun(data=DataConfig(path="/data")), attempt=1)
    return run_dir


def word(failure_class: FailureClass) -> Failure:
    return Failure(failure_class=failure_class, message="what a process said")


@pytest.mark.parametrize(
    ("ended", "code"),
    [({}, COMPLETE), ({0: STOPPED}, STOPPED), ({0: STOPPED, 1: ENDED}, STOPPED), ({1: FAILED}, FAILED)],
)
def test_the_exit_code_is_that_of_a_single_engine(run_dir: RunDir, ended: dict[int, int], code: int) -> None:
    assert conclude(run_dir, ended, 2) == code


def test_what_a_process_said_of_its_failure_stays(run_dir: RunDir) -> None:
    run_dir.write_failure(word(FailureClass.OUT_OF_MEMORY))
    assert conclude(run_dir, {0: ENDED, 1: FAILED}, 2) == FAILED
    assert run_dir.read_failure() == word(FailureClass.OUT_OF_MEMORY)


def test_that_one_was_killed_says_more_than_that_its_connections_closed(run_dir: RunDir) -> None:
    run_dir.write_failure(word(FailureClass.INFRASTRUCTURE))
    assert conclude(run_dir, {0: FAILED, 1: KILLED}, 2) == FAILED
    failure = run_dir.read_failure()
    assert failure is not None
    assert failure.message == "process 2 of 2 was ended by SIGKILL"


def test_processes_that_could_say_nothing_are_told_of(run_dir: RunDir) -> None:
    assert conclude(run_dir, {0: ENDED, 1: 2}, 2) == FAILED
    failure = run_dir.read_failure()
    assert failure is not None
    assert failure.failure_class is FailureClass.INFRASTRUCTURE
    assert "process 2 with exit code 2" in failure.message


def test_a_process_that_lost_another_may_be_tried_again() -> None:
    text = (
        "[/pytorch/third_party/gloo/gloo/transport/tcp/pair.cc:554] Connection closed by peer [127.0.0.1]:6"
    )
    assert failure_of(RuntimeError(text)).failure_class is FailureClass.INFRASTRUCTURE


@pytest.mark.parametrize(
    ("error", "code"),
    [(None, COMPLETE), (StoppedError("asked to stop"), COMPLETE), (SpecError([]), FAILED)],
)
def test_a_process_that_is_not_the_first_tells_nothing(
    run_dir: RunDir, error: Exception | None, code: int
) -> None:
    def run(*_: object):
        yield from ()
        if error:
            raise error

    assert follow_run(run_dir, run) == code
    assert not run_dir.events.exists()
    assert (run_dir.read_failure() is not None) == (code == FAILED)


def test_the_first_to_fail_says_why(run_dir: RunDir, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(LAUNCHED, "gkd")
    run_dir.write_failure(word(FailureClass.DIVERGED))

    def run(*_: object):
        yield from ()
        raise RuntimeError("Connection closed by peer")

    assert follow_run(run_dir, run) == FAILED
    assert run_dir.read_failure() == word(FailureClass.DIVERGED)
