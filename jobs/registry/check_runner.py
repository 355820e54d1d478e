"""Runs the checks of registered and uploaded resources, each in a process of its own (`check_process.py`).

Every API process does so in threads. A lease in the store assigns a check to one of them, as for jobs: another
API process takes over what one leaves unfinished. Two concurrent checks of one resource are harmless; their
verdict is the same.
"""

from __future__ import annotations

import logging
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO

from pydantic import ValidationError

from gkd_core.config import DataConfig
from jobs.errors import (
    ArtifactsRefused,
    ArtifactsUnavailable,
    ContentGone,
    JobsError,
    OperationCancelled,
    StoreUnavailable,
    WrongContent,
)
from jobs.logs import carried
from jobs.registry.dataset_cache import DatasetCache
from jobs.resources import CheckedResource, ResourceKind, ResourceState, Verdict
from jobs.settings import Settings
from jobs.store.resources import Check
from jobs.store.store import Store
from jobs.uploads.check_process import Request
from jobs.uploads.incoming import Incoming
from jobs.uploads.limited_process import answer_in, broke_off, end_of, ended, started

log = logging.getLogger(__name__)

THREADS = 2
"""Concurrent checks: a small data set need not wait for a large one."""
LOOK_SECONDS = 15.0
"""Interval at which each thread polls for checks that others left unfinished; those submitted here are
started at once."""
ENDING_SECONDS = 10.0
"""Timeout of a shutdown that waits for checks to stop. One that does not, as in a request to S3 that hangs,
is abandoned: another API process takes it over when its lease expires."""
TIDY_SECONDS = 600.0
COMMAND = ("-m", "jobs.uploads.check_process")
"""Arguments for Python that start the process."""
_RETRY_SECONDS = 1.0


