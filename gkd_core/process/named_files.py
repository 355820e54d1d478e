"""Opening files that users name: regular files only, and only below allowed folders. No torch.

A path may name a FIFO, whose opening blocks for ever, or a device that never ends. And a checked path may be replaced
by a link before it is opened; so the opened file is checked, not its path.
"""

from __future__ import annotations

import errno
import json
import os
import stat
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from functools import lru_cache
from io import BufferedReader
from pathlib import Path

READ_ROOTS = "GKD_READ_ROOTS"
"""Environment variable of a process: files and folders outside which it opens no file that users name, as a JSON
list; unset: no limit. Workers set it for engines."""

NOT_REGULAR = "it is no regular file, but a FIFO, a socket or a device"
LEADS_OUT = "it leads out of the data roots by a link"


class NotToBeRead(OSError):
    """The path is no regular file, or lies outside the folders that may be read."""


_allowed: ContextVar[tuple[Path, ...] | None] = ContextVar("allowed", default=None)


@contextmanager
def reading_only(roots: Sequence[Path] | None) -> Iterator[None]:
    """Limit what this thread opens to these resolved folders while the block runs; None: no change."""
    before = _allowed.set(_allowed.get() if roots is None else tuple(roots))
    try:
        yield
    finally:
        _allowed.reset(before)


def environment_of(roots: Iterable[Path]) -> dict[str, str]:
    """Return the variable that limits a whole process to these files and folders."""
    return {READ_ROOTS: json.dumps([str(root) for root in roots])}


def allowed_roots() -> tuple[Path, ...] | None:
    """Return the folders to which this thread is limited, to pass on to threads that it starts; None: no limit."""
    return _allowed.get()


def allow_here(roots: tuple[Path, ...] | None) -> None:
    """Limit this thread to the folders of the thread that started it."""
    _allowed.set(roots)


def open_named(path: Path | str) -> BufferedReader:
    """Open a file for reading.

    Raises:
        IsADirectoryError: it is a folder.
        NotToBeRead: it is no regular file, or lies outside the folders that may be read.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    try:
        _must_be_regular(os.fstat(descriptor).st_mode, path)
        _must_be_allowed(descriptor, path)
        os.set_blocking(descriptor, True)
        return os.fdopen(descriptor, "rb")
    except BaseException:
        os.close(descriptor)
        raise


def read_named(path: Path | str) -> bytes:
    """Return the content of a file; errors as for `open_named`."""
    with open_named(path) as file:
        return file.read()


def _must_be_regular(mode: int, path: Path | str) -> None:
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    if not stat.S_ISREG(mode):
        raise NotToBeRead(errno.EINVAL, NOT_REGULAR, str(path))


def _must_be_allowed(descriptor: int, path: Path | str) -> None:
    roots = _allowed.get()
    roots = _roots_of(os.environ.get(READ_ROOTS, "")) if roots is None else roots
    if not roots:
        return
    try:
        place = Path(os.readlink(f"/proc/self/fd/{descriptor}"))
    except OSError:  # not Linux
        place = Path(os.path.realpath(path))
    if not any(place.is_relative_to(root) for root in roots):
        raise NotToBeRead(errno.EACCES, LEADS_OUT, str(path))


@lru_cache(maxsize=4)
def _roots_of(text: str) -> tuple[Path, ...]:
    return tuple(Path(os.path.realpath(root)) for root in json.loads(text or "[]"))
