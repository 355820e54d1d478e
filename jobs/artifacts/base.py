"""Published files, kept by what they hold: the SHA-256 is the name, so a file never changes and is there once.

Names, sizes and metrics stand in the store; this is only where the bytes lie: in a folder (`folder.py`) or on
S3 (`s3.py`). Files that the store no longer names are removed (`worker/tidying.py`). Several processes on
several machines may do all of this at once.
"""

from __future__ import annotations

import hashlib
import threading
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import BinaryIO, NamedTuple

from jobs.errors import WrongContent
from jobs.sync.cancellation import NEVER

__all__ = [
    "BLOCK_BYTES",
    "Artifacts",
    "Blob",
    "WrongContent",
    "blocks",
    "check",
    "measure",
    "unchanged",
    "written",
]

BLOCK_BYTES = 1 << 20
PUBLISHED = "the published file"
"""What a kept file is called where its name is not known."""


class Blob(NamedTuple):
    """A file that is kept."""

    sha256: str
    size: int
    """Bytes."""


class Artifacts(ABC):
    """Files named by their SHA-256. Every API and worker sees the same ones.

    Any method may raise:
        ArtifactsUnavailable: the place does not answer; what was asked may be asked again.
        ArtifactsRefused: it answers that this is not to be; somebody has to change something first.
    """

    place: str
    """Where the files lie, for people; it holds no secret."""

    @abstractmethod
    def put(self, path: Path, expected_sha256: str | None = None) -> Blob:
        """Copy a file in. Harmless twice; whoever reads meanwhile sees the whole file or none.

        A file that was there already counts as new: it stays for as long as one that came just now.

        Args:
            path: The file; it may be replaced or deleted meanwhile and afterwards, but not changed in place.
            expected_sha256: What it must hold; None takes whatever is there.

        Raises:
            WrongContent: it holds something else; nothing was kept.
            FileNotFoundError: there is no such file.
        """

    def take(self, path: Path) -> Blob:
        """The same of a file that nobody will ever write to again: a second copy is only made where there is no other
        way. It may be deleted meanwhile and afterwards.

        Raises:
            FileNotFoundError: there is no such file.
        """
        return self.put(path)

    @abstractmethod
    def size(self, sha256: str) -> int:
        """Bytes of a kept file.

        Raises:
            ContentGone: no such file is kept.
        """

    @abstractmethod
    def read(self, sha256: str, start: int = 0, stop: int | None = None) -> Iterator[bytes]:
        """A kept file, or a part of it, block by block; never whole in memory.

        Args:
            sha256: The file.
            start: Its first byte, counted from 0.
            stop: The byte behind its last; None: to the end.

        Raises:
            ContentGone: no such file is kept. Known with the first block, as is everything else, but for:
            WrongContent: what is kept holds something else; known before the last block where the whole is read, and
                on a disk mostly with the first.
        """

    @abstractmethod
    def fetch(self, sha256: str, folder: Path, cancelled: threading.Event = NEVER) -> Path:
        """A file on this machine with this content, for those who need a path; it must not be changed.

        Args:
            sha256: The file.
            folder: Where a copy may be made, with the hash as its name. One that was made before is used again.
            cancelled: Set to break off.

        Raises:
            OperationCancelled: it was broken off; no copy was made.
            ContentGone: no such file is kept.
            WrongContent: what is kept holds something else; no copy was made.
        """

    @abstractmethod
    def ping(self) -> None:
        """Find out whether files can be kept and read now."""

    # ---- what nobody needs any more ----------------------------------------------------------------------

    @abstractmethod
    def belongs_to(self, owner: str) -> bool:
        """Whether these files are those of a database; the first one that asks gets them.

        Who removes what is not named must know all names, so a place that two databases use is left alone.

        Args:
            owner: What tells the database from others.
        """

    @abstractmethod
    def older_than(self, seconds: float) -> frozenset[str]:
        """Hashes of the files that were last put longer ago than this, by the clock that dates them."""

    @abstractmethod
    def remove(self, sha256: str, older_than: float) -> None:
        """Remove a file, unless it was put again within so many seconds. Harmless twice, and while it is being put."""

    @abstractmethod
    def clear_remains(self, older_than: float) -> None:
        """Clear away what processes left half done when they were killed, so many seconds ago."""


def measure(source: Iterable[bytes]) -> Blob:
    """What blocks hold together."""
    digest, size = hashlib.sha256(), 0
    for block in source:
        digest.update(block)
        size += len(block)
    return Blob(digest.hexdigest(), size)


def check(name: str, expected_sha256: str | None, seen: Blob) -> None:
    """Compare content with what was announced; None: nothing was.

    Raises:
        WrongContent: they differ.
    """
    if expected_sha256 not in (None, seen.sha256):
        raise WrongContent(name, str(expected_sha256), seen.sha256)


def unchanged(sha256: str, source: Iterable[bytes]) -> Iterator[bytes]:
    """A whole kept file, block by block; the last one only when all together are what was kept.

    Raises:
        WrongContent: they are not.
    """
    digest, held = hashlib.sha256(), b""
    for block in source:
        if held:
            yield held
        digest.update(block)
        held = block
    check(PUBLISHED, sha256, Blob(digest.hexdigest(), 0))
    yield held


def blocks(source: BinaryIO, size: int | None = None) -> Iterator[bytes]:
    """A file from where it stands, in blocks.

    Args:
        source: The file.
        size: Bytes to read at most; None: to its end.
    """
    left = size
    while block := source.read(BLOCK_BYTES if left is None else min(BLOCK_BYTES, left)):
        left = None if left is None else left - len(block)
        yield block


def written(source: Iterable[bytes], target: BinaryIO) -> Iterator[bytes]:
    """The blocks, each written to a file before it is handed on."""
    for block in source:
        target.write(block)
        yield block
