"""Detection of edited annotations: since a job was submitted (a warning), or since its training began (an error).

A training cannot be resumed with other annotations, and a user who edits them usually does not mean to change a
run in progress.
"""

from __future__ import annotations

from gkd_core.config import AnyRun, DataConfig
from gkd_core.errors import DataError, Problem
from gkd_core.events import Warning
from gkd_core.run_dir import RunDir
from jobs.paths.fingerprint import of_annotations


def fingerprint_now(config: AnyRun) -> str | None:
    """Return the current fingerprint of the annotations.

    Args:
        config: With local paths.

    Returns:
        None if the config has no fingerprint to compare with, or if files are missing, which the engine
        reports.
    """
    if config.data_fingerprint is None:
        return None
    try:
        return of_annotations(config.data)
    except FileNotFoundError:
        return None


def began_with(run_dir: RunDir) -> str | None:
    """Return the fingerprint with which a run began; None if it has not, or had none."""
    if not (run_dir.has_begun() and run_dir.config.exists()):
        return None
    return run_dir.read_config().data_fingerprint


def compare(config: AnyRun, now: str | None, run_dir: RunDir) -> tuple[AnyRun, Warning | None]:
    """Compare the annotations with those of the run so far, or of the submission.

    Args:
        config: The engine's config.
        now: Of `fingerprint_now`.
        run_dir: The run directory, not yet prepared for this attempt.

    Returns:
        The config with the current fingerprint, and a warning to log before the first step, if any.

    Raises:
        DataError: The run began with other annotations.
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
