"""Safe unpacking of untrusted archives: zip, tar and tar.gz.

Anything unusual in one is a reason to refuse all of it.

Nothing is written outside the folder, only plain files and folders are created, and the amount is limited
before it is written. Archives inside archives stay files. No name, mode, owner or link of an archive is
trusted.
"""

from __future__ import annotations

import errno
import gzip
import shutil
import struct
import tarfile
import threading
import unicodedata
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import IO

from jobs.sync.cancellation import NEVER, cancellable
from jobs.uploads.archive_members import CHUNK_BYTES, BadArchive, Member, members, quoted, too_many

DEEPEST = 32
"""Maximum depth of nested folders."""
LONGEST_PART = 255
"""Maximum length of a file name in bytes: the limit of file systems."""
FREE_OF_RATIO = 100 * 1024**2
"""Bytes that any archive may unpack to, whatever its compression ratio: a blank bitmap compresses 1000:1."""
_CHECK_SPACE_EVERY_BYTES = 64 << 20
_JUNK_FOLDER, _JUNK_FILE = "__MACOSX", ".DS_Store"
"""Files that macOS adds to every zip; the pictures among them are none."""
_DAMAGE = (
    *(zipfile.BadZipFile, tarfile.TarError, gzip.BadGzipFile, zlib.error, EOFError),
    *(struct.error, ValueError, OverflowError, NotImplementedError, RuntimeError),
)
"""Exceptions that the libraries raise about a damaged archive."""


@dataclass(frozen=True)
class Limits:
    """Limits of what an archive may unpack to."""

    total_bytes: int
    files: int = 500_000
    """Maximum number of members, and folders that their names imply."""
    ratio: int = 200
    """Maximum ratio of unpacked to packed size. Pictures hardly compress, annotations 10:1 to 50:1."""
    free_bytes: int = 0
    """Bytes on the disk that must stay free."""


def unpack(archive: Path, folder: Path, limits: Limits, cancelled: threading.Event = NEVER) -> None:
    """Unpack an archive into an empty folder, completely or with an error.

    Args:
        archive: The file; its format is detected by its first bytes, not by its name.
        folder: The target; after an error its content is of no use.
        limits: How much may be written.
        cancelled: Set to cancel.

    Raises:
        BadArchive: it is damaged, dangerous or too large.
        OperationCancelled: it was cancelled.
        OSError: the disk is full or failing, whatever the archive.
    """
    target = _Target(folder, limits, archive.stat().st_size, cancelled)
    with archive.open("rb") as file, _translating_errors(target):
        for member in cancellable(cancelled, members(file, limits.files)):
            target.take(member)
        target.must_hold_something()


def top(folder: Path) -> Path:
    """Return the innermost folder that contains everything: many archives hold one folder with the rest inside."""
    entries = list(folder.iterdir())
    return top(entries[0]) if len(entries) == 1 and entries[0].is_dir() else folder


@contextmanager
def _translating_errors(target: _Target) -> Iterator[None]:
    """Translate the libraries' exceptions to `BadArchive` with the member's name."""
    try:
        yield
    except _DAMAGE as error:
        if isinstance(error, OSError) and not isinstance(error, gzip.BadGzipFile):
            raise
        where = f" at or after {quoted(target.current)}" if target.current else ""
        why = " ".join(str(error).split()) or type(error).__name__
        raise BadArchive(f"the archive is cut short or damaged{where}: {why[:200]}") from None


# ---- writing ---------------------------------------------------------------------------------------------


