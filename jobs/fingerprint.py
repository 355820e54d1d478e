"""Whether files under a data root changed since somebody looked into them: told by their names, sizes and times."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Iterator
from pathlib import Path

from gkd_core.config import DataConfig


def of_data_set(data: DataConfig) -> tuple[int, str]:
    """Bytes of all files that a data set names, and what tells whether they changed: their names, sizes and times.

    Args:
        data: With both splits spelt out.
    """
    named = [
        Path(path)
        for split in (data.train, data.val)
        if split
        for path in (split.images, split.annotations, split.names)
        if path
    ]
    return of_files(file for path in sorted(set(named)) for file in _files(path))


def of_files(files: Iterable[Path]) -> tuple[int, str]:
    """The same of files that are named one by one."""
    digest, size = hashlib.sha256(), 0
    for file in dict.fromkeys(files):
        about = file.stat()
        size += about.st_size
        digest.update(f"{file}\0{about.st_size}\0{about.st_mtime_ns}\n".encode(errors="surrogateescape"))
    return size, digest.hexdigest()


def _files(path: Path) -> Iterator[Path]:
    if not path.is_dir():
        yield path
        return
    for folder, folders, names in os.walk(path):
        folders.sort()
        yield from (Path(folder, name) for name in sorted(names))
