"""The engine process around a run: lock, events, stop requests, failure and exit code. No torch at import.

`serve_run` is the whole of `python -m gkd_core.train RUN_DIR --attempt N` where one process does the run
(`launch.py` starts several; `follow_run` is one of the others): it holds the run directory's lock, writes each event
as one line, checks for stop requests, and reports by failure.json and its exit code how the run ended. The other side
of the interface is `worker/engine.py`.

A process that was started with `GKD_PARENT` in its environment is killed when that parent ends. Without it, as in a
terminal, the first Ctrl-C asks it to stop after a checkpoint; a second one ends it at once.
"""

from __future__ import annotations

import ctypes
import errno
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from filelock import FileLock, Timeout
from pydantic import ValidationError

from gkd_core.config import AnyRun
from gkd_core.errors import (
    DISK_AND_NETWORK,
    Failure,
    FailureClass,
    GkdError,
    Problem,
    SpecError,
    StoppedError,
)
from gkd_core.events import Event, Progress
from gkd_core.run_dir import COMPLETE, FAILED, LAUNCHED, PARENT, STOPPED, RunDir

Run = Callable[[AnyRun, Path, Callable[[], bool]], Iterator[Event]]
"""`carry_out(config, run_dir, should_stop)`: yields events, raises `StoppedError` once it has stopped as asked."""

LOCK_SECONDS = 60.0
"""How long to wait for an engine of an earlier attempt to exit; it notices within a second that it must."""

CONTROL_SECONDS = 0.2
"""control.json is read at most this often, so that `should_stop` may be asked at every step."""


def serve_run(run_dir: RunDir, attempt: int, run: Run, *, lock_seconds: float = LOCK_SECONDS) -> int:
    """Carry out the run of a directory, from its config to an exit code.

    Args:
        run_dir: A directory that `RunDir.prepare` made ready for this attempt.
        attempt: Which attempt this process is; one that no longer owns the directory stops.
        run: The work itself.
        lock_seconds: How long to wait for an earlier engine to exit.

    Returns:
        The exit code: `COMPLETE`, `FAILED` (the reason is in failure.json) or `STOPPED`.
    """
    die_with_parent()
    should_stop = StopRequest(run_dir, attempt)
    should_stop.listen_to_ctrl_c()
    try:
        with locked(run_dir.lock, lock_seconds, should_stop), EventLog(run_dir.events) as log:
            for event in run(read_config(run_dir), run_dir.path, should_stop):
                log.append(event)
    except StoppedError:
        return STOPPED
    except BaseException as error:
        _record_failure(run_dir, error)
        return FAILED
    return COMPLETE


def follow_run(run_dir: RunDir, run: Run) -> int:
    """Carry out a run beside the process that serves it, when several train together (`gkd_core.process.launch`).

    It holds no lock, writes no events, and stops when the first process says so.

    Returns:
        The exit code; `COMPLETE` also when it stopped: the first process reports that.
    """
    die_with_parent()
    try:
        for _ in run(read_config(run_dir), run_dir.path, lambda: False):
            pass
    except StoppedError:
        return COMPLETE
    except BaseException as error:
        _record_failure(run_dir, error)
        return FAILED
    return COMPLETE


def _record_failure(run_dir: RunDir, error: BaseException) -> None:
    """Write why the run failed, if no process did so before: later ones fail only because the first one ended."""
    traceback.print_exc()  # the traceback goes to log.txt; users see the failure
    if LAUNCHED in os.environ and run_dir.failure.exists():
        return
    run_dir.write_failure(failure_of(error))


# ---- lifetime of the process -----------------------------------------------------------------------------


def die_with_parent() -> None:
    """Make this process end when the one named by `GKD_PARENT` does; nothing without that variable.

    Linux kills this process when the *thread* that started it ends, which fits: a worker's thread waits for its
    engine from start to end. Where that call is missing, or was made too late, a thread watches the parent's id.
    """
    if PARENT not in os.environ:
        return
    parent = int(os.environ[PARENT])
    if sys.platform == "linux":
        set_parent_death_signal = 1  # PR_SET_PDEATHSIG of <sys/prctl.h>
        ctypes.CDLL(None, use_errno=True).prctl(set_parent_death_signal, signal.SIGKILL)
    threading.Thread(target=_end_when_orphaned, args=(parent,), daemon=True, name="parent-watch").start()


