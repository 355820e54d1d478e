"""Runs the jobs that a worker is notified of: claims each, runs the attempt, and notifies workers of the next ones.

Celery is not here (`tasks.py`), nor what happens to a job once it is claimed (`job_run.py`).
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Sequence
from concurrent.futures import wait
from functools import partial
from pathlib import Path

from gkd_core.run_dir import RunDir
from jobs.artifacts.base import Artifacts
from jobs.errors import (
    ArtifactsRefused,
    ArtifactsUnavailable,
    JobsError,
    OperationCancelled,
    StoreUnavailable,
)
from jobs.logs import bound
from jobs.queue import JobQueue
from jobs.registry.dataset_cache import DatasetCache
from jobs.settings import Settings
from jobs.store.store import Claim, Store
from jobs.sync.background import run_in_background
from worker.disk_space import DiskSpace
from worker.job_run import JobRun, Workplace
from worker.stop_request import POLL_SECONDS
from worker.tidying import TIDY_SECONDS, Keep, drop_states_if_possible, remove_unnamed, tidy_runs

log = logging.getLogger(__name__)

_STARTING_SECONDS = 5.0
"""Period in which, of all starting workers, one notifies workers of all jobs at the front of the queues."""

_NO_ROOM_SECONDS = 5.0
"""Time for which a worker that cannot start a job takes no other notification, so that two workers do not
requeue to each other; also the interval at which it checks whether it can start one."""


class Runner:
    """Runs jobs, one in each call of `run`.

    Args:
        store: The job store.
        artifacts: Where files are published.
        job_queue: Notified of jobs that can run when one has ended.
        settings: Folders and timeouts.
        worker: The name under which jobs are claimed.
        gpus: GPUs of the engines, as in `CUDA_VISIBLE_DEVICES`; each engine gets as many as its job asked for.
    """

    def __init__(
        self,
        store: Store,
        artifacts: Artifacts,
        job_queue: JobQueue,
        settings: Settings,
        worker: str,
        gpus: Sequence[str] = (),
    ) -> None:
        self.store = store
        self.artifacts = artifacts
        self.settings = settings
        self.dataset_cache = DatasetCache.of(settings, artifacts)
        self.worker = worker
        self.disk_space = DiskSpace(_folders(settings), settings.free_bytes)
        self.stopping = threading.Event()
        self._place = Workplace(
            store, artifacts, self.dataset_cache, settings, gpus, self.disk_space, self.stopping
        )
        self._job_queue = job_queue
        self._swept = False
        self._running: set[str] = set()
        self._changed = threading.Condition()

    def run(self, job_id: str) -> None:
        """Run a job to its end if it can be claimed; otherwise do nothing."""
        self._set_running(
            job_id, running=True
        )  # first of all: from here on a shutdown of this worker waits for the job
        try:
            with bound(worker=self.worker, job=job_id):
                if self.stopping.is_set() or self._held_back(job_id):
                    return
                claim = self.store.commands.claim(job_id, self.worker)
                if claim is not None:
                    self._carry_out(claim)
        except (StoreUnavailable, OperationCancelled) as error:
            log.warning("job %s is not taken: %s; a sweep will notify them again", job_id, error)
        finally:
            self._set_running(job_id, running=False)

    def _carry_out(self, claim: Claim) -> None:
        """Run a claimed job, then notify workers of the next ones and tidy its run directory."""
        job_id = claim.job.id
        with bound(tenant=claim.tenant, attempt=claim.ticket.attempt):
            log.info("the attempt begins")
            self.notify(JobRun(self._place, claim).carry_out())
            log.info("the attempt has ended")
            self._notify_next(job_id)
            drop_states_if_possible(self.store, self.settings.runs, job_id, Keep(self.settings.keep_states))

    def stop_all(self) -> bool:
        """Stop the engines after a checkpoint, requeue their jobs, and claim no others. For a shutdown.

        Returns:
            Whether all had ended within the grace period (twice `stop_seconds`, and a little for the store).
        """
        self.stopping.set()
        with self._changed:
            return self._changed.wait_for(lambda: not self._running, 2 * self.settings.stop_seconds + 5.0)

    def sweep(self) -> None:
        """Take back the jobs of lost workers, and notify workers of queued jobs.

        The first sweep notifies of all jobs at the front of the queues, later ones of those that are due.

        Notifications from before the start of this worker may be lost with their queue. After that one worker
        sweeps for all, whoever is first when it is time; only the free space of its own disk each worker checks
        itself. If a queue holds no notification and jobs wait in it, the notifications were lost with a broker:
        the jobs need not wait until they are due.
        """
        self.store.ping()  # a database that a later release has upgraded must not be swept by the rules of this one
        if not self._swept:
            alone = self.store.recovery.take_turn("first sweep", _STARTING_SECONDS)
            self.notify(self.store.recovery.sweep(only_due=not alone))
        elif self.store.recovery.take_turn("sweep", self.settings.sweep_seconds):
            self.notify(self.store.recovery.sweep(only_due=True, silent=self._job_queue.silent()))
            self.store.metrics.fold_counts()
        self._swept = True
        self._resume_held_back()  # last: the artifacts may answer slowly

    def tidy(self) -> None:
        """Free disk space that is no longer needed, and forget workers that are long gone.

        One worker tidies the artifacts for all: there may be a hundred workers, and a bucket.
        """
        keep = Keep(self.settings.keep_states, self.settings.keep_runs_days)
        for part in (
            self.store.workers.forget_workers,
            partial(tidy_runs, self.store, self.settings.runs, keep),
            partial(self.dataset_cache.tidy, self.store),
            self._tidy_published,
        ):
            try:
                part()
            except (JobsError, OSError) as error:  # the other disks, and S3, are not affected
                log.warning("cannot tidy all of it: %s", error)

    def _tidy_published(self) -> None:
        if self.store.recovery.take_turn("tidy", TIDY_SECONDS):
            remove_unnamed(self.store, self.artifacts)

    def notify(self, job_ids: Sequence[str]) -> None:
        """Notify workers of those of these jobs that are queued, until the broker accepts no notification."""
        try:
            for notification in self.store.recovery.notifications(job_ids) if job_ids else ():
                if not self._job_queue.notify(notification):
                    return  # a broker that hangs takes seconds for each, and there may be hundreds
        except JobsError as error:  # a lost notification costs a delay: the next sweep notifies again
            log.warning("cannot notify workers of jobs %s: %s", ", ".join(job_ids), error)

    def _notify_next(self, job_id: str) -> None:
        """Notify workers of jobs that were held back because their tenant had reached its limit of running jobs."""
        try:
            self.notify(self.store.commands.next_of_tenant(job_id))
        except JobsError as error:
            log.warning("cannot look for the next job of that tenant: %s; a sweep will", error)

    def _held_back(self, job_id: str) -> bool:
        """Return whether this job cannot be started here.

        Workers are notified of it again, as another one may succeed.
        """
        why, needs_free = self._obstacle(RunDir(self.settings.runs / job_id))
        if not why or not self.store.commands.hold_back(job_id, why, needs_free=needs_free):
            return False
        log.warning("job %s is not begun: %s", job_id, why)
        self.notify([job_id])
        self._wait_until_startable()
        return True

    def _wait_until_startable(self) -> None:
        """Take no notification while no job at all could be started here.

        Otherwise every worker would hold back and requeue every job, for hours if S3 is unavailable. So a
        worker does that once, and its other notifications wait in the queue for workers that can start the
        jobs.
        """
        while not self.stopping.wait(_NO_ROOM_SECONDS) and self._obstacle()[0]:
            pass

    def _obstacle(self, run_dir: RunDir | None = None) -> tuple[str, int]:
        """Return why a job (None: any) cannot be started here, "" if it can, and the bytes that must be free first."""
        shortage = self.disk_space.shortage(run_dir)
        if shortage is not None:
            return str(shortage), shortage.needs_free
        try:
            self._ping()
        except (ArtifactsUnavailable, ArtifactsRefused) as error:
            return f"nothing could be published: {error}", 0
        return "", 0

    def _ping(self) -> None:
        """Check that files can be published. A server that does not answer does not delay a shutdown.

        Raises:
            OperationCancelled: This worker shuts down.
        """
        answer = run_in_background(self.artifacts.ping)
        while not wait([answer], POLL_SECONDS).done:
            if self.stopping.is_set():
                raise OperationCancelled
        answer.result()

    def _resume_held_back(self) -> None:
        """Let jobs continue that were held back or paused, if this worker finds that the reason no longer holds."""
        free = self.disk_space.free()
        if self.store.recovery.waits_for_room(free) and not self._obstacle()[0]:
            self.notify(self.store.recovery.make_use_of_room(free))

    def _set_running(self, job_id: str, *, running: bool) -> None:
        with self._changed:
            (self._running.add if running else self._running.discard)(job_id)
            self._changed.notify_all()


def _folders(settings: Settings) -> list[Path]:
    """Return the folders on local disks that jobs write to."""
    published = settings.artifacts_url
    return [settings.runs, *([published] if isinstance(published, Path) else [])]
