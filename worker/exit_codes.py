"""What the end of an engine means: an exit code becomes a failure, or none, and running out of memory a second try.

Pure but for one function that reads the end of a log.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gkd_core.config import EvaluateConfig
from gkd_core.errors import Failure, FailureClass
from gkd_core.run_dir import COMPLETE, FAILED, STOPPED
from jobs.job import Job

BATCH_SIZE = EvaluateConfig().batch_size
"""Pictures at a time in the kinds that do not train, unless the spec says otherwise."""

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


_LOOK = "Look at the end of the job's log and at the machine: memory, disk, device."


def infrastructure(message: str, hint: str = _LOOK) -> Failure:
    """A failure that is tried again."""
    return Failure(failure_class=FailureClass.INFRASTRUCTURE, message=message, hint=hint)


def halve_micro_batch(job: Job) -> dict[str, Any] | None:
    """The job's config with at most half as many pictures at a time; where it trains, the batch stays the same.

    None when that was done before (the config then differs from the spec), or when it cannot be done.
    """
    if "train" not in job.resolved:
        return _halve_batch(job)
    train = job.resolved["train"]
    batch_size, accumulate = train["batch_size"], train["accumulate"]
    processes = job.resolved.get("processes", 1)
    if accumulate > job.spec.get("train", {}).get("accumulate", 1):
        return None
    for more in range(2 * accumulate, batch_size + 1):
        if batch_size % (more * processes) == 0:  # every process gets as many as the others
            return {**job.resolved, "train": {**train, "accumulate": more}}
    return None


def _halve_batch(job: Job) -> dict[str, Any] | None:
    """Of a job that looks at pictures and trains nothing."""
    config = job.resolved.get(job.kind, {})  # these kinds are called like their part of the config
    size, wanted = config.get("batch_size", 1), job.spec.get(job.kind, {}).get("batch_size", BATCH_SIZE)
    if size < 2 or size < wanted:
        return None
    return {**job.resolved, job.kind: {**config, "batch_size": size // 2}}


def pictures_at_a_time(config: Mapping[str, Any], kind: str) -> int:
    """How many pictures are on the device together."""
    if train := config.get("train"):
        return int(train["batch_size"] // train["accumulate"])
    return int(config[kind]["batch_size"])


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
