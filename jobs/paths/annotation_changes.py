"""Whether annotations were edited since a job was submitted (told before its first step) or began (it cannot go on).

What was learnt from some annotations cannot be gone on with on others, and a person who edits them mostly does not mean
to change a run that is under way.
"""

from __future__ import annotations

from gkd_core.config import AnyRun, DataConfig
from gkd_core.errors import DataError, Problem
from gkd_core.events import Warning
from gkd_core.run_dir import RunDir
from jobs.paths.fingerprint import of_annotations


def fingerprint_now(config: AnyRun) -> str | None:
    """What the annotations are now; None where nobody asked for it, or they are not there, which the engine tells.

    Args:
        config: With files of this machine.
    """
    if config.data_fingerprint is None:
        return None
    try:
        return of_annotations(config.data)
    except FileNotFoundError:
        return None


def began_with(run_dir: RunDir) -> str | None:
    """The annotations with which a run began; None where it has not, or nobody looked."""
    if not (run_dir.has_begun() and run_dir.config.exists()):
        return None
    return run_dir.read_config().data_fingerprint


def compare(config: AnyRun, now: str | None, run_dir: RunDir) -> tuple[AnyRun, Warning | None]:
    """Compare the annotations with those of the run so far, or of the submission.

    Args:
        config: What is to be done.
        now: Of `fingerprint_now`.
        run_dir: Of the run, not yet prepared for this attempt.

    Returns:
        The config with the annotations that the run is carried out with, and what to say before its first step.

    Raises:
        DataError: The run has begun with others.
    """
    if now is None:
        return config, None
    began = began_with(run_dir)
    if began not in (None, now):
        message = f"the annotations changed since this run began, which cannot go on with others: {_named(config.data)}"
        hint = "Put them back as they were and retry, or submit the job again, which starts anew."
        raise DataError([Problem(loc=("data",), message=message, hint=hint)])
    warning = None
    if began is None and now != config.data_fingerprint:
        message = f"the annotations changed since the job was submitted: {_named(config.data)}"
        warning = Warning(message=message, hint="It is carried out with what is there now.")
    return config.model_copy(update={"data_fingerprint": now}), warning


def _named(data: DataConfig) -> str:
    return ", ".join(dict.fromkeys(split.annotations for split in data.splits.values()))
