"""Starting and killing the limited process that checks untrusted files (`check_process.py`)."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import IO

from pydantic import BaseModel

from gkd_core.process.interpreter import on_safe_path, python
from gkd_core.run_dir import PARENT

LONGEST_ANSWER = 32 * 1024**2
"""Maximum size of an answer, in bytes. A report names at most a hundred items of everything."""
_GIVEN = ("PATH", "PYTHONPATH", "LD_LIBRARY_PATH", "LANG", "LC_ALL", "TZ", "TMPDIR")
"""Environment variables that such a process may see; others hold passwords."""
_POLL_SECONDS = 0.1
_SHORTEST_POLL_SECONDS = 0.01


@contextmanager
def started(
    command: Sequence[str], request: BaseModel, output: IO[bytes], errors: IO[bytes]
) -> Iterator[subprocess.Popen[bytes]]:
    """Start a process and send its request; at the end kill it and all its children.

    Args:
        command: Arguments for Python.
        request: Sent on stdin; it contains no secret.
        output: File for stdout, the answer.
        errors: File for stderr.
    """
    own = {name: os.environ[name] for name in _GIVEN if name in os.environ}
    process = subprocess.Popen(
        python(*command),
        stdin=subprocess.PIPE,
        stdout=output,
        stderr=errors,
        # Every thread takes memory.
        env=on_safe_path({**own, "OMP_NUM_THREADS": "1", PARENT: str(os.getpid())}),
        start_new_session=True,
    )
    try:
        assert process.stdin is not None
        with process.stdin as pipe:
            pipe.write(request.model_dump_json().encode())
        yield process
    finally:
        if process.poll() is None:
            killed(process, "")


def ended(
    process: subprocess.Popen[bytes], seconds: float, why_now: Callable[[], str | None] = lambda: None
) -> str | None:
    """Wait for a process to exit, or kill it.

    Args:
        process: Of `started`.
        seconds: Timeout.
        why_now: Returns the reason to kill it now; None: there is none.

    Returns:
        Why it was killed; None if it exited by itself.
    """
    begun, pause = time.monotonic(), _SHORTEST_POLL_SECONDS
    while process.poll() is None:
        why = why_now()
        if why is None and time.monotonic() - begun > seconds:
            why = f"it took longer than {seconds:g} s"
        if why is not None:
            return killed(process, why)
        time.sleep(pause)
        pause = min(_POLL_SECONDS, 2 * pause)
    return None


def killed(process: subprocess.Popen[bytes], why: str) -> str:
    """Kill a process and all its children, and return the reason that was passed."""
    os.killpg(process.pid, signal.SIGKILL)  # not reaped yet, so the process group is its own
    process.wait()
    return why


def broke_off(code: int, seconds: float) -> str | None:
    """Return why an exit code means that there is no answer; None if there is one."""
    if code == -signal.SIGXCPU:
        return f"it took more than {seconds:g} s of computing"
    if code < 0:
        return f"looking into it broke off (signal {-code})"
    return f"looking into it broke off (exit code {code})" if code else None


def answer_in(output: IO[bytes]) -> bytes:
    """Return the answer of a process."""
    output.seek(0)
    return output.read(LONGEST_ANSWER + 1)


def end_of(errors: IO[bytes]) -> bytes:
    """Return the end of its stderr; it quotes untrusted input, so it is only logged, escaped."""
    errors.seek(0)
    return errors.read(LONGEST_ANSWER)[-2000:]
