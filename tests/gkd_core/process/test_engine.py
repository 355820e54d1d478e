"""A run in the engine process: its events, its failure file and its exit code."""

import errno
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from gkd_core.config import DataConfig, TrainRun
from gkd_core.errors import DivergedError, FailureClass, StoppedError
from gkd_core.events import Evaluation, Progress, Warning, events
from gkd_core.process.engine import EventLog, StopRequest, failure_of, serve_run
from gkd_core.run_dir import COMPLETE, FAILED, STOPPED, Control, RunDir

CONFIG = TrainRun(data=DataConfig(path="/data"))


@pytest.fixture
def run_dir(tmp_path: Path) -> RunDir:
    run_dir = RunDir(tmp_path / "run")
    run_dir.prepare(CONFIG, attempt=1)
    return run_dir


@pytest.fixture(autouse=True)
def ctrl_c_as_before():
    handler = signal.getsignal(signal.SIGINT)
    yield
    signal.signal(signal.SIGINT, handler)


def one_event(config, path, should_stop):
    yield Warning(message=config.data.path)


def raising(error):
    def run(config, path, should_stop):
        yield Warning(message="before")
        raise error

    return run


def written(run_dir: RunDir) -> list[str]:
    return [events.validate_json(line).message for line in run_dir.events.read_bytes().splitlines()]


def test_a_complete_run_writes_its_events_and_no_failure(run_dir):
    assert serve_run(run_dir, 1, one_event) == COMPLETE
    [event] = [json.loads(line) for line in run_dir.events.read_text().splitlines()]
    assert event["message"] == "/data"
    assert abs(event["time"] - time.time()) < 60
    assert run_dir.read_failure() is None


def test_an_event_never_lands_on_half_a_line(run_dir):
    run_dir.events.write_bytes(b'{"kind":"warn')
    serve_run(run_dir, 1, one_event)
    torn, whole = run_dir.events.read_text().splitlines()
    assert torn == '{"kind":"warn'
    assert events.validate_json(whole).message == "/data"


def test_a_whole_last_line_is_left_alone(run_dir):
    serve_run(run_dir, 1, one_event)
    serve_run(run_dir, 1, one_event)
    assert written(run_dir) == ["/data", "/data"]


def test_a_failure_leaves_word_and_its_traceback_goes_to_the_log_only(run_dir, capsys):
    assert serve_run(run_dir, 1, raising(DivergedError("loss is NaN at step 7", "Lower the rate."))) == FAILED
    failure = run_dir.read_failure()
    assert failure.failure_class is FailureClass.DIVERGED
    assert (failure.message, failure.hint) == ("loss is NaN at step 7", "Lower the rate.")
    assert "Traceback" in capsys.readouterr().err
    assert written(run_dir) == ["before"]


def test_a_run_that_stopped_as_asked_is_no_failure(run_dir):
    assert serve_run(run_dir, 1, raising(StoppedError("asked"))) == STOPPED
    assert run_dir.read_failure() is None


def test_a_config_of_another_version_is_a_failure_of_the_spec(run_dir):
    run_dir.config.write_text('{"kind": "train", "data": {"path": "/data"}, "epocs": 3}')
    assert serve_run(run_dir, 1, one_event) == FAILED
    failure = run_dir.read_failure()
    assert failure.failure_class is FailureClass.SPEC
    assert "epocs" in failure.message


