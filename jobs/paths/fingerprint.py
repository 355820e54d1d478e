"""Fingerprints of files under a data root, which detect changes by names, sizes and times.

Every job that names a registered data set compares them, so of a hundred thousand pictures only some are read
with `stat`. An added, removed or renamed picture is always noticed, and so is one that was replaced by a new
file, as most tools do; one of many that was overwritten in place may not be.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from stat import S_ISDIR

from gkd_core.config import DataConfig, Split
from gkd_core.data.folders import files_below, is_picture_name
from gkd_core.process.named_files import open_named, read_named

LOOKED_AT = 4000
"""Number of pictures whose size and time are read; the check before a job reads the headers of as many.
Files without a picture's suffix are all read, which is right, if slower."""
READ_BYTES = 2 * 1024**3
"""Bytes of annotations that are read for their fingerprint: two seconds. Beyond that size and time are used."""


def of_data_set(data: DataConfig) -> str:
    """Return the fingerprint of the files that a data set names.

    It covers the names of all files, the times of the folders of pictures, size and time of all files that are
    not pictures (they are read before a job anyway), and of an evenly spaced sample of pictures.

    Args:
        data: With explicit splits.

    Raises:
        OSError: a file is missing.
    """
    files = _named_by(data)
    pictures = [file for file in files if is_picture_name(file.name)]
    folders = sorted({file.parent for file in pictures})
    others = [file for file in files if not is_picture_name(file.name)]
    digest = hashlib.sha256("\0".join(map(str, files)).encode(errors="surrogateescape"))
    for line in _stat_lines((*folders, *others, *_sample(pictures))):
        digest.update(line)
    return digest.hexdigest()


def of_annotations(data: DataConfig) -> str:
    """Return the fingerprint of the annotations that a data set names, by their content: times do not matter.

    Pictures count by their names only, and only if a folder of them is the list of the split, as in YOLO.

    Args:
        data: With explicit splits.

    Raises:
        OSError: a file is missing.
    """
    digest, left = hashlib.sha256(), READ_BYTES
    for name, split in data.splits.items():
        for file in _annotations(split, data.format):
            size = file.stat().st_size
            left -= size
            told = _content(file) if left >= 0 else f"{size} {file.stat().st_mtime_ns}"
            digest.update(f"{name}\0{file}\0{told}\n".encode(errors="surrogateescape"))
        if data.format == "yolo" and Path(split.images).is_dir():
            pictures = (file for file in _below(Path(split.images)) if is_picture_name(file.name))
            digest.update("\0".join(sorted(map(str, pictures))).encode(errors="surrogateescape"))
    return digest.hexdigest()


def _annotations(split: Split, format: str) -> list[Path]:
    """Return the annotation files of a split, and lists of its pictures."""
    named = [Path(path) for path in (split.annotations, split.names, split.images) if path]
    files = {path for path in named if path.is_file()}
    folder = Path(split.annotations)
    if not folder.is_dir():
        return sorted(files)
    if format == "voc" and split.names:
        return sorted(files | set(_listed(Path(split.names), folder)))
    suffix = ".xml" if format == "voc" else ".txt"
    return sorted(files | {file for file in _below(folder) if file.suffix == suffix})


def _listed(names: Path, folder: Path) -> Iterator[Path]:
    """Yield the XML files of the pictures in a list, each perhaps followed by a flag."""
    for line in read_named(names).decode("utf-8-sig", errors="replace").splitlines():
        for stem in {line.strip(), line.strip().rpartition(" ")[0].strip()} - {""}:
            if (file := folder / f"{stem}.xml").is_file():
                yield file


def _content(file: Path) -> str:
    with open_named(file) as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def of_file(file: Path) -> str:
    """Return the fingerprint of a single file, by its path, size and time.

    Raises:
        OSError: it is missing.
    """
    return hashlib.sha256(b"".join(_stat_lines([file]))).hexdigest()


def size_of(data: DataConfig) -> int:
    """Return the bytes of all files that a data set names, with a `stat` of each."""
    return sum(file.stat().st_size for file in _named_by(data))


def _named_by(data: DataConfig) -> list[Path]:
    named = {
        path
        for split in data.splits.values()
        for path in (split.images, split.annotations, split.names)
        if path
    }
    return sorted({file for path in named for file in _below(Path(path))})


def _sample(files: Sequence[Path]) -> Sequence[Path]:
    return files[:: len(files) // LOOKED_AT + 1]


def _stat_lines(paths: Iterable[Path]) -> Iterator[bytes]:
    for path in paths:
        about = path.stat()
        size = (
            0 if S_ISDIR(about.st_mode) else about.st_size
        )  # the size of a folder depends on how it is stored
        yield f"{path}\0{size}\0{about.st_mtime_ns}\n".encode(errors="surrogateescape")


def _below(path: Path) -> Iterator[Path]:
    """Yield the file, or all files in a folder, also in folders behind links."""
    if not path.is_dir():
        yield path
        return
    yield from files_below(path)
