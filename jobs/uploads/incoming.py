"""Uploads in progress: files under `incoming/` until they are stored, counted in the quota of their tenant.

What counts is the size of the files themselves, so that a crash leaves nothing to correct: a file counts while
the process that receives it holds its lock. A file whose size was announced has that size from the start, as a
sparse file. Every API process that sees the folder counts the same; but not every disk shows whether another
machine holds a lock, so there only the file's age decides.
"""

from __future__ import annotations

import hashlib
import os
import platform
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack, suppress
from functools import cache
from pathlib import Path

from jobs.sync.file_lock import alone, held, is_held

_LOCK = ".lock"
_PATIENCE_SECONDS = 10.0
"""Timeout for the lock around reservations, which take milliseconds. A process that is frozen, or waits for
its database, must not block uploads and their threads; what is counted without the lock is checked again
when the row is written."""
SETTLED_SECONDS = 3600.0
"""Age at which an unlocked file of another machine counts as abandoned: some network file systems show a
lock only to the machine that holds it."""
_FRESH_SECONDS = 60.0
"""Minimum age of this machine's files before they are removed: a new one is about to be locked."""
ABANDONED_SECONDS = 86_400.0
"""The same if the disk has no locks at all. 20 GiB on a slow line take hours."""


class Incoming:
    """The folder of uploads in progress. Safe for several processes at once.

    Args:
        folder: It is created with the first upload.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def create(self, tenant: str) -> Arriving:
        """Create a new, empty file of a tenant; call its `end` in any case."""
        self.folder.mkdir(parents=True, exist_ok=True)
        descriptor, name = tempfile.mkstemp(prefix=f"{tenant}.{_machine()}.", dir=self.folder)
        os.close(descriptor)
        return Arriving(Path(name), tenant, self)

    def bytes_of(self, tenant: str) -> int:
        """Return the bytes of a tenant's uploads in progress, with announced sizes."""
        size = 0
        for path in self.folder.glob(f"{tenant}.*"):  # no tenant's name has a dot
            with suppress(FileNotFoundError):
                size += 0 if _is_left_behind(path) else path.stat().st_size
        return size

    def tidy(self) -> None:
        """Remove the files of killed processes."""
        for path in self.folder.glob("*"):
            with suppress(FileNotFoundError):
                if path.name != _LOCK and _age(path) > _FRESH_SECONDS and _is_left_behind(path):
                    path.unlink()


class Arriving:
    """An upload in progress.

    Args:
        path: Its file, locked while it is received so that it does not count as abandoned.
        tenant: Its owner.
        incoming: The folder it belongs to.
    """

    def __init__(self, path: Path, tenant: str, incoming: Incoming) -> None:
        self.path = path
        self.size = 0
        """Bytes that count in the quota."""
        self._tenant = tenant
        self._incoming = incoming
        self._held = held(path)

    def reserve(self, size: int, must_fit: Callable[[int], None]) -> None:
        """Reserve bytes of the quota before they are received.

        Of several concurrent reservations each sees the others, unless one of them takes longer than the lock's
        timeout.

        Args:
            size: Bytes, not fewer than were written.
            must_fit: Called with the bytes on top of what is stored; raises an error of its own if the tenant
                has no room.
        """
        with ExitStack() as lock:
            with suppress(TimeoutError):
                lock.enter_context(alone(self._incoming.folder / _LOCK, _PATIENCE_SECONDS))
            must_fit(self._incoming.bytes_of(self._tenant) - self.size + size)
            self.cut(size)

    def cut(self, size: int) -> None:
        """Truncate or extend the file to this size."""
        os.truncate(self.path, size)
        self.size = size

    def end(self) -> None:
        """Remove the file: it is stored elsewhere, or not at all."""
        self.path.unlink(missing_ok=True)
        self._held.release()


def _is_left_behind(path: Path) -> bool:
    """Return whether the process that received a file has ended without removing it."""
    try:
        is_ours = path.name.split(".")[1:2] == [_machine()]
        return (is_ours or _age(path) > SETTLED_SECONDS) and not is_held(path)
    except FileNotFoundError:
        raise
    except OSError:
        return _age(path) > ABANDONED_SECONDS


def _age(path: Path) -> float:
    return time.time() - path.stat().st_mtime


@cache
def _machine() -> str:
    """Return an id of the processes that see each other's locks on any disk: one boot of one kernel."""
    try:
        started = _BOOT_ID.read_text()
    except OSError:  # not Linux
        started = platform.node()
    return hashlib.sha256(started.encode()).hexdigest()[:12]


_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
