"""One `gkd serve` per home folder: two would take each other's jobs for their own."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


class HomeInUse(Exception):
    """Another `gkd serve` has this home folder."""

    def __init__(self, home: Path, owner: str) -> None:
        super().__init__(f"{home} is in use by another gkd serve (process {owner}); end it, or set GKD_HOME")


@contextmanager
def hold(home: Path) -> Iterator[None]:
    """Keep a home folder for this process.

    Raises:
        HomeInUse: Another process has it.
    """
    home.mkdir(parents=True, exist_ok=True)
    with (home / "serve.lock").open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            file.seek(0)
            raise HomeInUse(home, file.read().strip()) from error
        file.truncate(0)
        file.write(f"{os.getpid()}\n")
        file.flush()
        yield
