"""Data sets that were uploaded, unpacked on this machine: one folder each, named by the SHA-256 of the archive.

The archive among the artifacts is what counts; every machine that reads the data set unpacks its own copy of it, once.
A folder has its name only when it is complete, so who finds it needs no lock. Those whose archive nobody names any more
are removed. Unpacking and removing happen with the lock of the data set, which a killed process lets go.
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
"""How old a folder without its name must be before it counts as left behind. Unpacking takes minutes."""


class DatasetCache:
    """The folder of unpacked data sets. Several processes may use it at once.

    Args:
        root: The folder; it is made when the first data set comes.
        artifacts: Where the archives are.
        limits: How much one may become.
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
        """Where a data set lies; it is unpacked now if it is not there. Others who need it meanwhile wait for that.

        Args:
            sha256: Of its archive; somebody names it in the store, or it may go at any time.
            patience: Seconds to wait while another one unpacks it; None: as long as it takes.
            cancelled: Set to break off; what was unpacked by then is removed.

        Raises:
            StillUnpacking: another one takes longer.
            OperationCancelled: it was broken off.
            BadArchive: it cannot be unpacked, though it could when it was checked.
            ContentGone: the archive is not kept any more.
            OSError: the disk is full or failing.
        """
        place = self.root / sha256
        if not place.is_dir():
            with self._alone_with(sha256, patience, cancelled):
                self._unpack_if_missing(sha256, cancelled)
        return top(place)

    def _unpack_if_missing(self, sha256: str, cancelled: threading.Event) -> None:
        if (self.root / sha256).is_dir():  # another one had the lock for that
            return
        with self.staging() as staging, self.fetched(sha256, cancelled) as archive:
            unpack(archive, staging, self.limits, cancelled)
            self.keep(staging, sha256)

    @contextmanager
    def fetched(self, sha256: str, cancelled: threading.Event = NEVER) -> Iterator[Path]:
        """What was uploaded as a file of this machine; a copy that had to be made for that is removed at the end.

        Raises:
            OperationCancelled: it was broken off.
            ContentGone: it is not kept any more.
        """
        with self.staging() as folder:
            yield self._artifacts.fetch(sha256, folder, cancelled)

    @contextmanager
    def staging(self) -> Iterator[Path]:
        """An empty folder to unpack into; what is still there at the end is removed."""
        self.root.mkdir(parents=True, exist_ok=True)
        folder = Path(tempfile.mkdtemp(prefix=_UNPACKING, dir=self.root))
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def keep(self, staging: Path, sha256: str) -> None:
        """Give a complete folder its name. Where another process was faster its copy stays."""
        staging.chmod(0o755)  # it was made for its owner alone; API and worker may be different users
        with suppress(OSError):
            staging.rename(self.root / sha256)
        if not (self.root / sha256).is_dir():
            raise FileNotFoundError(f"{self.root / sha256} could not be kept")

    def tidy(self, store: Store) -> None:
        """Remove what no data set names any more, and what killed processes left behind.

        What another database names is not known here, so a folder that two of them use is left alone.

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
    def _alone_with(
        self, sha256: str, patience: float | None = None, cancelled: threading.Event = NEVER
    ) -> Iterator[None]:
        """Nobody else unpacks or removes this data set meanwhile. A lock for every one would leave a file for every one
        behind; with two that share one, the second waits, and no more."""
        self.root.mkdir(parents=True, exist_ok=True)
        with ExitStack() as lock:
            try:
                lock.enter_context(alone(self.root / f"{_LOCK}{sha256[:2]}", patience, cancelled))
            except TimeoutError as error:
                raise StillUnpacking(sha256) from error
            yield

    def _belongs_to(self, owner: str) -> bool:
        """Whether the folder is that of a database; the first one that asks gets it."""
        mark = self.root / ".owner"
        with suppress(FileExistsError), mark.open("x") as file:
            file.write(owner)
        return mark.read_text() == owner

    def _remove_unless_named(self, path: Path, store: Store) -> None:
        """First its name, so that nobody takes half a folder for a whole one.

        The store is asked again with the lock, and once more when the name is gone: who named it before that may have
        found the folder and gets it back; who names it later does not find it, waits for the lock, and unpacks it anew.
        """
        # Who has the lock needs this folder, or one that shares its lock: next time. It is removed without the lock.
        with (
            suppress(OSError, StillUnpacking),
            self.staging() as aside,
            self._alone_with(path.name, 0.0),
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
