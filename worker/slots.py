"""Places of the workers of one machine: `HOME/workers/HOST-0`, `HOST-1`, ... A worker that starts takes the first that
nobody holds, learns who had it before (and so who is dead for sure), and leaves signs of life there.

The lock on the file is what counts; it ends with the process, however that ends. The signs are for `gkd health worker`.
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
"""A worker gives a sign every second; one that has given none for so long is stuck or dead."""

_SIGN = "{:020.3f}\n"  # always as long, and so written in place: a full disk does not silence a worker


class Slot:
    """A worker's place, while it is held.

    Attributes:
        name: What the worker is to be called; no other one ever was or will be.
        earlier: The worker that had this place before and did not leave it; it lives no more. None: there was none.
    """

    def __init__(self, number: int, file: int | None, earlier: str | None) -> None:
        self.name = f"{socket.gethostname()}-{number}-{secrets.token_hex(3)}"
        self.earlier = earlier
        self._file = file

    def sign(self) -> None:
        """Leave a sign of life."""
        if self._file is not None:
            os.pwrite(self._file, _SIGN.format(time.monotonic()).encode(), 0)


@contextmanager
def take_slot(home: Path) -> Iterator[Slot]:
    """Hold a place for this process."""
    folder = home / "workers"
    folder.mkdir(parents=True, exist_ok=True)
    for number in count():
        file = os.open(folder / f"{socket.gethostname()}-{number}", os.O_RDWR | os.O_CREAT, 0o644)
        try:
            if (slot := _lock(number, file)) is not None:
                yield slot
                os.truncate(file, 0)  # left as it should be: there is nobody to be missed
                return
        finally:
            os.close(file)


def missing(home: Path) -> str | None:
    """Which worker of this machine gives no signs of life although it should; None: all do, and there is one."""
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
    """Return the place, or None when another worker holds it."""
    try:
        if not lock_descriptor(file, blocking=False):
            return None
    except OSError as error:  # a file system without locks: nobody can be known to be dead
        log.warning(
            "no locks in GKD_HOME (%s): what a killed worker held is free once its lease has ended", error
        )
        return Slot(number, None, None)
    _, _, earlier = os.pread(file, 4096, 0).decode().partition("\n")
    slot = Slot(number, file, earlier.strip() or None)
    os.truncate(file, 0)
    os.pwrite(file, (_SIGN.format(time.monotonic()) + slot.name + "\n").encode(), 0)
    return slot
