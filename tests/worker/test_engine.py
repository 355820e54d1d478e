"""The worker's side of an engine process: reading its events, stopping it, and ending what it leaves behind."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from gkd_core.config import DataConfig, TrainRun
from gkd_core.errors import FailureClass
from gkd_core.events import Checkpoint, Progress, Report
from gkd_core.run_dir import COMPLETE, FAILED, STOPPED, RunDir
from worker.engine import Engine, engine_command, read_events

FAKE = [sys.executable, str(Path(__file__).with_name("fake_engine.py"))]
CONFIG = TrainRun(data=DataConfig(path="/data"))


@pytest.fixture
def run_dir(tmp_path: Path) -> RunDir:
    run_dir = RunDir(tmp_path / "run")
    run_dir.prepare(CONFIG, attempt=1)
    return run_dir


def start(run_dir: RunDir, attempt: int = 1, *, stop_seconds: float = 5.0, **plan: object) -> Engine:
    env = {"FAKE_ENGINE": json.dumps(plan)}
    return Engine.start(run_dir, attempt, env=env, command=FAKE, stop_seconds=stop_seconds)


def wait_for_end(engine: Engine, seconds: float = 10.0) -> int:
    deadline = time.monotonic() + seconds
    while (code := engine.poll()) is None:
        assert time.monotonic() < deadline, "the engine should have ended by now"
        time.sleep(0.02)
    return code


def wait_until(condition, seconds: float = 10.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it should have come to this by now"
        time.sleep(0.02)


def gone(pid: int) -> bool:
    return not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE


def test_a_run_that_completes_has_told_all_its_events(run_dir):
    with start(run_dir, epochs=2) as engine:
        assert wait_for_end(engine) == COMPLETE
        kinds = [type(event) for event, _ in engine.events(0)]
    assert kinds == [Progress, Checkpoint, Progress, Checkpoint, Report]


def test_events_go_on_from_an_offset_and_carry_their_time(run_dir):
    with start(run_dir, epochs=1) as engine:
        wait_for_end(engine)
        (_, first), *rest = list(engine.events(0))
        assert list(engine.events(first)) == rest
    assert all(abs(event.time - time.time()) < 60 for event, _ in rest)


def test_a_line_that_is_still_being_written_is_left_for_later(tmp_path):
    path = tmp_path / "events.jsonl"
    path.write_bytes(b'{"kind":"warning","message":"first"}\n{"kind":"warning","mess')
    [(first, offset)] = read_events(path, 0)
    assert list(read_events(path, offset)) == []
    with path.open("ab") as file:
        file.write(b'age":"second"}\n')
    [(second, _)] = read_events(path, offset)
    assert (first.message, second.message) == ("first", "second")


@pytest.mark.parametrize("line", [b'{"kind":"warn', b"\xff\0", b'{"kind":"unheard of"}', b"7", b"Killed"])
def test_a_line_that_cannot_be_read_is_told_once_and_left_behind(tmp_path, caplog, line: bytes):
    path = tmp_path / "events.jsonl"
    path.write_bytes(line + b"\n")
    [(event, offset)] = read_events(path, 0)
    assert (event.kind, offset) == ("warning", path.stat().st_size)
    assert "a line before byte" in event.message
    assert "cannot be read" in event.message
    assert list(read_events(path, offset)) == []
    assert len(caplog.records) == 1


def test_lines_that_cannot_be_read_are_told_together_and_readable_ones_kept(tmp_path):
    path = tmp_path / "events.jsonl"
    good = b'{"kind":"warning","message":"%s"}\n'
    path.write_bytes(good % b"first" + b"x\n\ny\n" + good % b"next" + b"z\n")
    told = list(read_events(path, 0))
    messages = [event.message for event, _ in told]
    assert (messages[0], messages[2]) == ("first", "next")
    assert ["2 lines" in messages[1], "a line" in messages[3]] == [True, True]
    again = [[event.message for event, _ in read_events(path, offset)] for _, offset in told]
    assert again == [messages[1:], messages[2:], messages[3:], []]


def test_no_file_yet_means_no_events(tmp_path):
    assert list(read_events(tmp_path / "none", 0)) == []


def test_stop_lets_the_engine_save_first(run_dir):
    with start(run_dir, epochs=50) as engine:
        wait_until(lambda: list(engine.events(0)))
        engine.stop()
        assert wait_for_end(engine) == STOPPED
    assert int((run_dir.checkpoints / "state.json").read_text()) >= 1


def test_an_engine_that_ignores_stop_and_sigterm_is_killed_with_its_children(run_dir):
    with start(run_dir, epochs=500, deaf=True, child=True, stop_seconds=0.3) as engine:
        wait_until(lambda: list(engine.events(0)))
        family = psutil.Process(engine.pid).children()
        assert family
        engine.stop()
        assert wait_for_end(engine) == -9
    wait_until(lambda: all(gone(child.pid) for child in family))


def test_what_a_finished_engine_left_behind_is_ended(run_dir):
    with start(run_dir, epochs=1, seconds=1.0, child=True) as engine:
        wait_until(lambda: psutil.Process(engine.pid).children())
        [child] = psutil.Process(engine.pid).children()
        assert wait_for_end(engine) == COMPLETE
        wait_until(lambda: gone(child.pid))


def test_leaving_the_with_block_ends_a_running_engine(run_dir):
    with start(run_dir, epochs=500) as engine:
        assert engine.poll() is None
    assert engine.poll() == -9


def test_killing_an_engine_that_has_ended_is_harmless(run_dir):
    with start(run_dir, epochs=1) as engine:
        wait_for_end(engine)
        engine.kill()
        engine.stop()
    assert engine.poll() == COMPLETE


def test_an_old_attempts_request_to_stop_does_not_reach_the_new_one(run_dir):
    with start(run_dir, epochs=500) as old:
        run_dir.prepare(CONFIG, attempt=2)
        assert wait_for_end(old) == STOPPED
        with start(run_dir, attempt=2, epochs=3, seconds=0.4) as new:
            old.stop()  # late: its worker had been suspended
            assert wait_for_end(new) == COMPLETE


def test_output_is_kept_in_the_log_over_attempts(run_dir):
    for attempt in (1, 2):
        run_dir.prepare(CONFIG, attempt)
        with start(run_dir, attempt, epochs=1) as engine:
            wait_for_end(engine)
    lines = run_dir.log.read_text().splitlines()
    assert [line for line in lines if line.startswith("attempt")] == [
        "attempt 1 starts at epoch 0",
        "attempt 2 starts at epoch 1",
    ]


SHOW_ENV = [
    sys.executable,
    "-c",
    "import os; print({k: os.environ.get(k) for k in os.environ['SHOW'].split()})",
]


@pytest.mark.parametrize(("device", "hidden"), [("cpu", True), ("cuda", False)])
def test_a_job_without_gpu_sees_none(run_dir, monkeypatch, device, hidden):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3")
    env = {"SHOW": "CUDA_VISIBLE_DEVICES"}
    with Engine.start(run_dir, 1, device=device, env=env, command=SHOW_ENV) as engine:
        wait_for_end(engine)
    assert str({"CUDA_VISIBLE_DEVICES": "" if hidden else "3"}) in run_dir.log.read_text()


@pytest.mark.parametrize(
    "name", ["GKD_DATABASE_URL", "GKD_BROKER_URL", "GKD_ADMIN_KEY", "GKD_API_KEY", "AWS_SECRET_ACCESS_KEY"]
)
def test_the_engine_is_told_no_secret(run_dir, monkeypatch, name: str):
    monkeypatch.setenv(name, "postgresql://user:secret@host/gkd")
    with Engine.start(run_dir, 1, env={"SHOW": name}, command=SHOW_ENV) as engine:
        wait_for_end(engine)
    assert "None" in run_dir.log.read_text()


def test_another_engine_may_be_named_in_the_environment(monkeypatch):
    assert engine_command() == [sys.executable, "-P", "-m", "gkd_core.train"]
    monkeypatch.setenv("GKD_ENGINE", "nice -n 19 python -m gkd_core.train")
    assert engine_command()[:3] == ["nice", "-n", "19"]


def test_the_engine_dies_with_the_one_who_started_it(run_dir, tmp_path):
    script = tmp_path / "starter.py"
    script.write_text(
        "import sys, time\n"
        "from gkd_core.run_dir import RunDir\n"
        "from worker.engine import Engine\n"
        f"engine = Engine.start(RunDir({str(run_dir.path)!r}), 1, command={FAKE!r})\n"
        "print(engine.pid, flush=True)\n"
        "time.sleep(600)\n"
    )
    root = Path(__file__).parents[2]
    env = {**os.environ, "FAKE_ENGINE": '{"epochs": 5000}', "PYTHONPATH": str(root)}
    starter = subprocess.Popen([sys.executable, str(script)], stdout=subprocess.PIPE, env=env)
    pid = int(starter.stdout.readline())
    wait_until(lambda: run_dir.events.exists())
    starter.kill()
    starter.communicate()
    wait_until(lambda: gone(pid))


# ---- several processes -----------------------------------------------------------------------------------

RANKS = [sys.executable, str(Path(__file__).with_name("fake_ranks.py"))]


@pytest.fixture
def shared_run(tmp_path: Path) -> RunDir:
    """Return a run whose config wants two processes."""
    run_dir = RunDir(tmp_path / "run")
    run_dir.prepare(CONFIG.model_copy(update={"processes": 2}), attempt=1)
    return run_dir


def start_two(run_dir: RunDir, *, stop_seconds: float = 5.0, **plan: object) -> Engine:
    env = {
        "FAKE_RANKS": json.dumps(plan),
        "TMPDIR": str(run_dir.path.parent),
    }  # a killed process cannot clean up
    return Engine.start(run_dir, 1, env=env, command=RANKS, stop_seconds=stop_seconds)


def ids_of_ranks(run_dir: RunDir) -> list[int]:
    """Return the process ids of both, once both have started."""
    files = [run_dir.path / f"rank-{rank}.pid" for rank in (0, 1)]
    wait_until(lambda: all(file.exists() and file.read_text() for file in files), 30)
    return [int(file.read_text()) for file in files]


def test_two_processes_that_are_asked_to_stop_say_so_with_the_exit_code_of_one(shared_run):
    with start_two(shared_run, epochs=500) as engine:
        ranks = ids_of_ranks(shared_run)
        wait_until(lambda: list(engine.events(0)))
        engine.stop()
        assert wait_for_end(engine, 30) == STOPPED
        told = [event.epoch for event, _ in engine.events(0)]
    assert told == sorted(set(told))
    assert all(map(gone, ranks))


def test_why_one_of_two_processes_failed_is_what_people_read(shared_run):
    with start_two(shared_run, epochs=500, fail=1) as engine:
        assert wait_for_end(engine, 30) == FAILED
    failure = shared_run.read_failure()
    assert failure.failure_class is FailureClass.BUG
    assert "a bug in process 2" in failure.message
    assert all(map(gone, ids_of_ranks(shared_run)))


def test_a_process_that_was_killed_ends_the_others_and_the_job_is_tried_again(shared_run):
    with start_two(shared_run, epochs=500, die=1) as engine:
        assert wait_for_end(engine, 30) == FAILED
    failure = shared_run.read_failure()
    assert failure.failure_class is FailureClass.INFRASTRUCTURE
    assert failure.message == "process 2 of 2 was ended by SIGKILL"
    assert all(map(gone, ids_of_ranks(shared_run)))


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_no_process_outlives_the_one_that_started_it(shared_run, number):
    with start_two(shared_run, epochs=5000) as engine:
        ranks = ids_of_ranks(shared_run)
        os.kill(engine.pid, number)
        assert wait_for_end(engine, 30) == -number
        wait_until(lambda: all(map(gone, ranks)))