def _end_when_orphaned(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(1.0)
    os.kill(os.getpid(), signal.SIGKILL)


@contextmanager
def locked(path: Path, seconds: float, should_stop: Callable[[], bool]) -> Iterator[None]:
    """Hold a lock file while the block runs, after waiting for the process that holds it.

    Forked loader processes do not inherit the lock: it is released when the engine itself ends.

    Raises:
        TimeoutError: Another process still held the lock after `seconds`.
        StoppedError: `should_stop` became true while waiting.
    """
    try:
        lock = FileLock(path, seconds, fallback_to_soft=False).acquire(cancel_check=should_stop)
    except Timeout as error:
        if should_stop():
            raise StoppedError("stopped while waiting for an earlier engine to leave") from error
        message = f"another engine still holds {path} after {seconds:g} s; end it, or let it finish"
        raise TimeoutError(message) from error
    with lock:
        yield


class StopRequest:
    """Callable that returns whether the run should stop; once true, always true."""

    def __init__(self, run_dir: RunDir, attempt: int) -> None:
        self._run_dir = run_dir
        self._attempt = attempt
        self._asked = False
        self._look_again_at = 0.0

    def __call__(self) -> bool:
        """Return whether to stop now, after a checkpoint. Cheap enough for every step."""
        now = time.monotonic()
        if not self._asked and now >= self._look_again_at:
            self._look_again_at = now + CONTROL_SECONDS
            if not self._run_dir.wanted(self._attempt):  # a signal may come meanwhile: never set to False
                self._asked = True
        return self._asked

    def listen_to_ctrl_c(self) -> None:
        """Take the first Ctrl-C as a request; the second one ends the process as usual."""
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGINT, self._on_ctrl_c)

    def _on_ctrl_c(self, number: int, frame: FrameType | None) -> None:
        self._asked = True
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        print("stopping after a checkpoint; Ctrl-C again ends at once", file=sys.stderr, flush=True)


# ---- config and events -----------------------------------------------------------------------------------


def read_config(run_dir: RunDir) -> AnyRun:
    """Read the config of the run.

    Raises:
        SpecError: config.json is not a config of this version of GKD.
    """
    try:
        return run_dir.read_config()
    except ValidationError as error:
        problems = [Problem(loc=item["loc"], message=item["msg"]) for item in error.errors()]
        raise SpecError(problems) from error


class EventLog:
    """events.jsonl, opened for appending: one line per event, with the time; a truncated last line is ended first.

    `echo` also prints what is no progress: an engine's stdout is log.txt.
    """

    def __init__(self, path: Path, *, echo: bool = True) -> None:
        self._echo = echo
        self._file = path.open("a+b")
        if _ends_inside_a_line(path):
            self._file.write(b"\n")

    def __enter__(self) -> EventLog:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def append(self, event: Event) -> None:
        """Write an event and flush it, so that readers of the file see it at once."""
        stamped = event if event.time else event.model_copy(update={"time": time.time()})
        self._file.write(stamped.model_dump_json().encode() + b"\n")
        self._file.flush()
        if self._echo and not isinstance(stamped, Progress):
            print(_log_line(stamped), flush=True)


def _log_line(event: Event) -> str:
    """Format an event for the log: time, kind, and its short fields."""
    short = {
        name: value
        for name, value in event.model_dump(exclude={"kind", "time"}).items()
        if isinstance(value, str | int | float)
    }
    shown = getattr(event, "metrics", {}) or {}
    short |= {name: round(shown[name], 4) for name in ("AP", "AP50") if name in shown}
    told = " ".join(f"{name}={value}" for name, value in short.items())
    return f"{time.strftime('%Y-%m-%d %H:%M:%S', time.gmtime(event.time))} {event.kind} {told}"


