"""What the end of an engine means: an exit code becomes a failure, or none, and running out of memory a second try.

Pure but for one function that reads the end of a log.
"""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

from gkd_core.errors import Failure, FailureClass
from gkd_core.run_dir import COMPLETE, FAILED, STOPPED
from jobs.job import Job

LOG_TAIL_BYTES = 8000
"""How much of log.txt stays with a failed job: room for a long traceback."""


def failure_of_exit(code: int, word: Failure | None, *, asked_to_stop: bool) -> Failure | None:
    """Why an engine ended; None when it is complete, or was ended by us.

    Args:
        code: Its exit code; negative: the signal that ended it.
        word: What it left in failure.json.
        asked_to_stop: Whether we wanted it to end, however it did.
    """
    if code == FAILED:
        return word or infrastructure("the engine could not start; the end of its log says why")
    if code == COMPLETE or asked_to_stop:
        return None
    if code == STOPPED:
        return infrastructure("the engine was stopped, though not by its worker")
    return infrastructure(f"the engine was ended by {_name_of(code)}")


def infrastructure(message: str) -> Failure:
    """A failure that is tried again."""
    hint = "Look at the end of the job's log and at the machine: memory, disk, device."
    return Failure(failure_class=FailureClass.INFRASTRUCTURE, message=message, hint=hint)


def halve_micro_batch(job: Job) -> dict[str, Any] | None:
    """The job's config with at most half as many pictures in a micro-batch, and the same batch.

    None when that was done before (the config then differs from the spec), or when it cannot be done.
    """
    train = job.resolved["train"]
    batch_size, accumulate = train["batch_size"], train["accumulate"]
    if accumulate > job.spec.get("train", {}).get("accumulate", 1):
        return None
    for more in range(2 * accumulate, batch_size + 1):
        if batch_size % more == 0:
            return {**job.resolved, "train": {**train, "accumulate": more}}
    return None


def log_tail(path: Path) -> str:
    """The end of a log, "" when there is none."""
    if not path.exists():
        return ""
    with path.open("rb") as file:
        file.seek(max(0, file.seek(0, os.SEEK_END) - LOG_TAIL_BYTES))
        return file.read().decode(errors="replace").replace("\0", "")  # PostgreSQL refuses NUL in text


def _name_of(code: int) -> str:
    try:
        return signal.Signals(-code).name
    except ValueError:
        return f"exit code {code}"
