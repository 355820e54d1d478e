"""Recording of what an engine reports: its events in the store, its files among the published ones."""

from __future__ import annotations

import logging
import time
from concurrent.futures import wait
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

from gkd_core.events import Checkpoint, Event, FileWritten, Report
from gkd_core.run_dir import RunDir
from jobs.artifacts.base import Artifacts, Blob
from jobs.errors import (
    ArtifactsRefused,
    ArtifactsUnavailable,
    OperationCancelled,
    StoreUnavailable,
    WrongContent,
)
from jobs.job import Artifact
from jobs.store.store import Store
from jobs.sync.background import run_in_background
from worker.engine import Engine, UnreadableLines
from worker.lease import Lease
from worker.stop_request import POLL_SECONDS, StopRequest

log = logging.getLogger(__name__)

AWAY_SECONDS = 1.0
"""Time between two tries to reach published files."""


class EventRecorder:
    """The recording of one attempt's events, each with the offset behind it.

    Args:
        store: Where events are recorded.
        artifacts: Where files are published.
        lease: Of the attempt; nothing is recorded after it was lost.
        stop: Ends the engine where the attempt is to stop.
        run_dir: Of the job.
        offset: Bytes of the events file that were recorded before.
    """

    def __init__(
        self,
        store: Store,
        artifacts: Artifacts,
        lease: Lease,
        stop: StopRequest,
        run_dir: RunDir,
        offset: int,
    ) -> None:
        self.offset = offset
        """Bytes of the events file that are recorded."""
        self.unpublished: set[str] = set()
        """Files that events named, and that the engine had replaced or removed by then."""
        self.met_unreadable = False
        """Whether lines of the events file could not be read."""
        self._store = store
        self._artifacts = artifacts
        self._lease = lease
        self._stop = stop
        self._dir = run_dir
        self._publish_at = 0.0

    def record_news(self, engine: Engine) -> bool:
        """Record what the engine has written since.

        Return False while files cannot be published and the engine runs on.
        """
        if time.monotonic() < self._publish_at:
            return False
        try:
            for event, offset in engine.events(self.offset):
                if self._lease.lost:
                    break  # the next attempt records the rest, from the recorded offset
                self._record(engine, event, offset)
        except (ArtifactsUnavailable, ArtifactsRefused, OperationCancelled) as error:
            log.warning("job %s: %s; trying again", self._lease.ticket.job_id, error)
            self._stop.refused = error if isinstance(error, ArtifactsRefused) else None
            self._publish_at = time.monotonic() + AWAY_SECONDS
            return False
        self._stop.refused = None
        return True

    def _record(self, engine: Engine, event: Event, offset: int) -> None:
        self.met_unreadable |= isinstance(event, UnreadableLines)
        artifact = (
            self._publish(engine, event) if isinstance(event, Checkpoint | FileWritten | Report) else None
        )
        try:
            answer = self._lease.insist(
                lambda: self._store.commands.record(self._lease.ticket, event, offset, artifact)
            )
        except StoreUnavailable as error:
            log.error("job %s: %s; its engine is being stopped", self._lease.ticket.job_id, error)
        else:
            self._lease.desired, self.offset = answer, offset

    def _publish(self, engine: Engine, event: Checkpoint | FileWritten | Report) -> Artifact | None:
        """Publish the file that an event names.

        None if the engine has replaced it: a later event names it again.
        """
        expected = None if isinstance(event, Report) else event.sha256
        metrics = event.metrics if isinstance(event, Checkpoint) else {}
        try:
            blob = self._put(engine, self._dir.path / event.file, expected)
        except (WrongContent, FileNotFoundError) as error:
            log.info("job %s: not published yet: %s", self._lease.ticket.job_id, error)
            self.unpublished.add(event.file)
            return None
        self.unpublished.discard(event.file)
        now = datetime.now(UTC)
        return Artifact(name=event.file, size=blob.size, sha256=blob.sha256, metrics=metrics, created_at=now)

    def _put(self, engine: Engine, path: Path, expected_sha256: str | None) -> Blob:
        """Store a file in the artifacts. A large one takes long.

        A request to stop the engine does not wait for it.

        Raises:
            OperationCancelled: The engine has ended, and its job was to stop by now. The next attempt stores
                the file.
        """
        kept = run_in_background(partial(self._artifacts.put, path, expected_sha256))
        while not wait([kept], POLL_SECONDS).done:
            has_ended = engine.poll() is not None
            if self._stop.is_wanted:
                self._stop.end(engine)
                if has_ended and self._stop.seconds() > self._stop.stop_seconds:
                    raise OperationCancelled
        return kept.result()
