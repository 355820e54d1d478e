"""Frees disk space: checkpoints and run directories of ended jobs, and published files that no job names.

Every worker tidies at intervals, so it must be safe for several to do so at once in the same folders. The store
says what is still needed; files that it does not know stay.
"""

from __future__ import annotations

import logging
import shutil
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import NamedTuple

from gkd_core.errors import FailureClass
from gkd_core.run_dir import RunDir
from jobs.artifacts.base import Artifacts
from jobs.errors import JobsError, UnknownJob
from jobs.job import END_STATES, Job
from jobs.store.store import Store

log = logging.getLogger(__name__)

TIDY_SECONDS = 600.0
"""Interval of tidying."""
DAY_SECONDS = 86_400.0
UNNAMED_SECONDS = 3600.0
"""Minimum age of a file without a job before it is removed. There are seconds between storing a file and its
row in the store."""

_AT_ONCE = 500
"""Number of folders that are looked up in one query."""


class Keep(NamedTuple):
    """Retention of checkpoints and run directories; see `GKD_KEEP_STATES` and `GKD_KEEP_RUNS_DAYS`."""

    states: str | float = "ended"
    runs_days: float | None = None


AS_LONG_AS_USEFUL = Keep()


def tidy_runs(store: Store, runs: Path, keep: Keep = AS_LONG_AS_USEFUL) -> None:
    """Remove parts of run directories that are no longer needed.

    Args:
        store: Says what is needed.
        runs: Folder of the run directories.
        keep: The retention.

    Raises:
        StoreUnavailable: The database does not answer; the next call does the rest.
        OSError: The disk fails, or a file may not be removed.
    """
    for path in runs.glob("*/"):
        if RunDir(path).has_states():
            drop_states(store, runs, path.name, keep)
    drop_deleted(store, runs)
    if keep.runs_days is not None:
        drop_runs(store, runs, keep.runs_days)


def drop_states(store: Store, runs: Path, job_id: str, keep: Keep = AS_LONG_AS_USEFUL) -> None:
    """Remove the checkpoints of a job that no attempt or retry can resume. Events, log, report and models stay.

    Raises:
        StoreUnavailable: The database does not answer.
        OSError: The disk fails.
    """
    try:
        job = store.reading.get(job_id)
    except UnknownJob:  # the folder of another database, or of a user
        return
    if _is_over(job, keep.states) and not store.recovery.is_being_retried(job_id):
        RunDir(runs / job_id).drop_states()


def drop_deleted(store: Store, runs: Path) -> None:
    """Remove the run directories of deleted jobs.

    Folders of another database's jobs, or of a user, are not among them: the store remembers which jobs it had.

    Raises:
        StoreUnavailable: The database does not answer.
    """
    names = [path.name for path in runs.glob("*/")]
    for first in range(0, len(names), _AT_ONCE):
        for job_id in store.recovery.deleted(names[first : first + _AT_ONCE]):
            shutil.rmtree(
                runs / job_id, ignore_errors=True
            )  # what is still being written is removed next time


def drop_runs(store: Store, runs: Path, days: float) -> None:
    """Remove the run directories of jobs that ended more than `days` ago. Published files are stored elsewhere.

    Raises:
        StoreUnavailable: The database does not answer.
        OSError: The disk fails.
    """
    for job_id in store.recovery.ended(days * DAY_SECONDS):
        path = runs / job_id
        if path.is_dir() and not store.recovery.is_being_retried(job_id):
            shutil.rmtree(path, ignore_errors=True)  # others may do the same; what stays is removed next time


def drop_states_if_possible(store: Store, runs: Path, job_id: str, keep: Keep = AS_LONG_AS_USEFUL) -> None:
    """Call `drop_states`; log an error and leave the rest to the next `tidy`."""
    try:
        drop_states(store, runs, job_id, keep)
    except (JobsError, OSError) as error:
        log.warning("cannot remove the resume states of job %s yet: %s", job_id, error)


def remove_unnamed(store: Store, artifacts: Artifacts) -> None:
    """Remove published files that no job has named for long. The order of the statements makes it safe.

    They may be many, and all workers share them: one worker tidies them for all.

    A publisher stores the file first, which renews its age, and names it in the store then. So a file that was
    old before the names were read, and is not among them, is not in use.
    """
    if not artifacts.belongs_to(store.reading.origin()):
        log.warning("nothing is removed from %s: another database names its files", artifacts.place)
        return
    artifacts.clear_remains(UNNAMED_SECONDS)
    old = artifacts.older_than(UNNAMED_SECONDS)
    for sha256 in old - store.recovery.published():
        artifacts.remove(sha256, UNNAMED_SECONDS)


def _is_over(job: Job, keep: str | float) -> bool:
    """Return whether the policy allows removing the job's checkpoints.

    A job that failed because of its machine may be retried.
    """
    if job.state not in END_STATES or job.finished_at is None:
        return False
    if isinstance(keep, float | int):
        return datetime.now(UTC) - job.finished_at > timedelta(days=keep)
    failed_by_machine = job.failure is not None and job.failure.failure_class is FailureClass.INFRASTRUCTURE
    return keep == "never" or not failed_by_machine