def _ends_inside_a_line(path: Path) -> bool:
    """Return whether the last line is truncated: its writer was killed, or the disk was full."""
    with path.open("rb") as file:
        if not file.seek(0, os.SEEK_END):
            return False
        file.seek(-1, os.SEEK_END)
        return file.read() != b"\n"


# ---- classifying failures --------------------------------------------------------------------------------

OUT_OF_MEMORY_WORDS = (
    *("out of memory", "can't allocate memory", "ALLOC_FAILED"),
    "unable to find an engine",  # cuDNN: no engine found enough memory for its workspace
)
UNSUPPORTED_WORDS = ("no kernel image", "kernel image is invalid")
"""Messages of a torch without kernels for this GPU, which a retry does not change."""
MISUSED_WORDS = (
    *("device-side assert", "invalid argument", "invalid configuration argument", "invalid value"),
    *("STATUS_BAD_PARAM", "STATUS_INVALID_VALUE", "STATUS_NOT_SUPPORTED", "STATUS_ARCH_MISMATCH"),
)
"""Messages of a wrong call, which fails on any device: checked before `LOST_WORDS`."""
LOST_WORDS = (
    *(
        "CUDA error",
        "CUDA unknown error",
        "CUDA driver",
        "cudaGetDeviceCount",
        "NVIDIA driver",
        "No CUDA GPUs",
    ),
    *("CUDNN_STATUS", "CUBLAS_STATUS", "CUSOLVER_STATUS", "CUSPARSE_STATUS", "CUFFT_"),
    *("CUDA-capable device", "ECC error", "GPU is lost", "launch failure", "DataLoader worker (pid"),
    *("Connection closed by peer", "Connection reset by peer", "/gloo/", "NCCL"),
)
"""Messages of torch about a lost or broken process or device; it has no exception types for these."""

FEWER_AT_ONCE = "Lower train.batch_size or train.image_size, or raise train.accumulate."
OTHER_DEVICE = (
    "Ask for resources.gpus 0, or install a torch that is built for this GPU (pytorch.org lists them)."
)
LOOK_AT_MACHINE = (
    "Look at the disk, the device and the memory of this machine (another process may hold the GPU's); log.txt has "
    "the details."
)
DEFECT = "A defect of GKD; log.txt has the traceback."
DEFECT_ON_DEVICE = f"{DEFECT} With CUDA_LAUNCH_BLOCKING=1 it names the call that failed."


def failure_of(error: BaseException) -> Failure:
    """Return the failure that an exception stands for."""
    if isinstance(error, GkdError):
        return error.failure()
    failure_class, hint = _class_of(error)
    return Failure(failure_class=failure_class, message=f"{type(error).__name__}: {error}", hint=hint)


def _class_of(error: BaseException) -> tuple[FailureClass, str]:
    """Return class and hint of an exception that is not one of the engine's own."""
    if isinstance(error, RuntimeError):
        return _class_of_words(str(error))
    code = error.errno if isinstance(error, OSError) else None
    if isinstance(error, MemoryError) or code == errno.ENOMEM:
        return FailureClass.OUT_OF_MEMORY, FEWER_AT_ONCE
    if isinstance(error, TimeoutError) or code in DISK_AND_NETWORK:
        return FailureClass.INFRASTRUCTURE, LOOK_AT_MACHINE
    return FailureClass.BUG, DEFECT


_BY_WORDS = (
    (OUT_OF_MEMORY_WORDS, FailureClass.OUT_OF_MEMORY, FEWER_AT_ONCE),
    (UNSUPPORTED_WORDS, FailureClass.SPEC, OTHER_DEVICE),
    (MISUSED_WORDS, FailureClass.BUG, DEFECT_ON_DEVICE),
    (LOST_WORDS, FailureClass.INFRASTRUCTURE, LOOK_AT_MACHINE),
)
"""Checked in this order: a message may contain phrases of a later line too."""


def _class_of_words(text: str) -> tuple[FailureClass, str]:
    """Return class and hint of a RuntimeError, by the messages of torch, CUDA and its libraries."""
    for words, failure_class, hint in _BY_WORDS:
        if any(word in text for word in words):
            return failure_class, hint
    return FailureClass.BUG, DEFECT