class AcceleratorOutOfMemoryError(RuntimeError):
    """An error with torch's name and message, without torch."""


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (AcceleratorOutOfMemoryError("CUDA out of memory. Tried to allocate 1 GiB"), "out_of_memory"),
        (
            RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 b"),
            "out_of_memory",
        ),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED"), "out_of_memory"),
        (MemoryError(), "out_of_memory"),
        (OSError(errno.ENOMEM, "Cannot allocate memory"), "out_of_memory"),
        (OSError(errno.ENOSPC, "No space left on device"), "infrastructure"),
        (OSError(errno.ESTALE, "Stale file handle"), "infrastructure"),
        (RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed."), "infrastructure"),
        (RuntimeError("CUDA error: uncorrectable ECC error encountered"), "infrastructure"),
        (RuntimeError("CUDA error: device-side assert triggered"), "bug"),
        (KeyError("boxes"), "bug"),
        (FileNotFoundError(errno.ENOENT, "No such file"), "bug"),
        (SystemExit(3), "bug"),
    ],
)
def test_every_exception_has_a_failure_class(error, expected):
    failure = failure_of(error)
    assert failure.failure_class == expected
    assert type(error).__name__ in failure.message
    assert failure.hint


DEVICE_MESSAGES = [
    ("GET was unable to find an engine to execute this computation", "out_of_memory"),
    (
        "FIND was unable to find an engine to execute this computation after trying 11 plans.",
        "out_of_memory",
    ),
    ("cuDNN error: CUDNN_STATUS_ALLOC_FAILED", "out_of_memory"),
    ("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`", "out_of_memory"),
    (
        "NCCL error in: ../torch/csrc/distributed/c10d/NCCLUtils.cpp:77, unhandled cuda error (run with "
        "NCCL_DEBUG=INFO for details), NCCL version 2.28.9\nLast error:\nCuda failure 2 'out of memory'",
        "out_of_memory",
    ),
    ("cuDNN error: CUDNN_STATUS_INTERNAL_ERROR", "infrastructure"),
    ("cuDNN error: CUDNN_STATUS_EXECUTION_FAILED", "infrastructure"),
    ("cuDNN error: CUDNN_STATUS_NOT_INITIALIZED", "infrastructure"),
    ("CUDA error: CUBLAS_STATUS_NOT_INITIALIZED when calling `cublasCreate(handle)`", "infrastructure"),
    (
        "CUDA error: CUBLAS_STATUS_EXECUTION_FAILED when calling `cublasSgemm( handle, opa, opb, m, n, k, &alpha, a, "
        "lda, b, ldb, &beta, c, ldc)`",
        "infrastructure",
    ),
    (
        "cusolver error: CUSOLVER_STATUS_INTERNAL_ERROR, when calling `cusolverDnCreate(handle)`",
        "infrastructure",
    ),
    (
        "CUDA error: an illegal memory access was encountered\nCUDA kernel errors might be asynchronously reported at "
        "some other API call, so the stacktrace below might be incorrect.",
        "infrastructure",
    ),
    ("CUDA error: the launch timed out and was terminated", "infrastructure"),
    ("CUDA error: unspecified launch failure", "infrastructure"),
    ("CUDA error: misaligned address", "infrastructure"),
    ("CUDA error: an illegal instruction was encountered", "infrastructure"),
    ("CUDA error: uncorrectable ECC error encountered", "infrastructure"),
    ("CUDA error: uncorrectable NVLink error detected during the execution", "infrastructure"),
    ("CUDA error: all CUDA-capable devices are busy or unavailable", "infrastructure"),
    ("CUDA error: unknown error", "infrastructure"),
    (
        "CUDA unknown error - this may be due to an incorrectly set up environment, e.g. changing env variable "
        "CUDA_VISIBLE_DEVICES after program start. Setting the available devices to be zero.",
        "infrastructure",
    ),
    ("Unexpected error from cudaGetDeviceCount(). Did you run some cuda functions before?", "infrastructure"),
    ("CUDA driver initialization failed, you might not have a CUDA gpu.", "infrastructure"),
    ("Found no NVIDIA driver on your system. Please check that you have an NVIDIA GPU.", "infrastructure"),
    (
        "The NVIDIA driver on your system is too old (found version 11040). Please update your GPU driver.",
        "infrastructure",
    ),
    ("No CUDA GPUs are available", "infrastructure"),
    (
        "NCCL error in: ../torch/csrc/distributed/c10d/ProcessGroupNCCL.cpp:3690, remote process exited or there was "
        "a network error, NCCL version 2.28.9\nncclRemoteError: A call failed possibly due to a network error",
        "infrastructure",
    ),
    (
        "[Rank 1] Watchdog caught collective operation timeout: WorkNCCL(SeqNum=17, OpType=ALLREDUCE) ran for 7200010 "
        "milliseconds before timing out.",
        "infrastructure",
    ),
    (
        "CUDA error: no kernel image is available for execution on the device\nCUDA kernel errors might be "
        "asynchronously reported at some other API call",
        "spec",
    ),
    (
        "CUDA error: device kernel image is invalid",
        "spec",
    ),
    ("CUDA error: device-side assert triggered", "bug"),
    ("CUDA error: invalid configuration argument", "bug"),
    ("cuDNN error: CUDNN_STATUS_BAD_PARAM", "bug"),
    (
        "cuDNN error: CUDNN_STATUS_NOT_SUPPORTED. This error may appear if you passed in a non-contiguous input.",
        "bug",
    ),
    ("CUDA error: CUBLAS_STATUS_INVALID_VALUE when calling `cublasSgemm( handle, opa, opb, m, n, k)`", "bug"),
    ("Expected all tensors to be on the same device, but found at least two devices, cuda:0 and cpu!", "bug"),
]
"""Error messages of torch 2.11, CUDA 13 and NCCL 2.28, and what they mean for a job."""


