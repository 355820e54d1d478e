"""File locks between processes, which end with the process that holds them, whatever ends it.

`filelock` takes the lock. Added here: waiting that can be cancelled, continuing without a lock if the disk has
none, and a check whether a lock is held that does not create its file.
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import BaseFileLock, FileLock, Timeout, lock_descriptor

from jobs.errors import OperationCancelled
from jobs.sync.cancellation import NEVER

log = logging.getLogger(__name__)

_LOOK_SECONDS = 0.1
_LOOKED_AT_SECONDS = 10.0
"""Timeout for locking a file of one's own: `is_held` takes the lock for a moment."""


@contextmanager
def alone(path: Path, patience: float | None = None, cancelled: threading.Event = NEVER) -> Iterator[None]:
    """Hold an exclusive lock among all threads and processes that see the same disk.

    If the disk has no locks, or the file is not writable, nobody is locked out: callers must stay correct then,
    and only do work twice.

    Args:
        path: The lock file; it is created, and stays.
        patience: Seconds to wait for others; None: as long as it takes.
        cancelled: Set to stop waiting.

    Raises:
        TimeoutError: Others held it for longer.
        OperationCancelled: The wait was cancelled.
    """
    lock = _lock_of(path)
    _acquire(lock, patience, cancelled)
    try:
        yield
    finally:
        lock.release()


def held(path: Path) -> BaseFileLock:
    """Lock a file until the returned lock is released, in whichever thread; not locked if the disk has no locks.

    Raises:
        TimeoutError: Another process holds the lock.
    """
    lock = _lock_of(path)
    _acquire(lock, _LOOKED_AT_SECONDS)
    return lock


def is_held(path: Path) -> bool:
    """Return whether a live process holds the lock of a file.

    Raises:
        OSError: The disk has no locks, or there is no such file.
    """
    file = os.open(
        path, os.O_RDWR
    )  # a `FileLock` would create the file again that its owner has just removed
    try:
        return not lock_descriptor(file, blocking=False)
    finally:
        os.close(file)


def _lock_of(path: Path) -> BaseFileLock:
    """Return the lock of a file: a real lock or none, since a marker file would outlive a killed process."""
    return FileLock(path, poll_interval=_LOOK_SECONDS, thread_local=False, fallback_to_soft=False)


def _acquire(lock: BaseFileLock, patience: float | None, cancelled: threading.Event = NEVER) -> None:
    """Acquire the lock, or continue without one if that is not possible."""
    try:
        lock.acquire(-1 if patience is None else patience, cancel_check=cancelled.is_set)
    except Timeout:
        if cancelled.is_set():
            raise OperationCancelled from None
        raise
    except OSError as error:  # the disk is full, read-only or has no locks, or the file is another user's
        log.debug("no lock at %s: %s", lock.lock_file, error)
