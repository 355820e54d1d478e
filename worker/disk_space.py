"""Whether there is room on the disk for a job: looked at before one begins and while it runs, because a disk that is
full tears more than one job."""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from gkd_core.run_dir import RunDir

STATES_AHEAD = 2
"""For so many of its newest state a job needs room: the next one is written before the one before it goes."""
SPARE = 1.25
"""Of what it needed, a job that was paused gets so much more before it goes on: else it would be paused again soon."""


@dataclass(frozen=True)
class Shortage:
    """Less room than is needed."""

    folder: Path
    free: int
    """Bytes."""
    needed: int
    """Bytes."""

    def __str__(self) -> str:
        return f"{_shown(self.free)} free on {self.folder}, {_shown(self.needed)} needed"

    @property
    def needs_free(self) -> int:
        """Bytes that must be free before the job goes on."""
        return int(self.needed * SPARE)


class DiskSpace:
    """The folders that jobs fill.

    Args:
        folders: Where runs and published files lie; what is not on a disk of this machine is left out by the caller.
        free_bytes: What must be free in each of them, at least.
    """

    def __init__(self, folders: Iterable[Path], free_bytes: int) -> None:
        self._folders = tuple(folders)
        self._free_bytes = free_bytes

    def free(self) -> int:
        """Bytes that are free in the fullest of the folders."""
        return min(map(free_on, self._folders))

    def shortage(self, run_dir: RunDir | None = None) -> Shortage | None:
        """What is missing for a job to begin or to go on, without one for a job without states; None: nothing."""
        needed = max(self._free_bytes, STATES_AHEAD * _newest_state(run_dir) if run_dir else 0)
        shortages = (Shortage(folder, free_on(folder), needed) for folder in self._folders)
        return next((shortage for shortage in shortages if shortage.free < shortage.needed), None)


def free_on(folder: Path) -> int:
    """Bytes that are free for us in a folder, or where it will be made."""
    there = next(each for each in (folder, *folder.parents) if each.exists())
    return shutil.disk_usage(there).free


def _newest_state(run_dir: RunDir) -> int:
    """Bytes of the state that was saved last; 0 where there is none."""
    newest, size = 0.0, 0
    for path in run_dir.checkpoints.glob("*"):
        try:
            about = path.stat()
        except FileNotFoundError:  # replaced by a newer one just now
            continue
        if about.st_mtime >= newest:
            newest, size = about.st_mtime, about.st_size
    return size


def _shown(size: int) -> str:
    return f"{size / 1e9:.1f} GB" if size >= 1e8 else f"{size / 1e6:.1f} MB"
