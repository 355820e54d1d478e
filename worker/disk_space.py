"""Checks of free disk space before a job starts and while it runs, because a full disk breaks more than one job."""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from gkd_core.run_dir import RunDir

STATES_AHEAD = 2
"""Free space that a job needs, as a multiple of its newest checkpoint: the next one is written before the
old one is deleted."""
SPARE = 1.25
"""Factor on the space that a paused job needs to continue; without it, the job would soon be paused again."""


@dataclass(frozen=True)
class Shortage:
    """Less free space than needed."""

    folder: Path
    free: int
    """Bytes."""
    needed: int
    """Bytes."""

    def __str__(self) -> str:
        return f"{_format_size(self.free)} free on {self.folder}, {_format_size(self.needed)} needed"

    @property
    def needs_free(self) -> int:
        """Return the bytes that must be free before the job continues."""
        return int(self.needed * SPARE)


class DiskSpace:
    """The folders that jobs write to.

    Args:
        folders: Folders of runs and published files; the caller leaves out what is not on a local disk.
        free_bytes: Bytes that must be free in each of them, at least.
    """

    def __init__(self, folders: Iterable[Path], free_bytes: int) -> None:
        self._folders = tuple(folders)
        self._free_bytes = free_bytes

    def free(self) -> int:
        """Return the free bytes in the fullest of the folders."""
        return min(map(free_on, self._folders))

    def shortage(self, run_dir: RunDir | None = None) -> Shortage | None:
        """Return what is missing for a job to start or continue; None if nothing is.

        Without `run_dir` it is a job without checkpoints.
        """
        needed = max(self._free_bytes, STATES_AHEAD * _newest_state(run_dir) if run_dir else 0)
        shortages = (Shortage(folder, free_on(folder), needed) for folder in self._folders)
        return next((shortage for shortage in shortages if shortage.free < shortage.needed), None)


def free_on(folder: Path) -> int:
    """Return the free bytes in a folder, or where it will be created."""
    there = next(each for each in (folder, *folder.parents) if each.exists())
    return shutil.disk_usage(there).free


def _newest_state(run_dir: RunDir) -> int:
    """Return the bytes of the newest checkpoint; 0 if there is none."""
    newest, size = 0.0, 0
    for path in run_dir.checkpoints.glob("*"):
        try:
            about = path.stat()
        except FileNotFoundError:  # replaced by a newer one just now
            continue
        if about.st_mtime >= newest:
            newest, size = about.st_mtime, about.st_size
    return size


def _format_size(size: int) -> str:
    return f"{size / 1e9:.1f} GB" if size >= 1e8 else f"{size / 1e6:.1f} MB"