@pytest.mark.parametrize(("text", "expected"), DEVICE_MESSAGES)
def test_what_a_gpu_says_is_filed_by_whose_fault_it_is(text, expected):
    torch = pytest.importorskip("torch")

    failures = [failure_of(kind(text)) for kind in (RuntimeError, torch.AcceleratorError)]

    assert [failure.failure_class for failure in failures] == [expected, expected]
    assert all(failure.hint for failure in failures)


def test_torchs_own_out_of_memory_error_is_recognised():
    torch = pytest.importorskip("torch")
    assert failure_of(torch.OutOfMemoryError("CUDA out of memory.")).failure_class == "out_of_memory"


def test_an_attempt_that_no_longer_owns_the_directory_should_stop(run_dir):
    first, second = StopRequest(run_dir, 1), StopRequest(run_dir, 2)
    run_dir.ask(Control(attempt=2))
    assert (first(), second()) == (True, False)


def test_what_an_earlier_owner_wants_does_not_count(run_dir):
    run_dir.ask(Control(attempt=1, wanted="stop"))
    assert StopRequest(run_dir, 2)() is False


def test_once_asked_to_stop_it_stays_so(run_dir):
    should_stop = StopRequest(run_dir, 1)
    run_dir.ask(Control(attempt=1, wanted="stop"))
    assert should_stop()
    run_dir.ask(Control(attempt=1))
    assert should_stop()


def test_control_is_not_read_at_every_step(run_dir, monkeypatch):
    reads = []
    monkeypatch.setattr(RunDir, "wanted", lambda self, attempt: not reads.append(attempt))
    should_stop = StopRequest(run_dir, 1)
    for _ in range(1000):
        should_stop()
    assert len(reads) == 1


HOLDER = """
import sys, time
from filelock import FileLock
lock = FileLock(sys.argv[1])
lock.acquire()
print("held", flush=True)
time.sleep(float(sys.argv[2]))
"""


def hold(run_dir: RunDir, seconds: float) -> subprocess.Popen:
    arguments = [sys.executable, "-c", HOLDER, str(run_dir.lock), str(seconds)]
    holder = subprocess.Popen(arguments, stdout=subprocess.PIPE)
    assert holder.stdout.readline() == b"held\n"
    return holder


def test_a_second_engine_waits_for_the_first_to_leave(run_dir):
    with hold(run_dir, 0.5):
        assert serve_run(run_dir, 1, one_event) == COMPLETE


