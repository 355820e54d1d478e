"""What a worker does with the jobs that it hears of: takes each, has it carried out, and notifies workers of what
comes after it.

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
from worker.job_run import POLL_SECONDS, JobRun, Workplace
from worker.tidying import TIDY_SECONDS, Keep, drop_states_if_possible, remove_unnamed, tidy_runs

log = logging.getLogger(__name__)

_STARTING_SECONDS = 5.0
"""Of a hundred workers that start in this time one notifies of all jobs in front."""

_NO_ROOM_SECONDS = 5.0
"""How long a worker that cannot begin a job takes no other notification, so that two do not chase each other; and how
often it looks whether it can begin one at all."""


class Runner:
    """Runs jobs, one in each call of `run`.

    Args:
        store: Where jobs are.
        artifacts: Where published files go.
        job_queue: Notified of jobs that can go on when one has ended.
        settings: Folders and patience.
        worker: The name under which jobs are claimed.
        gpus: What the engines may use, as `CUDA_VISIBLE_DEVICES` names them; each gets as many as its job asked for.
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
        """Run a job to its end if it is there to be run; for a job that is not, a call does nothing."""
        self._note(job_id, running=True)  # first of all: whoever stops this worker waits for it from here on
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
            self._note(job_id, running=False)

    def _carry_out(self, claim: Claim) -> None:
        """Run a job that is ours, and see to what comes after it."""
        job_id = claim.job.id
        with bound(tenant=claim.tenant, attempt=claim.ticket.attempt):
            log.info("the attempt begins")
            self.notify(JobRun(self._place, claim).carry_out())
            log.info("the attempt has ended")
            self._notify_next(job_id)
            drop_states_if_possible(self.store, self.settings.runs, job_id, Keep(self.settings.keep_states))

    def stop_all(self) -> bool:
        """Stop the engines after a checkpoint, give their jobs back, take no others. For a worker that ends.

        Returns:
            Whether all had ended within the grace time (twice `stop_seconds`, and a little for the store).
        """
        self.stopping.set()
        with self._changed:
            return self._changed.wait_for(lambda: not self._running, 2 * self.settings.stop_seconds + 5.0)

    def sweep(self) -> None:
        """Take back what lost workers held, and notify workers of queued jobs: the first time all in front, then
        those due.

        Notifications from before the start of this worker may be lost with their queue. After that one worker sweeps
        for all, whoever is first when it is time; only what is free on its own disk each sees for itself. Where a
        queue holds no notification and jobs wait in it, they were lost with a broker: their jobs need not wait until
        they are due.
        """
        self.store.ping()  # what a later release has upgraded is not to be swept by the rules of this one
        if not self._swept:
            alone = self.store.recovery.take_turn("first sweep", _STARTING_SECONDS)
            self.notify(self.store.recovery.sweep(only_due=not alone))
        elif self.store.recovery.take_turn("sweep", self.settings.sweep_seconds):
            self.notify(self.store.recovery.sweep(only_due=True, silent=self._job_queue.silent()))
            self.store.metrics.fold_counts()
        self._swept = True
        self._make_use_of_room()  # last: what is published may be slow to say that it is there

    def tidy(self) -> None:
        """Give disk space back that nobody needs any more, and forget workers that are long gone.

        What is published is looked through by one worker for all: there may be a hundred of them, and a bucket.
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
            except (JobsError, OSError) as error:  # the other disks, and S3, are none the worse for it
                log.warning("cannot tidy all of it: %s", error)

    def _tidy_published(self) -> None:
        if self.store.recovery.take_turn("tidy", TIDY_SECONDS):
            remove_unnamed(self.store, self.artifacts)

    def notify(self, job_ids: Sequence[str]) -> None:
        """Notify workers of those of these jobs that are queued, until the broker takes no notification."""
        try:
            for notification in self.store.recovery.notifications(job_ids) if job_ids else ():
                if not self._job_queue.notify(notification):
                    return  # a broker that hangs takes seconds for each, and there may be hundreds
        except JobsError as error:  # a notification that is lost costs a delay: the next sweep notifies again
            log.warning("cannot notify workers of jobs %s: %s", ", ".join(job_ids), error)

    def _notify_next(self, job_id: str) -> None:
        """Notify workers of jobs that were held back because their tenant had its share running."""
        try:
            self.notify(self.store.commands.next_of_tenant(job_id))
        except JobsError as error:
            log.warning("cannot look for the next job of that tenant: %s; a sweep will", error)

    def _held_back(self, job_id: str) -> bool:
        """Whether this job cannot be begun here. Another worker may be better off: workers are notified of it again."""
        why, needs_free = self._obstacle(RunDir(self.settings.runs / job_id))
        if not why or not self.store.commands.hold_back(job_id, why, needs_free=needs_free):
            return False
        log.warning("job %s is not begun: %s", job_id, why)
        self.notify([job_id])
        self._sit_out()
        return True

    def _sit_out(self) -> None:
        """Take no notification while no job at all could be begun here.

        Each would be held back, told of and queued again, by every worker and for hours where S3 is away. So a worker
        does that once, and the others of its notifications wait in the queue for who can do something about them.
        """
        while not self.stopping.wait(_NO_ROOM_SECONDS) and self._obstacle()[0]:
            pass

    def _obstacle(self, run_dir: RunDir | None = None) -> tuple[str, int]:
        """Why a job (None: any) cannot be begun here, "" when it can, and the bytes that must be free before it can."""
        shortage = self.disk_space.shortage(run_dir)
        if shortage is not None:
            return str(shortage), shortage.needs_free
        try:
            self._ping()
        except (ArtifactsUnavailable, ArtifactsRefused) as error:
            return f"nothing could be published: {error}", 0
        return "", 0

    def _ping(self) -> None:
        """Find out whether anything could be published. A server that says nothing keeps no worker that is to end.

        Raises:
            OperationCancelled: This one is to end.
        """
        answer = run_in_background(self.artifacts.ping)
        while not wait([answer], POLL_SECONDS).done:
            if self.stopping.is_set():
                raise OperationCancelled
        answer.result()

    def _make_use_of_room(self) -> None:
        """Let jobs go on that were held back or paused for what is no longer so, as far as one sees from here."""
        free = self.disk_space.free()
        if self.store.recovery.waits_for_room(free) and not self._obstacle()[0]:
            self.notify(self.store.recovery.make_use_of_room(free))

    def _note(self, job_id: str, *, running: bool) -> None:
        with self._changed:
            (self._running.add if running else self._running.discard)(job_id)
            self._changed.notify_all()


def _folders(settings: Settings) -> list[Path]:
    """What jobs fill on this machine's disks."""
    published = settings.artifacts_url
    return [settings.runs, *([published] if isinstance(published, Path) else [])]
