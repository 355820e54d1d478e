"""A lock that is a file: it ends with the process that holds it, however that ends."""

from __future__ import annotations

import fcntl
import logging
import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from jobs.errors import GivenUp
from jobs.sync.cancellation import NEVER

log = logging.getLogger(__name__)

_LOOK_SECONDS = 0.1
_LOOKED_AT_SECONDS = 10.0
"""Patience of who locks a file of his own: whoever looks whether it is held has its lock for a moment."""


@contextmanager
def alone(path: Path, patience: float | None = None, given_up: threading.Event = NEVER) -> Iterator[None]:
    """Be the only thread and process that does this, of all that see the same disk.

    Where the disk knows no locks, or the file may not be written, nobody is kept out: callers must stay right then,
    and only do things twice.

    Args:
        path: The file of the lock; it is made, and stays.
        patience: Seconds to wait for others; None: as long as it takes.
        given_up: Set to wait no longer.

    Raises:
        TimeoutError: others took longer.
        GivenUp: who waited gave up.
    """
    file = _opened(path)
    try:
        if file is not None:
            _lock(file, patience, given_up)
        yield
    finally:
        if file is not None:
            os.close(file)


def held(path: Path) -> int | None:
    """Lock a file for as long as what is returned, a descriptor, stays open; None: the disk knows no locks."""
    file = _opened(path)
    if file is not None:
        _lock(file, _LOOKED_AT_SECONDS)
    return file


def is_held(path: Path) -> bool:
    """Whether somebody who is alive holds the lock of a file.

    Raises:
        OSError: the disk knows no locks, or there is no such file.
    """
    file = os.open(path, os.O_RDWR)
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(file)
    return False


def _opened(path: Path) -> int | None:
    """The file, to be written: over NFS a lock needs that."""
    try:
        return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    except OSError as error:  # a disk that is full or read-only, or another user's file
        log.debug("no lock at %s: %s", path, error)
        return None


def _lock(file: int, patience: float | None, given_up: threading.Event = NEVER) -> None:
    """Look again and again: a lock that is waited for by the system hears of nothing else."""
    deadline = float("inf") if patience is None else time.monotonic() + patience
    try:
        while not _is_ours(file):
            if time.monotonic() >= deadline:
                raise TimeoutError
            if given_up.wait(_LOOK_SECONDS):
                raise GivenUp
    except TimeoutError:
        raise
    except OSError as error:
        log.debug("this disk knows no locks: %s", error)


def _is_ours(file: int) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
