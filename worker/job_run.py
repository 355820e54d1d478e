"""One attempt at one job, from the claim to the job's next state, in chronological order.

Everything here is done under a ticket. If the store says that the ticket is stale, another worker has the job:
the engine is killed, and nothing is written or published any more.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from gkd_core.config import AnyRun, run_config
from gkd_core.errors import Failure, FailureClass, GkdError
from gkd_core.process.named_files import environment_of
from gkd_core.run_dir import COMPLETE, STOPPED, RunDir
from jobs.artifacts.base import Artifacts
from jobs.errors import (
    ArtifactsRefused,
    ArtifactsUnavailable,
    JobsError,
    OperationCancelled,
    StaleTicket,
    StoreUnavailable,
    UnknownJob,
)
from jobs.job import Desired, State, Ticket
from jobs.paths.annotation_changes import began_with, compare, fingerprint_now
from jobs.registry.dataset_cache import DatasetCache
from jobs.settings import Settings
from jobs.store.store import Claim, Store
from worker.data import find_data, must_lie_under, named_weights
from worker.disk_space import DiskSpace
from worker.engine import Engine
from worker.event_recorder import AWAY_SECONDS, EventRecorder
from worker.exit_codes import (
    failure_of_exit,
    halve_micro_batch,
    infrastructure,
    log_tail,
    pictures_at_a_time,
)
from worker.gpus import ORDER, VISIBLE
from worker.lease import Lease
from worker.stop_request import POLL_SECONDS, StopRequest
from worker.weights import find_weights

log = logging.getLogger(__name__)

T = TypeVar("T")
Notified = tuple[str, ...]
"""Jobs of which workers are to be notified now."""


@dataclass(frozen=True)
class Workplace:
    """The resources of a worker that its jobs use."""

    store: Store
    """The job store."""
    artifacts: Artifacts
    """Where files are published."""
    dataset_cache: DatasetCache
    """Where uploaded data sets are unpacked."""
    settings: Settings
    """Folders and timeouts."""
    gpus: Sequence[str]
    """GPUs of the engines, as in `CUDA_VISIBLE_DEVICES`; each engine gets as many as its job asked for."""
    disk_space: DiskSpace
    """The folders that jobs write to."""
    stopping: threading.Event
    """Set when the worker shuts down: engines stop after a checkpoint, and their jobs are requeued."""


class JobRun:
    """One attempt at one job.

    Args:
        place: The resources of the worker.
        claim: The job, and the right to write about it.
    """

    def __init__(self, place: Workplace, claim: Claim) -> None:
        self._place = place
        self._store = place.store
        self._settings = place.settings
        self._ticket = claim.ticket
        self._job = claim.job
        self._dir = RunDir(self._settings.runs / claim.job.id)
        self._disk_checked_at = time.monotonic()
        self._lease = Lease(
            self._store,
            claim.ticket,
            renew_seconds=self._settings.renew_seconds,
            lease_seconds=self._settings.lease_seconds,
        )
        self._stop = StopRequest(self._lease, place.stopping, self._settings.stop_seconds)
        self._recorder = EventRecorder(
            place.store, place.artifacts, self._lease, self._stop, self._dir, claim.offset
        )

    def carry_out(self) -> Notified:
        """Run the attempt, and return the jobs of which workers are to be notified."""
        with self._lease:
            try:
                return self._attempt()
            except StaleTicket as error:
                log.warning("%s; nothing more is written", error)
            except StoreUnavailable as error:
                log.error("job %s: %s; a sweep will take the job back", self._job.id, error)
        return ()

    def _attempt(self) -> Notified:
        try:
            with self._start() as engine:
                code = self._follow(engine)
        except (
            ArtifactsUnavailable,
            ArtifactsRefused,
            OperationCancelled,
        ) as error:  # before the engine was started
            self._stop.refused = error if isinstance(error, ArtifactsRefused) else None
            return self._conclude(STOPPED)
        except JobsError:
            raise
        except GkdError as error:
            return self._fail(error.failure())
        except OSError as error:  # a disk of this machine; another worker may succeed
            failure = infrastructure(f"the worker met {error!r}")
            return () if self._pause_for_room() else self._requeue(failure.message, failure=failure)
        except Exception as error:
            log.exception("job %s", self._job.id)
            return self._fail(Failure(failure_class=FailureClass.BUG, message=f"the worker met {error!r}"))
        return self._conclude(code)

    # ---- start -------------------------------------------------------------------------------------------

    def _start(self) -> Engine:
        resolved = run_config.validate_python(self._job.resolved)
        self._stop.unless_wanted(lambda _: must_lie_under(self._settings.data_roots, resolved))
        config = self._find_files(resolved)
        self._insist(
            self._store.commands.renew
        )  # a last check: the directory may belong to another attempt by now
        now = self._stop.unless_wanted(lambda _: fingerprint_now(config))
        self._resume_retried_job(now)
        config, warning = compare(config, now, self._dir)
        self._dir.prepare(config, self._ticket.attempt)
        if warning:
            self._dir.append_event(warning)
        # Fewer bytes than were recorded: this is another disk, or one that lost its last writes.
        self._recorder.offset = min(self._recorder.offset, self._dir.size_of_events())
        engine = Engine.start(
            self._dir,
            self._ticket.attempt,
            device=config.device,
            env=self._own_gpus() | environment_of(self._readable(resolved, config)),
            stop_seconds=self._settings.stop_seconds,
        )
        self._lease.guard(engine)
        return engine

    def _readable(self, resolved: AnyRun, config: AnyRun) -> list[Path]:
        """Return the paths that the engine may open, even if one of them is replaced by a link."""
        fetched = {*named_weights(config)} - {*named_weights(resolved)}
        ours = [self._place.dataset_cache.root, self._dir.path, *(Path(weights) for _, weights in fetched)]
        return [*self._settings.data_roots, *ours]

    def _find_files(self, config: AnyRun) -> AnyRun:
        """Return the config with files for everything that it names by id.

        Wait while published files cannot be reached.
        """
        while True:
            try:
                return self._stop.unless_wanted(partial(self._with_files, config))
            except ArtifactsUnavailable as error:
                log.warning("job %s: %s; trying again", self._job.id, error)
                if self._stop.is_wanted:
                    raise
            time.sleep(AWAY_SECONDS)

    def _with_files(self, config: AnyRun, cancelled: threading.Event) -> AnyRun:
        store, place = self._store, self._place
        found = self._insist(
            lambda _: find_weights(config, store, place.artifacts, self._dir.fetched, cancelled)
        )
        return self._insist(lambda _: find_data(found, store, place.dataset_cache, cancelled))

    def _resume_retried_job(self, annotations: str | None) -> None:
        """Take over the checkpoints of the retried job, if its config and annotations are the same."""
        if self._job.retry_of is None or self._recorder.offset:
            return
        try:
            before = self._insist(lambda _: self._store.reading.get(str(self._job.retry_of)))
            theirs = RunDir(self._settings.runs / before.id)
            if before.resolved == self._job.resolved and began_with(theirs) in (None, annotations):
                self._recorder.offset = self._dir.take_states(theirs)
        except UnknownJob:
            log.info("job %s starts anew: job %s was deleted", self._job.id, self._job.retry_of)
        except FileNotFoundError as error:  # removed by tidying at this moment, or never on this disk
            log.info("job %s starts anew: %s", self._job.id, error)

    def _own_gpus(self) -> dict[str, str]:
        """Return the environment in which the engine sees as many of this worker's GPUs as its job asked for."""
        wanted = self._job.spec.get("resources", {}).get("gpus", 0)
        mine = self._place.gpus[:wanted]
        return {VISIBLE: ",".join(mine), ORDER: "PCI_BUS_ID"} if mine else {}

    # ---- follow ------------------------------------------------------------------------------------------

    def _follow(self, engine: Engine) -> int:
        """Record events in the store until the engine has ended, and return its exit code."""
        while True:
            code = engine.poll()  # polled first: what was written before the end is read below
            recorded = self._recorder.record_news(engine)
            if code is not None and recorded:
                return code
            self._check_disk_space()
            if self._stop.is_wanted:
                if code is not None:
                    return STOPPED  # whatever it was: the rest of its events is for another attempt
                self._stop.end(engine)
            time.sleep(POLL_SECONDS)

    def _check_disk_space(self) -> None:
        """Check the free disk space at intervals, while there still is space for a last checkpoint.

        See `disk_space.py`.
        """
        if self._stop.shortage or time.monotonic() < self._disk_checked_at + self._settings.renew_seconds:
            return
        self._disk_checked_at = time.monotonic()
        self._stop.shortage = self._place.disk_space.shortage(self._dir)
        if self._stop.shortage:
            log.warning("job %s is being paused: %s", self._job.id, self._stop.shortage)

    # ---- end ---------------------------------------------------------------------------------------------

    def _conclude(self, code: int) -> Notified:
        """Move the job to the state that follows from an exit code."""
        failure = self._failure(code)
        log.info(
            "the engine ended with exit code %d: %s", code, failure.message if failure else "nothing is wrong"
        )
        if self._lease.lost:
            return self._requeue("the worker lost touch with the database")
        if code == COMPLETE and failure is None:
            return self._insist(self._store.commands.succeed)
        if self._lease.desired is Desired.CANCEL:
            return self._insist(self._store.commands.cancel) or ()
        if failure is not None and failure.failure_class is FailureClass.OUT_OF_MEMORY:
            return self._with_smaller_batches(failure)
        if failure is not None and failure.failure_class is not FailureClass.INFRASTRUCTURE:
            return self._fail(failure)
        if self._lease.desired is Desired.PAUSE:
            return self._insist(self._store.commands.pause)
        if self._pause_for_room(looked=failure is None):
            return ()
        if failure is not None:
            return self._requeue(failure.message, failure=failure)
        if self._place.stopping.is_set():
            return self._requeue("the worker is shutting down")
        return self._requeue("what its engine was stopped for has passed")

    def _pause_for_room(self, *, looked: bool = False) -> bool:
        """Pause the job if there is too little disk space. Return whether it was paused.

        A sweep lets it continue.
        """
        shortage = (
            self._stop.shortage
            if looked
            else self._stop.shortage or self._place.disk_space.shortage(self._dir)
        )
        if shortage is None:
            return False
        self._insist(
            partial(self._store.commands.pause, reason=f"paused: {shortage}", needs_free=shortage.needs_free)
        )
        return True

    def _failure(self, code: int) -> Failure | None:
        if code == COMPLETE and self._recorder.unpublished:
            return infrastructure(
                f"not the files that the engine announced: {', '.join(self._recorder.unpublished)}"
            )
        if (
            code == COMPLETE
            and self._recorder.met_unreadable
            and self._insist(lambda _: self._store.reading.report(self._job.id)) is None
        ):
            return infrastructure("the engine's report is in a line of its events that cannot be read")
        if self._stop.refused:
            return infrastructure(self._stop.refused.message, self._stop.refused.hint)
        asked_to_stop = self._stop.was_asked or self._stop.is_wanted
        return failure_of_exit(code, self._dir.read_failure(), asked_to_stop=asked_to_stop)

    def _with_smaller_batches(self, failure: Failure) -> Notified:
        smaller = halve_micro_batch(self._job)
        if smaller is None:
            return self._fail(failure)
        size = pictures_at_a_time(smaller, self._job.kind)
        return self._requeue(f"out of memory; again with micro-batches of {size}", config=smaller)

    def _requeue(
        self, reason: str, *, failure: Failure | None = None, config: dict[str, Any] | None = None
    ) -> Notified:
        tail = log_tail(self._dir.log)
        requeue = partial(
            self._store.commands.requeue, reason=reason, failure=failure, config=config, log_tail=tail
        )
        state = self._insist(requeue)
        return (self._job.id,) if state is State.QUEUED else ()

    def _fail(self, failure: Failure) -> Notified:
        return self._insist(
            lambda ticket: self._store.commands.fail(ticket, failure, log_tail(self._dir.log))
        )

    def _insist(self, verb: Callable[[Ticket], T]) -> T:
        return self._lease.insist(lambda: verb(self._ticket))
