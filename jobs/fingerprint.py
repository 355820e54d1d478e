"""Whether files under a data root changed since somebody looked into them: told by their names, sizes and times.

Every job that names a registered data set asks, so of a hundred thousand pictures only some are looked at one by one.
A picture that was added, removed or renamed is noticed in any case, and so is one that was replaced by a new file, as
most tools do it; one of many that was written to in place may not be.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from stat import S_ISDIR

from gkd_core.config import DataConfig
from gkd_core.data.folders import files_below, is_picture_name

LOOKED_AT = 4000
"""Pictures whose size and time are looked at; the check before a job reads the headers of as many. What
is not called like a picture is looked at one by one, which is right, if slower."""


def of_data_set(data: DataConfig) -> str:
    """What tells whether the files changed that a data set names.

    It holds the names of all files, the times of the folders of pictures, size and time of all that is no picture, for
    that is read before a job anyway, and of some pictures that are spread evenly.

    Args:
        data: With its splits spelt out.

    Raises:
        OSError: one of them is not there.
    """
    files = _named_by(data)
    pictures = [file for file in files if is_picture_name(file.name)]
    folders = sorted({file.parent for file in pictures})
    others = [file for file in files if not is_picture_name(file.name)]
    digest = hashlib.sha256("\0".join(map(str, files)).encode(errors="surrogateescape"))
    for line in _about((*folders, *others, *_some(pictures))):
        digest.update(line)
    return digest.hexdigest()


def of_file(file: Path) -> str:
    """The same of a single file.

    Raises:
        OSError: it is not there.
    """
    return hashlib.sha256(b"".join(_about([file]))).hexdigest()


def size_of(data: DataConfig) -> int:
    """Bytes of all files that a data set names; each is looked at."""
    return sum(file.stat().st_size for file in _named_by(data))


def _named_by(data: DataConfig) -> list[Path]:
    named = {
        path
        for split in data.splits.values()
        for path in (split.images, split.annotations, split.names)
        if path
    }
    return sorted({file for path in named for file in _below(Path(path))})


def _some(files: Sequence[Path]) -> Sequence[Path]:
    return files[:: len(files) // LOOKED_AT + 1]


def _about(paths: Iterable[Path]) -> Iterator[bytes]:
    for path in paths:
        about = path.stat()
        size = 0 if S_ISDIR(about.st_mode) else about.st_size  # of a folder it says how it is stored
        yield f"{path}\0{size}\0{about.st_mtime_ns}\n".encode(errors="surrogateescape")


def _below(path: Path) -> Iterator[Path]:
    """The file, or all files in a folder, in the folders that links lead to as well."""
    if not path.is_dir():
        yield path
        return
    yield from files_below(path)
