"""The lock of a home folder for `gkd serve`: two servers would take each other's jobs for their own."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout


class HomeInUse(Exception):
    """Another `gkd serve` uses this home folder."""

    def __init__(self, home: Path, owner: str) -> None:
        super().__init__(f"{home} is in use by another gkd serve (process {owner}); end it, or set GKD_HOME")


@contextmanager
def hold(home: Path) -> Iterator[None]:
    """Lock a home folder for this process.

    Raises:
        HomeInUse: Another process has it.
    """
    home.mkdir(parents=True, exist_ok=True)
    path = home / "serve.lock"
    try:
        lock = FileLock(path, fallback_to_soft=False).acquire(blocking=False)
    except Timeout as error:
        raise HomeInUse(home, path.read_text().strip()) from error
    with lock:
        path.write_text(f"{os.getpid()}\n")
        yield