def test_a_lock_that_is_never_given_back_is_a_failure_of_the_infrastructure(run_dir):
    with hold(run_dir, 60) as holder:
        assert serve_run(run_dir, 1, one_event, lock_seconds=0.2) == FAILED
        holder.kill()
    failure = run_dir.read_failure()
    assert failure.failure_class is FailureClass.INFRASTRUCTURE
    assert str(run_dir.lock) in failure.message


def test_an_engine_may_be_stopped_while_it_waits(run_dir):
    with hold(run_dir, 60) as holder:
        run_dir.ask(Control(attempt=1, wanted="stop"))
        assert serve_run(run_dir, 1, one_event) == STOPPED
        holder.kill()


FORKING = """
import os, sys, time
from pathlib import Path
from gkd_core.process.engine import locked

with locked(Path(sys.argv[1]), 0.0, lambda: False):
    if child := os.fork():
        print(child, flush=True)
    time.sleep(60)
"""


def test_a_loader_that_outlives_its_engine_does_not_keep_the_lock(run_dir):
    engine = subprocess.Popen([sys.executable, "-c", FORKING, str(run_dir.lock)], stdout=subprocess.PIPE)
    with engine:
        loader = int(engine.stdout.readline())
        engine.kill()
        engine.wait()
        try:
            assert serve_run(run_dir, 1, one_event, lock_seconds=5) == COMPLETE
            os.kill(loader, 0)  # it is alive
        finally:
            os.kill(loader, signal.SIGKILL)


ALONE = """
import sys, time
from gkd_core.errors import StoppedError
from gkd_core.events import Warning
from gkd_core.process.engine import serve_run
from gkd_core.run_dir import RunDir

def run(config, path, should_stop):
    yield Warning(message="started")
    while not (sys.argv[2] == "listens" and should_stop()):
        time.sleep(0.02)
    raise StoppedError("asked")

sys.exit(serve_run(RunDir(sys.argv[1]), 1, run))
"""


def start_alone(run_dir: RunDir, manner: str) -> subprocess.Popen:
    env = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[3])}
    arguments = [sys.executable, "-c", ALONE, str(run_dir.path), manner]
    process = subprocess.Popen(arguments, env=env, stderr=subprocess.PIPE)
    while not (run_dir.events.exists() and run_dir.events.stat().st_size):
        time.sleep(0.02)
    return process


def test_ctrl_c_stops_a_run_after_a_checkpoint(run_dir):
    with start_alone(run_dir, "listens") as process:
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=10) == STOPPED
        assert b"Ctrl-C again ends at once" in process.stderr.read()


def test_a_ctrl_c_that_comes_while_the_run_directory_is_read_is_heard(run_dir, monkeypatch):
    request = StopRequest(run_dir, 1)

    def interrupted(attempt: int) -> bool:
        request._on_ctrl_c(signal.SIGINT, None)
        return True

    before = signal.getsignal(signal.SIGINT)
    monkeypatch.setattr(RunDir, "wanted", lambda self, attempt: interrupted(attempt))
    try:
        assert request()
    finally:
        signal.signal(signal.SIGINT, before)


def test_a_second_ctrl_c_ends_it_at_once(run_dir):
    with start_alone(run_dir, "deaf") as process:
        process.send_signal(signal.SIGINT)
        assert process.stderr.readline().startswith(b"stopping")
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=10) == -signal.SIGINT


def test_the_log_tells_what_happened_but_not_every_step(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    metrics = {"AP": 0.51234, "AP50": 0.8, "AR1": 0.1}
    with EventLog(tmp_path / "events.jsonl") as log:
        log.append(Progress(run="model", epoch=0, epochs=1, step=1, steps=2, fraction=0.5))
        log.append(Evaluation(time=1.0, run="model", epoch=1, metrics=metrics, per_class={}, seconds=2.0))
    told = capsys.readouterr().out
    assert told == "1970-01-01 00:00:01 evaluation run=model epoch=1 seconds=2.0 AP=0.5123 AP50=0.8\n"
