"""A lock that is a file: it ends with the process that holds it, however that ends.

`filelock` takes the lock. What is added here: waiting that can be given up, going on without a lock where the disk
knows none, and asking whether a lock is held without making its file.
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
"""Patience of who locks a file of his own: whoever looks whether it is held has its lock for a moment."""


@contextmanager
def alone(path: Path, patience: float | None = None, cancelled: threading.Event = NEVER) -> Iterator[None]:
    """Be the only thread and process that does this, of all that see the same disk.

    Where the disk knows no locks, or the file may not be written, nobody is kept out: callers must stay right then,
    and only do things twice.

    Args:
        path: The file of the lock; it is made, and stays.
        patience: Seconds to wait for others; None: as long as it takes.
        cancelled: Set to wait no longer.

    Raises:
        TimeoutError: Others took longer.
        OperationCancelled: Who waited gave up.
    """
    lock = _lock_of(path)
    _acquire(lock, patience, cancelled)
    try:
        yield
    finally:
        lock.release()


def held(path: Path) -> BaseFileLock:
    """Lock a file until what is returned is released, in whichever thread; not locked if the disk knows no locks.

    Raises:
        TimeoutError: Somebody else holds it.
    """
    lock = _lock_of(path)
    _acquire(lock, _LOOKED_AT_SECONDS)
    return lock


def is_held(path: Path) -> bool:
    """Return whether somebody who is alive holds the lock of a file.

    Raises:
        OSError: The disk knows no locks, or there is no such file.
    """
    file = os.open(path, os.O_RDWR)  # a `FileLock` would make the file anew that its owner has just removed
    try:
        return not lock_descriptor(file, blocking=False)
    finally:
        os.close(file)


def _lock_of(path: Path) -> BaseFileLock:
    """Return the lock of a file: real or none, since a marker file would outlive a killed process."""
    return FileLock(path, poll_interval=_LOOK_SECONDS, thread_local=False, fallback_to_soft=False)


def _acquire(lock: BaseFileLock, patience: float | None, cancelled: threading.Event = NEVER) -> None:
    """Lock, or go on without a lock where none can be had."""
    try:
        lock.acquire(-1 if patience is None else patience, cancel_check=cancelled.is_set)
    except Timeout:
        if cancelled.is_set():
            raise OperationCancelled from None
        raise
    except OSError as error:  # a disk that is full, read-only or knows no locks, or another user's file
        log.debug("no lock at %s: %s", lock.lock_file, error)
