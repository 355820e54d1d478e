"""Starts an engine of several processes, one for each GPU, and combines their exit codes into one. No training here.

`python -m gkd_core.train RUN_DIR` uses it when the config has several processes; its caller, the worker or a person,
sees one process with one exit code, as always. The processes are started, monitored and ended by the part of torchrun
that does this (`torch.distributed.elastic.multiprocessing`); docs/decisions/0057 says why not by the whole of it.
They are killed when this process ends, and it is killed when its worker ends.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from pydantic import ValidationError

from gkd_core.errors import Failure, FailureClass
from gkd_core.process.engine import Run, die_with_parent, follow_run, serve_run
from gkd_core.process.interpreter import on_safe_path, python
from gkd_core.run_dir import COMPLETE, FAILED, LAUNCHED, PARENT, STOPPED, Control, RunDir

RENDEZVOUS = "GKD_RENDEZVOUS"
"""Environment variable of the processes: the file through which they connect (rendezvous)."""

ENGINE = ("-m", "gkd_core.train")

POLL_SECONDS = 0.1
"""Interval at which the processes are polled."""


def serve(run_dir: RunDir, attempt: int, run: Run, command: Sequence[str] = ENGINE) -> int:
    """Carry out the run of a directory in as many processes as its config wants; one of them is this.

    Args:
        run_dir: A directory that `RunDir.prepare` made ready for this attempt.
        attempt: Which attempt this process is.
        run: The work itself.
        command: Arguments of Python that start more processes like this one; gets `RUN_DIR --attempt N` appended.

    Returns:
        The exit code, as `gkd_core.run_dir` lists them.
    """
    launched = LAUNCHED in os.environ
    processes = 1 if launched else _processes(run_dir)
    if processes > 1:
        return launch(run_dir, attempt, processes, command)
    if launched and os.environ.get("RANK", "0") != "0":
        return follow_run(run_dir, run)
    return serve_run(run_dir, attempt, run)


def _processes(run_dir: RunDir) -> int:
    try:
        return getattr(run_dir.read_config(), "processes", 1)
    except (OSError, ValidationError):  # the engine itself reports what is wrong
        return 1


def launch(run_dir: RunDir, attempt: int, processes: int, command: Sequence[str]) -> int:
    """Start the processes and wait for their end.

    It handles signals, so it must run in the main thread.

    Returns:
        The exit code, as `gkd_core.run_dir` lists them.
    """
    from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs, start_processes

    die_with_parent()
    run_dir.failure.unlink(missing_ok=True)  # only the first process that fails writes it
    logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)  # `conclude` reports the ends
    program, *line = python(*command, str(run_dir.path), "--attempt", str(attempt))
    with _ended_by_signals(), tempfile.TemporaryDirectory(prefix="gkd-") as folder:
        environment = _environment(processes, Path(folder) / "rendezvous")
        context = start_processes(
            name="gkd",
            entrypoint=program,
            args=dict.fromkeys(range(processes), tuple(line)),
            envs={rank: {**environment, **_rank_environment(rank)} for rank in range(processes)},
            logs_specs=DefaultLogsSpecs(folder),
        )
        _handle_signals(run_dir, attempt)
        try:
            result = context.wait(period=POLL_SECONDS)
        finally:
            context.close(signal.SIGKILL)
    assert result is not None  # without a timeout it waits for the end
    return conclude(run_dir, {rank: failure.exitcode for rank, failure in result.failures.items()}, processes)


def conclude(run_dir: RunDir, ended: Mapping[int, int], processes: int) -> int:
    """Combine the exit codes of processes into one, and write a failure for one that was killed.

    Args:
        run_dir: where failure.json is, or will be.
        ended: by rank, exit codes other than 0; negative: the signal. Those that this process ended have SIGTERM.
        processes: how many there were.
    """
    if not ended:
        return COMPLETE
    if ended.get(0) == STOPPED:
        return STOPPED
    killed = {rank: -code for rank, code in ended.items() if code < 0 and code != -signal.SIGTERM}
    word = run_dir.read_failure()
    if word is None or (killed and word.failure_class is FailureClass.INFRASTRUCTURE):
        run_dir.write_failure(_failure(killed, ended, processes))
    return FAILED


def _failure(killed: Mapping[int, int], ended: Mapping[int, int], processes: int) -> Failure:
    """Return the failure of a process that was killed, or of unexplained exit codes.

    The others failed only because a connection closed.
    """
    if killed:
        rank, number = next(iter(killed.items()))
        message = f"process {rank + 1} of {processes} was ended by {signal.Signals(number).name}"
        hint = "Look at the end of the log and at the machine: memory, disk, device."
    else:
        codes = ", ".join(f"process {rank + 1} with exit code {code}" for rank, code in ended.items())
        message, hint = f"the engine could not start or go on: {codes}", "The end of the log says why."
    return Failure(failure_class=FailureClass.INFRASTRUCTURE, message=message, hint=hint)


# ---- environment of the processes ------------------------------------------------------------------------


def _environment(processes: int, rendezvous: Path) -> dict[str, str]:
    """Return the variables of all processes: rendezvous, parent, a share of the cores, local connections only."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    loopback = "lo" if sys.platform == "linux" else "lo0"
    usual = {
        "OMP_NUM_THREADS": str(max(1, cores // processes)),
        "GLOO_SOCKET_IFNAME": loopback,
        "NCCL_SOCKET_IFNAME": loopback,
    }
    wanted = {name: os.environ.get(name, value) for name, value in usual.items()}
    ours = {RENDEZVOUS: str(rendezvous), LAUNCHED: "gkd", PARENT: str(os.getpid())}
    world = {"WORLD_SIZE": str(processes), "LOCAL_WORLD_SIZE": str(processes)}
    return on_safe_path({**os.environ, **wanted, **ours, **world})


def _rank_environment(rank: int) -> dict[str, str]:
    return {"RANK": str(rank), "LOCAL_RANK": str(rank)}


# ---- signals ---------------------------------------------------------------------------------------------


class _Ended(BaseException):
    """Raised by a signal that ends this process, after its child processes."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


@contextmanager
def _ended_by_signals() -> Iterator[None]:
    """End by the same signal after the block's clean-up, so that a waiting parent sees what ended the process."""
    try:
        yield
    except _Ended as ended:
        signal.signal(ended.number, signal.SIG_DFL)
        os.kill(os.getpid(), ended.number)


def _handle_signals(run_dir: RunDir, attempt: int) -> None:
    """Handle Ctrl-C: the first asks to stop after a checkpoint, the second ends at once, as SIGTERM does."""

    def ask(_number: int, _frame: FrameType | None) -> None:
        signal.signal(signal.SIGINT, _end)
        run_dir.ask(Control(attempt=attempt, wanted="stop"))
        print("stopping after a checkpoint; Ctrl-C again ends at once", file=sys.stderr, flush=True)

    signal.signal(signal.SIGINT, ask)
    for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT):
        signal.signal(number, _end)


def _end(number: int, _frame: FrameType | None) -> None:
    raise _Ended(number)