class Checks:
    """Runner of checks, in threads while the context is entered.

    Args:
        store: Where the resources are.
        dataset_cache: Where data sets are unpacked.
        settings: Limits of memory and time.
    """

    def __init__(self, store: Store, dataset_cache: DatasetCache, settings: Settings) -> None:
        self.dataset_cache = dataset_cache
        self._store = store
        self._settings = settings
        self._left = threading.Event()
        self._due = threading.Semaphore(0)
        self._threads: list[threading.Thread] = []
        self._tidied_at = float("-inf")

    def __enter__(self) -> Checks:
        self._threads = [
            threading.Thread(target=self._keep_checking, name="checks", daemon=True) for _ in range(THREADS)
        ]
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._left.set()
        self._due.release(THREADS)
        until = time.monotonic() + ENDING_SECONDS
        for thread in self._threads:
            thread.join(max(0.0, until - time.monotonic()))
        if self.is_alive():
            log.warning("a check does not hear that the service ends; it is left behind")

    def is_alive(self) -> bool:
        """Return whether a check is still running; after the shutdown only if one was abandoned."""
        return any(thread.is_alive() for thread in self._threads)

    def hurry(self) -> None:
        """Wake a thread: a resource was submitted."""
        self._due.release()

    def check_next(self) -> bool:
        """Run the check of the resource that has waited longest. Return whether there was one."""
        check = self._store.resources.next_check()
        if check is None:
            return False
        with self._renewing_lease(check):
            verdict = self._check_resource(check)
            if verdict is not None:
                self._conclude(check, verdict)
        if verdict is None:  # this process is about to end; another one does it
            self._store.resources.release_check(check)
        return True

    def tidy(self) -> None:
        """Remove unpacked data sets that are no longer referenced, and what interrupted uploads left."""
        self.dataset_cache.tidy(self._store)
        Incoming(self._settings.incoming).tidy()

    def _keep_checking(self) -> None:
        while not self._left.is_set():
            try:
                while not self._left.is_set() and self.check_next():
                    pass
                self._tidy_if_due()
            except (
                JobsError,
                OSError,
            ) as error:  # the database or a disk is unavailable; the next try finds the same
                log.warning("cannot check what was registered: %s", error)
            except Exception:  # a bug, which must not end all later checks
                log.exception("cannot check what was registered")
            self._due.acquire(timeout=LOOK_SECONDS)

    def _tidy_if_due(self) -> None:
        if time.monotonic() > self._tidied_at + TIDY_SECONDS:
            self._tidied_at = time.monotonic()
            self.tidy()

    # ---- one check -----------------------------------------------------------------------------------------

    @contextmanager
    def _renewing_lease(self, check: Check) -> Iterator[None]:
        """Renew the check's lease meanwhile.

        Fetching a large file, and removing what was unpacked, can take longer than a lease.
        """
        over = threading.Event()

        def keep() -> None:
            while not over.wait(self._settings.renew_seconds):
                self._renew(check)

        thread = threading.Thread(target=carried(keep), name="renew_check", daemon=True)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()

    def _conclude(self, check: Check, verdict: Verdict) -> None:
        """Write the verdict, retrying while the database is unavailable, since the check may have taken long.

        Without the database there is nothing else to do, and a verdict is dropped if another process has the
        check by then.
        """
        log.info("%s %s is %s: %s", check.resource.kind, check.resource.id, verdict.state, verdict.reason)
        while True:
            try:
                return self._store.resources.conclude_check(check, verdict)
            except StoreUnavailable as error:
                if self._left.wait(_RETRY_SECONDS):
                    raise
                log.warning("cannot say what a check found: %s; trying again", error)

    def _check_resource(self, check: Check) -> Verdict | None:
        """Return the verdict on a resource; None if the process is about to end."""
        resource = check.resource
        try:
            with ExitStack() as needed:
                file = Path(str(resource.path)) if resource.kind is ResourceKind.MODEL else None
                if resource.uploaded:
                    file = needed.enter_context(self.dataset_cache.fetched(str(resource.sha256), self._left))
                    if resource.kind is ResourceKind.DATASET:
                        return self._check_archive(check, file)
                return self._run_process(check, self._request(resource, file))
        except OperationCancelled:
            return None
        except (ContentGone, WrongContent) as error:
            return _refused(str(error))
        except (
            OSError,
            ArtifactsUnavailable,
            ArtifactsRefused,
        ) as error:  # later, or another worker, may succeed
            return _retry_later(f"it cannot be checked now: {error}")

    def _check_archive(self, check: Check, archive: Path) -> Verdict | None:
        """Return the verdict on an archive; if it is good, the data set stays unpacked."""
        with self.dataset_cache.staging() as staging:
            verdict = self._run_process(check, self._request(check.resource, archive, staging))
            if verdict and verdict.state is ResourceState.READY:
                self.dataset_cache.keep(staging, str(check.resource.sha256))
        return verdict

    def _request(self, resource: CheckedResource, file: Path | None, staging: Path | None = None) -> Request:
        return Request(
            kind=resource.kind,
            file=file,
            uploaded=resource.uploaded,
            folder=staging,
            data=_data_of(resource),
            roots=self._settings.data_roots,
            memory_bytes=self._settings.check_memory,
            seconds=int(self._settings.check_seconds),
            unpacked_bytes=self._settings.unpacked_bytes,
            free_bytes=self._settings.free_bytes,
        )

    def _run_process(self, check: Check, request: Request) -> Verdict | None:
        """Return the verdict of the process; None if this process is about to end."""
        with (
            tempfile.TemporaryFile() as output,
            tempfile.TemporaryFile() as errors,
            started(COMMAND, request, output, errors) as process,
        ):
            why = ended(process, self._settings.check_seconds, self._why_now)
            if self._left.is_set() and why is not None:
                return None
            if process.returncode > 0:
                log.error("the check of %s %s broke off: %r", request.kind, check.resource.id, end_of(errors))
            return _read(output, process.returncode, why, request)

    def _why_now(self) -> str | None:
        return "the service is ending" if self._left.is_set() else None

    def _renew(self, check: Check) -> None:
        try:
            self._store.resources.renew_check(check)
        except JobsError as error:
            log.warning("cannot say that a check goes on: %s", error)


def _data_of(resource: CheckedResource) -> DataConfig | None:
    if resource.kind is ResourceKind.MODEL:
        return None
    if resource.uploaded:
        return DataConfig(path="", format=resource.layout.format if resource.layout else "auto")
    return resource.data


def _read(output: IO[bytes], code: int, why: str | None, request: Request) -> Verdict:
    why = why or broke_off(code, request.seconds)
    if why is not None:
        return _refused(f"it cannot be checked: {why}")
    text = answer_in(output)
    try:
        return Verdict.model_validate_json(text)
    except ValidationError:
        log.error("a check said something that is no verdict: %.200r", text)
        return _refused("it cannot be checked: looking into it gave no answer")


def _refused(reason: str) -> Verdict:
    return Verdict(state=ResourceState.REFUSED, reason=reason)


def _retry_later(reason: str) -> Verdict:
    return Verdict(state=ResourceState.CHECKING, reason=reason)