class _Target:
    """The target folder, and the members written to it."""

    def __init__(self, folder: Path, limits: Limits, packed_bytes: int, cancelled: threading.Event) -> None:
        self.current = ""
        self._cancelled = cancelled
        self._folder = folder
        self._limits = limits
        self._most_bytes = min(limits.total_bytes, max(FREE_OF_RATIO, limits.ratio * packed_bytes))
        self._bytes = 0
        self._space_checked_at = -_CHECK_SPACE_EVERY_BYTES
        # By case-folded name: the name as written, and whether it is a file.
        self._there: dict[str, tuple[str, bool]] = {}

    def take(self, member: Member) -> None:
        """Write one member.

        Raises:
            BadArchive: it is not allowed.
        """
        self.current = member.name
        if member.kind not in ("file", "folder"):
            raise BadArchive(f"{quoted(member.name)} is {member.kind}, which is not allowed")
        parts = _parts(member.name)
        if not parts or parts[0] == _JUNK_FOLDER or parts[-1] == _JUNK_FILE:
            return
        for depth in range(1, len(parts)):
            self._record(parts[:depth], is_file=False)
        self._record(parts, is_file=member.kind == "file")
        path = self._folder.joinpath(*parts)
        if member.kind == "folder":
            path.mkdir(parents=True, exist_ok=True)
        else:
            path.parent.mkdir(parents=True, exist_ok=True)
            with member.open() as source, path.open("xb") as file:
                self._copy(source, file, member.name)

    def must_hold_something(self) -> None:
        """Check that the archive contained files.

        Raises:
            BadArchive: it contained none.
        """
        if not any(is_file for _, is_file in self._there.values()):
            raise BadArchive("the archive holds no files")

    def _record(self, parts: Sequence[str], *, is_file: bool) -> None:
        """Record a name; some file systems treat names as equal that differ in case or Unicode normalisation.

        Raises:
            BadArchive: an equal name came before, or there are too many.
        """
        name = "/".join(parts)
        key = unicodedata.normalize("NFC", name).casefold()
        earlier = self._there.get(key)
        if earlier is None:
            self._there[key] = name, is_file
            if len(self._there) > self._limits.files:
                raise too_many(self._limits.files)
        elif earlier != (name, is_file) or is_file:
            raise BadArchive(f"{quoted(name)} and {quoted(earlier[0])} would be one and the same")

    def _copy(self, source: IO[bytes], file: IO[bytes], name: str) -> None:
        for chunk in cancellable(self._cancelled, iter(partial(source.read, CHUNK_BYTES), b"")):
            self._bytes += len(chunk)
            if self._bytes > self._most_bytes:
                raise BadArchive(f"with {quoted(name)} it becomes larger than {self._largest()}")
            self._check_free_space()
            file.write(chunk)

    def _largest(self) -> str:
        if self._most_bytes == self._limits.total_bytes:
            return f"{self._most_bytes} bytes, the most that may come out"
        return f"{self._most_bytes} bytes, {self._limits.ratio} times the archive's own size"

    def _check_free_space(self) -> None:
        if self._bytes - self._space_checked_at >= _CHECK_SPACE_EVERY_BYTES:
            self._space_checked_at = self._bytes
            if shutil.disk_usage(self._folder).free < self._limits.free_bytes + _CHECK_SPACE_EVERY_BYTES:
                raise OSError(errno.ENOSPC, "too little room to unpack", str(self._folder))


def _parts(name: str) -> list[str]:
    """Return the parts of a member's path.

    Raises:
        BadArchive: it points outside the folder, or is not a valid name on every file system.
    """
    shown = quoted(name)
    if any(unicodedata.category(letter) == "Cs" for letter in name):
        raise BadArchive(f"the name of {shown} is not UTF-8")
    if any(unicodedata.category(letter) == "Cc" for letter in name):
        raise BadArchive(f"{shown} has control characters in its name")
    if "\\" in name:
        raise BadArchive(f"{shown} has a backslash in its name; folders are parted by /")
    if name.startswith("/") or name[1:2] == ":":
        raise BadArchive(f"{shown} is an absolute path")
    parts = [part for part in name.split("/") if part not in ("", ".")]
    if ".." in parts:
        raise BadArchive(f"{shown} leads out of the archive")
    if len(parts) > DEEPEST:
        raise BadArchive(f"{shown} lies in more than {DEEPEST} folders")
    if any(len(part.encode()) > LONGEST_PART for part in parts):
        raise BadArchive(f"{shown} has a name of more than {LONGEST_PART} bytes")
    return parts
