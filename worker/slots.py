"""Slots of the workers of one machine: lock files `HOME/workers/HOST-0`, `HOST-1`, ...

A worker that starts takes the first free slot, learns which worker had it before (which is dead for sure), and
writes its heartbeats there. The lock on the file is authoritative; it ends with the process, however that ends.
The heartbeats are for `gkd health worker`.
"""

from __future__ import annotations

import logging
import os
import re
import secrets
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path

from filelock import lock_descriptor

log = logging.getLogger(__name__)

STALE_SECONDS = 30.0
"""A worker writes a heartbeat every second; without one for this long it is stuck or dead."""

_SIGN = "{:020.3f}\n"  # constant length, written in place: a full disk does not stop heartbeats


class Slot:
    """A worker's slot, while it is held.

    Attributes:
        name: The worker's name, which no other one ever had or will have.
        earlier: The dead worker that had this slot before and did not shut down properly. None: there was none.
    """

    def __init__(self, number: int, file: int | None, earlier: str | None) -> None:
        self.name = f"{socket.gethostname()}-{number}-{secrets.token_hex(3)}"
        self.earlier = earlier
        self._file = file

    def sign(self) -> None:
        """Write a heartbeat."""
        if self._file is not None:
            os.pwrite(self._file, _SIGN.format(time.monotonic()).encode(), 0)


@contextmanager
def take_slot(home: Path) -> Iterator[Slot]:
    """Hold a slot for this process."""
    folder = home / "workers"
    folder.mkdir(parents=True, exist_ok=True)
    for number in count():
        file = os.open(folder / f"{socket.gethostname()}-{number}", os.O_RDWR | os.O_CREAT, 0o644)
        try:
            if (slot := _lock(number, file)) is not None:
                yield slot
                os.truncate(file, 0)  # shut down properly: no worker is missing
                return
        finally:
            os.close(file)


def missing(home: Path) -> str | None:
    """Return which worker of this machine is missing heartbeats, or that there is none; None if all is well."""
    places = sorted((home / "workers").glob(f"{socket.gethostname()}-*"))
    own = re.compile(re.escape(socket.gethostname()) + r"-\d+")  # not those of a host `NAME-b`
    told = {path.name: path.read_text() for path in places if own.fullmatch(path.name)}
    signs = {place: text.split("\n") for place, text in told.items() if text}
    if not signs:
        return f"no worker of {socket.gethostname()} runs with GKD_HOME={home}"
    for place, (sign, *_) in signs.items():
        age = time.monotonic() - float(sign)
        if not -1 <= age < STALE_SECONDS:  # far in the future: from before the machine was started
            return (
                f"the worker in {home / 'workers' / place} has given no sign of life for {STALE_SECONDS:g} s"
            )
    return None


def _lock(number: int, file: int) -> Slot | None:
    """Return the slot, or None if another worker holds it."""
    try:
        if not lock_descriptor(file, blocking=False):
            return None
    except OSError as error:  # a file system without locks: no worker can be known to be dead
        log.warning(
            "no locks in GKD_HOME (%s): what a killed worker held is free once its lease has ended", error
        )
        return Slot(number, None, None)
    _, _, earlier = os.pread(file, 4096, 0).decode().partition("\n")
    slot = Slot(number, file, earlier.strip() or None)
    os.truncate(file, 0)
    os.pwrite(file, (_SIGN.format(time.monotonic()) + slot.name + "\n").encode(), 0)
    return slot
