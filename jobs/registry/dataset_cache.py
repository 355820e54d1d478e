"""The cache of unpacked data sets on this machine: one folder each, named by the SHA-256 of the archive.

The archive in the artifacts is authoritative; every machine that reads the data set unpacks its own copy, once.
A folder has its name only when it is complete, so readers need no lock. Folders whose archive is no longer
referenced are removed. Unpacking and removing hold the lock of the data set, which ends with a killed process.
"""

from __future__ import annotations

import shutil
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from jobs.artifacts.base import Artifacts
from jobs.errors import StillUnpacking
from jobs.settings import Settings
from jobs.store.store import Store
from jobs.sync.cancellation import NEVER
from jobs.sync.file_lock import alone
from jobs.uploads.archives import Limits, top, unpack

_UNPACKING, _LOCK = ".unpacking-", ".lock-"
ABANDONED_SECONDS = 86_400.0
"""Age at which a folder without its final name counts as abandoned. Unpacking takes minutes."""


class DatasetCache:
    """The folder of unpacked data sets. Safe for several processes at once.

    Args:
        root: The folder; it is created with the first data set.
        artifacts: Where the archives are.
        limits: Limits of what an archive may unpack to.
    """

    def __init__(self, root: Path, artifacts: Artifacts, limits: Limits) -> None:
        self.root = root
        self.limits = limits
        self._artifacts = artifacts

    @classmethod
    def of(cls, settings: Settings, artifacts: Artifacts) -> DatasetCache:
        """Return the cache that the settings describe."""
        limits = Limits(settings.unpacked_bytes, free_bytes=settings.free_bytes)
        return cls(settings.home / "datasets", artifacts, limits)

    def folder(
        self, sha256: str, *, patience: float | None = None, cancelled: threading.Event = NEVER
    ) -> Path:
        """Return the folder of a data set, unpacked now if it is missing. Concurrent callers wait for that.

        Args:
            sha256: Of its archive; the store must reference it, or it may be removed at any time.
            patience: Seconds to wait while another caller unpacks it; None: as long as it takes.
            cancelled: Set to cancel; what was unpacked by then is removed.

        Raises:
            StillUnpacking: another caller takes longer.
            OperationCancelled: it was cancelled.
            BadArchive: it cannot be unpacked, though it could when it was checked.
            ContentGone: the archive is no longer stored.
            OSError: the disk is full or failing.
        """
        place = self.root / sha256
        if not place.is_dir():
            with self._locked(sha256, patience, cancelled):
                self._unpack_if_missing(sha256, cancelled)
        return top(place)

    def _unpack_if_missing(self, sha256: str, cancelled: threading.Event) -> None:
        if (self.root / sha256).is_dir():  # another caller held the lock for that
            return
        with self.staging() as staging, self.fetched(sha256, cancelled) as archive:
            unpack(archive, staging, self.limits, cancelled)
            self.keep(staging, sha256)

    @contextmanager
    def fetched(self, sha256: str, cancelled: threading.Event = NEVER) -> Iterator[Path]:
        """Return an upload as a local file; a copy made for that is removed at the end.

        Raises:
            OperationCancelled: it was cancelled.
            ContentGone: it is no longer stored.
        """
        with self.staging() as folder:
            yield self._artifacts.fetch(sha256, folder, cancelled)

    @contextmanager
    def staging(self) -> Iterator[Path]:
        """Create an empty folder to unpack into; it is removed at the end unless it was renamed."""
        self.root.mkdir(parents=True, exist_ok=True)
        folder = Path(tempfile.mkdtemp(prefix=_UNPACKING, dir=self.root))
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def keep(self, staging: Path, sha256: str) -> None:
        """Rename a complete folder to its final name. If another process was faster, its copy stays."""
        staging.chmod(0o755)  # created for its owner only; API and worker may be different users
        with suppress(OSError):
            staging.rename(self.root / sha256)
        if not (self.root / sha256).is_dir():
            raise FileNotFoundError(f"{self.root / sha256} could not be kept")

    def tidy(self, store: Store) -> None:
        """Remove data sets that are no longer referenced, and what killed processes left.

        References in another database are not known here, so a folder that two of them use is left alone.

        Raises:
            StoreUnavailable: the database does not answer.
        """
        there = [path for path in self.root.glob("*") if path.is_dir()]
        if not there or not self._belongs_to(store.reading.origin()):
            return
        named = store.resources.uploads()
        for path in there:
            if path.name.startswith(_UNPACKING):
                if _age(path) > ABANDONED_SECONDS:
                    shutil.rmtree(path, ignore_errors=True)
            elif path.name not in named:
                self._remove_unless_named(path, store)

    @contextmanager
    def _locked(
        self, sha256: str, patience: float | None = None, cancelled: threading.Event = NEVER
    ) -> Iterator[None]:
        """Lock a data set against concurrent unpacking and removal.

        A lock for each would leave a file for each; if two data sets share a lock, the second one only waits.

        Raises:
            StillUnpacking: another caller holds the lock for longer than `patience`.
            OperationCancelled: it was cancelled.
        """
        self.root.mkdir(parents=True, exist_ok=True)
        with ExitStack() as lock:
            try:
                lock.enter_context(alone(self.root / f"{_LOCK}{sha256[:2]}", patience, cancelled))
            except TimeoutError as error:
                raise StillUnpacking(sha256) from error
            yield

    def _belongs_to(self, owner: str) -> bool:
        """Return whether the folder belongs to a database; the first one that asks becomes its owner."""
        mark = self.root / ".owner"
        with suppress(FileExistsError), mark.open("x") as file:
            file.write(owner)
        return mark.read_text() == owner

    def _remove_unless_named(self, path: Path, store: Store) -> None:
        """Remove an unreferenced data set: rename it first, so that no reader takes a partial folder for a whole one.

        The store is asked again with the lock held, and once more after the renaming: a caller that referenced
        the data set before that may have found the folder and gets it back; a later one does not find it, waits
        for the lock, and unpacks it anew.
        """
        # If the lock is held, this folder or one with the same lock is in use: next time. The removal happens
        # without it.
        with (
            suppress(OSError, StillUnpacking),
            self.staging() as aside,
            self._locked(path.name, 0.0),
        ):
            if path.name in store.resources.uploads():
                return
            path.rename(aside / path.name)
            if path.name in store.resources.uploads():
                (aside / path.name).rename(path)


def _age(path: Path) -> float:
    try:
        return time.time() - path.stat().st_mtime
    except FileNotFoundError:
        return 0.0
