"""Starting the process that looks into what strangers named or sent (`check_process.py`), and ending it for sure."""

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
"""Bytes. A report names a hundred items of everything at most."""
_GIVEN = ("PATH", "PYTHONPATH", "LD_LIBRARY_PATH", "LANG", "LC_ALL", "TZ", "TMPDIR")
"""Variables that such a process may see; others hold passwords."""
_POLL_SECONDS = 0.1
_SHORTEST_POLL_SECONDS = 0.01


@contextmanager
def started(
    command: Sequence[str], request: BaseModel, output: IO[bytes], errors: IO[bytes]
) -> Iterator[subprocess.Popen[bytes]]:
    """The process, its request sent; it and all that it started are gone at the end.

    Args:
        command: What Python is to run.
        request: What it reads on its input; it holds no secret.
        output: Where its answer goes.
        errors: Where the rest goes.
    """
    own = {name: os.environ[name] for name in _GIVEN if name in os.environ}
    process = subprocess.Popen(
        python(*command),
        stdin=subprocess.PIPE,
        stdout=output,
        stderr=errors,
        # Each thread takes of the memory.
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
    """Wait for the end of a process; why it was ended, where it was.

    Args:
        process: Of `started`.
        seconds: How long it may take.
        why_now: Says why it is to be ended now; None: it is not.
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
    """End a process and all that it started; the reason again."""
    os.killpg(process.pid, signal.SIGKILL)  # not reaped yet, so the group is its own
    process.wait()
    return why


def broke_off(code: int, seconds: float) -> str | None:
    """Why there is no answer, by an exit code; None where there is one."""
    if code == -signal.SIGXCPU:
        return f"it took more than {seconds:g} s of computing"
    if code < 0:
        return f"looking into it broke off (signal {-code})"
    return f"looking into it broke off (exit code {code})" if code else None


def answer_in(output: IO[bytes]) -> bytes:
    """What a process answered."""
    output.seek(0)
    return output.read(LONGEST_ANSWER + 1)


def end_of(errors: IO[bytes]) -> bytes:
    """Its last words; they name what strangers sent, so they are only logged, and quoted."""
    errors.seek(0)
    return errors.read(LONGEST_ANSWER)[-2000:]
