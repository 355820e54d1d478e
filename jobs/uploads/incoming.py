"""Files that are being sent: they lie under `incoming/` until they are kept, and count among the bytes of their tenant.

What counts is the size of the files themselves, so that nothing is left to be set right after a crash: a file counts
while the process that receives it holds its lock. One whose size was announced has that size from the start, as a hole
that takes no room. Every API that sees the folder counts the same; but that a file of another machine's is not held
cannot be told everywhere, so there only its age ends it.
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
"""For others who reserve, which takes milliseconds. One that is frozen, or waits for its database, must not keep
uploads and the threads in which they wait; what is counted without the lock is looked at again when the row is
written."""
SETTLED_SECONDS = 3600.0
"""How old a file of another machine must be that nobody holds before it counts as left behind: some network disks show
a lock only to the machine that has it."""
_FRESH_SECONDS = 60.0
"""How old one of this machine must be before it is removed: who made it is about to lock it."""
ABANDONED_SECONDS = 86_400.0
"""The same where the disk knows no locks at all. 20 GiB on a slow line take hours."""


class Incoming:
    """The folder of uploads under way. Several processes may use it at once.

    Args:
        folder: It is made when the first one comes.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def begin(self, tenant: str) -> Arriving:
        """A new, empty file of a tenant's; call its `end` in any case."""
        self.folder.mkdir(parents=True, exist_ok=True)
        descriptor, name = tempfile.mkstemp(prefix=f"{tenant}.{_machine()}.", dir=self.folder)
        os.close(descriptor)
        return Arriving(Path(name), tenant, self)

    def bytes_of(self, tenant: str) -> int:
        """What is on its way to a tenant, counted with what is announced."""
        size = 0
        for path in self.folder.glob(f"{tenant}.*"):  # no tenant's name has a dot
            with suppress(FileNotFoundError):
                size += 0 if _is_left_behind(path) else path.stat().st_size
        return size

    def tidy(self) -> None:
        """Remove what processes left that were killed."""
        for path in self.folder.glob("*"):
            with suppress(FileNotFoundError):
                if path.name != _LOCK and _age(path) > _FRESH_SECONDS and _is_left_behind(path):
                    path.unlink()


class Arriving:
    """A file that is being sent.

    Args:
        path: Where it lies; while it is sent nobody takes it for left behind.
        tenant: Whose it will be.
        incoming: Where it is one of several.
    """

    def __init__(self, path: Path, tenant: str, incoming: Incoming) -> None:
        self.path = path
        self.size = 0
        """With which it counts: bytes."""
        self._tenant = tenant
        self._incoming = incoming
        self._held = held(path)

    def reserve(self, size: int, must_fit: Callable[[int], None]) -> None:
        """Let the file count with so many bytes, before they come. Of several who ask at once each sees the others,
        unless one of them takes very long.

        Args:
            size: Bytes, not fewer than were written.
            must_fit: Raises what it likes if the tenant has no room for so many more bytes than are kept.
        """
        with ExitStack() as lock:
            with suppress(TimeoutError):
                lock.enter_context(alone(self._incoming.folder / _LOCK, _PATIENCE_SECONDS))
            must_fit(self._incoming.bytes_of(self._tenant) - self.size + size)
            self.cut(size)

    def cut(self, size: int) -> None:
        """Let the file have this size."""
        os.truncate(self.path, size)
        self.size = size

    def end(self) -> None:
        """Remove it: it is kept elsewhere, or not at all."""
        self.path.unlink(missing_ok=True)
        self._held.release()


def _is_left_behind(path: Path) -> bool:
    """Whether the process that received a file has ended without removing it."""
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
    """Name those processes that see each other's locks on any disk: one start of one kernel, with its containers."""
    try:
        started = _BOOT_ID.read_text()
    except OSError:  # not Linux
        started = platform.node()
    return hashlib.sha256(started.encode()).hexdigest()[:12]


_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
