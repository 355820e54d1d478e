"""Exit codes of the engine: each becomes a failure or none, and out of memory a retry with smaller batches.

All functions are pure except `log_tail`.
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
"""Default batch size of the job kinds that do not train."""

LOG_TAIL_BYTES = 8000
"""Bytes of log.txt that are kept with a failed job: enough for a long traceback."""


def failure_of_exit(code: int, word: Failure | None, *, asked_to_stop: bool) -> Failure | None:
    """Return why an engine failed; None if it is complete, or was stopped by the worker.

    Args:
        code: Its exit code; negative: the signal that ended it.
        word: The failure in failure.json, if any.
        asked_to_stop: Whether the worker asked it to stop.
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
    """Return a failure that is retried."""
    return Failure(failure_class=FailureClass.INFRASTRUCTURE, message=message, hint=hint)


def halve_micro_batch(job: Job) -> dict[str, Any] | None:
    """Return the job's config with at most half the micro-batch; if it trains, the batch size stays the same.

    None if that was done before (the config then differs from the spec), or if it cannot be halved.
    """
    if "train" not in job.resolved:
        return _halve_batch(job)
    train = job.resolved["train"]
    batch_size, accumulate = train["batch_size"], train["accumulate"]
    processes = job.resolved.get("processes", 1)
    if accumulate > job.spec.get("train", {}).get("accumulate", 1):
        return None
    for more in range(2 * accumulate, batch_size + 1):
        if batch_size % (more * processes) == 0:  # every process gets equally many
            return {**job.resolved, "train": {**train, "accumulate": more}}
    return None


def _halve_batch(job: Job) -> dict[str, Any] | None:
    """Return the config of a job that does not train with half its batch size; None if that was done before."""
    config = job.resolved.get(job.kind, {})  # the config's section has the name of the kind
    size, wanted = config.get("batch_size", 1), job.spec.get(job.kind, {}).get("batch_size", BATCH_SIZE)
    if size < 2 or size < wanted:
        return None
    return {**job.resolved, job.kind: {**config, "batch_size": size // 2}}


def pictures_at_a_time(config: Mapping[str, Any], kind: str) -> int:
    """Return the number of pictures that are on the device at once."""
    if train := config.get("train"):
        return int(train["batch_size"] // train["accumulate"])
    return int(config[kind]["batch_size"])


def log_tail(path: Path) -> str:
    """Return the end of a log, "" if there is none."""
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
