"""Artifacts: content-addressed storage of published files.

The name of a file is the SHA-256 of its content, so a file never changes and is stored once. The store has
names, sizes and metrics; here are only the bytes: in a folder (`folder.py`) or on S3 (`s3.py`). Files that the
store no longer names are removed (`worker/tidying.py`). All of this is safe from several processes on several
machines at once.
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
"""Name of a stored file in error messages if its name is not known."""


class Blob(NamedTuple):
    """A stored file: its hash and size."""

    sha256: str
    size: int
    """Bytes."""


class Artifacts(ABC):
    """Files named by their SHA-256. Every API process and worker sees the same ones.

    Any method may raise:
        ArtifactsUnavailable: the storage does not answer; the call may be retried.
        ArtifactsRefused: the storage refuses the request; an operator has to change something first.
    """

    place: str
    """Where the files are stored, for people; it contains no secret."""

    @abstractmethod
    def put(self, path: Path, expected_sha256: str | None = None) -> Blob:
        """Copy a file into the storage. Idempotent; concurrent readers see the whole file or none.

        A file that was stored already counts as new: it is kept for as long as one that was stored just now.

        Args:
            path: The file; it may be replaced or deleted meanwhile and afterwards, but not changed in place.
            expected_sha256: The hash that it must have; None accepts any content.

        Returns:
            The stored file.

        Raises:
            WrongContent: it has another hash; nothing was stored.
            FileNotFoundError: there is no such file.
        """

    def take(self, path: Path) -> Blob:
        """Store a file that nobody will write to again, otherwise as `put`, without a second copy if possible.

        It may be deleted meanwhile and afterwards.

        Raises:
            FileNotFoundError: there is no such file.
        """
        return self.put(path)

    @abstractmethod
    def size(self, sha256: str) -> int:
        """Return the size of a stored file in bytes.

        Raises:
            ContentGone: no such file is stored.
        """

    @abstractmethod
    def read(self, sha256: str, start: int = 0, stop: int | None = None) -> Iterator[bytes]:
        """Yield a stored file, or a part of it, block by block; it is never in memory as a whole.

        Args:
            sha256: The file.
            start: Its first byte, counted from 0.
            stop: The byte after its last; None: to the end.

        Raises:
            ContentGone: no such file is stored. Raised with the first block, as is every other error except:
            WrongContent: the stored content is damaged; raised before the last block if the whole file is read,
                in a folder usually with the first block.
        """

    @abstractmethod
    def fetch(self, sha256: str, folder: Path, cancelled: threading.Event = NEVER) -> Path:
        """Return the path of a local file with this content; it must not be changed.

        Args:
            sha256: The file.
            folder: Where a copy may be made, with the hash as its name. An existing copy is reused.
            cancelled: Set to cancel.

        Raises:
            OperationCancelled: it was cancelled; no copy was made.
            ContentGone: no such file is stored.
            WrongContent: the stored content is damaged; no copy was made.
        """

    @abstractmethod
    def ping(self) -> None:
        """Check that files can be stored and read now."""

    # ---- garbage collection --------------------------------------------------------------------------------

    @abstractmethod
    def belongs_to(self, owner: str) -> bool:
        """Return whether the storage belongs to a database; the first one that asks becomes its owner.

        Removing unreferenced files needs all references, so a storage that two databases use is left alone.

        Args:
            owner: The unique id of the database.
        """

    @abstractmethod
    def older_than(self, seconds: float) -> frozenset[str]:
        """Return the hashes of files that were last put more than `seconds` ago, by the clock that dates them."""

    @abstractmethod
    def remove(self, sha256: str, older_than: float) -> None:
        """Remove a file, unless it was put within the last `older_than` seconds.

        Idempotent, and safe during a `put`.
        """

    @abstractmethod
    def clear_remains(self, older_than: float) -> None:
        """Remove incomplete files that killed processes left more than `older_than` seconds ago."""


def measure(source: Iterable[bytes]) -> Blob:
    """Return the hash and size of the concatenated blocks."""
    digest, size = hashlib.sha256(), 0
    for block in source:
        digest.update(block)
        size += len(block)
    return Blob(digest.hexdigest(), size)


def check(name: str, expected_sha256: str | None, seen: Blob) -> None:
    """Compare content with the expected hash; None accepts any.

    Raises:
        WrongContent: they differ.
    """
    if expected_sha256 not in (None, seen.sha256):
        raise WrongContent(name, str(expected_sha256), seen.sha256)


def unchanged(sha256: str, source: Iterable[bytes]) -> Iterator[bytes]:
    """Yield a whole stored file, block by block; the last block only if the hash of all is right.

    Raises:
        WrongContent: the content has another hash.
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
    """Yield the blocks of a file from its current position.

    Args:
        source: The file.
        size: Maximum number of bytes to read; None: to its end.
    """
    left = size
    while block := source.read(BLOCK_BYTES if left is None else min(BLOCK_BYTES, left)):
        left = None if left is None else left - len(block)
        yield block


def written(source: Iterable[bytes], target: BinaryIO) -> Iterator[bytes]:
    """Yield the blocks, each after it was written to a file."""
    for block in source:
        target.write(block)
        yield block
