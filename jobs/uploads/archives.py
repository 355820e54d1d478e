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
import stat
import struct
import tarfile
import threading
import unicodedata
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import IO, NamedTuple, Self

from jobs.sync.cancellation import NEVER, cancellable

DEEPEST = 32
"""Maximum depth of nested folders."""
LONGEST_PART = 255
"""Maximum length of a file name in bytes: the limit of file systems."""
FREE_OF_RATIO = 100 * 1024**2
"""Bytes that any archive may unpack to, whatever its compression ratio: a blank bitmap compresses 1000:1."""
_CHUNK_BYTES = 1 << 20
_CHECK_SPACE_EVERY_BYTES = 64 << 20
_ENCRYPTED = 0x1
_UTF8 = 0x800
_JUNK_FOLDER, _JUNK_FILE = "__MACOSX", ".DS_Store"
"""Files that macOS adds to every zip; the pictures among them are none."""
_DAMAGE = (
    *(zipfile.BadZipFile, tarfile.TarError, gzip.BadGzipFile, zlib.error, EOFError),
    *(struct.error, ValueError, OverflowError, NotImplementedError, RuntimeError),
)
"""Exceptions that the libraries raise about a damaged archive."""


class BadArchive(Exception):
    """Why an archive is refused; the message names the member if there is one."""


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


class _Member(NamedTuple):
    """One member of an archive."""

    name: str
    kind: str
    """`file`, `folder`, or a description of what is not allowed."""
    open: Callable[[], IO[bytes]]


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
        for member in cancellable(cancelled, _members(file, limits)):
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
        where = f" at or after {_quoted(target.current)}" if target.current else ""
        why = " ".join(str(error).split()) or type(error).__name__
        raise BadArchive(f"the archive is cut short or damaged{where}: {why[:200]}") from None


def _members(file: IO[bytes], limits: Limits) -> Iterator[_Member]:
    start = file.read(512)
    file.seek(0)
    if start[:4] in (b"PK\x03\x04", b"PK\x05\x06"):
        return _zipped(file, limits)
    if start[:2] == b"\x1f\x8b":
        return _gzipped(file)
    if start[257:262] == b"ustar":
        return _tarred(file)
    raise BadArchive("this is no zip, tar or tar.gz archive")


# ---- zip -------------------------------------------------------------------------------------------------


def _zipped(file: IO[bytes], limits: Limits) -> Iterator[_Member]:
    with zipfile.ZipFile(file) as archive:
        members = archive.infolist()
        if len(members) > limits.files:  # known before anything is written
            raise _too_many(limits)
        must_not_overlap(archive)
        for info in members:
            yield _Member(_name_in_zip(info), _kind_in_zip(info), partial(archive.open, info))


def must_not_overlap(archive: zipfile.ZipFile) -> None:
    """Check that no members of a zip share bytes: a zip bomb holds the same large file a thousand times.

    Raises:
        BadArchive: some do.
    """
    end = archive.start_dir
    for info in sorted(archive.infolist(), key=lambda info: info.header_offset, reverse=True):
        if info.header_offset + 30 + len(info.orig_filename) + info.compress_size > end:
            raise BadArchive(f"{_quoted(info.orig_filename)} shares its bytes with another member")
        end = info.header_offset


def _name_in_zip(info: zipfile.ZipInfo) -> str:
    """Return the name decoded as UTF-8, which tools usually mean even if they do not set the flag."""
    name = info.orig_filename  # `filename` is cut off at a NUL
    if info.flag_bits & _UTF8 or name.isascii():
        return name
    try:
        return name.encode("cp437").decode("utf-8")
    except UnicodeError:
        raise BadArchive(f"the name of {_quoted(name)} is not UTF-8") from None


def _kind_in_zip(info: zipfile.ZipInfo) -> str:
    kind = stat.S_IFMT(info.external_attr >> 16)
    if info.flag_bits & _ENCRYPTED:
        return "encrypted"
    if kind == stat.S_IFLNK:
        return "a symbolic link"
    if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
        return "a device or another special file"
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        return "packed in another way than deflate"
    return "folder" if info.is_dir() else "file"


# ---- tar -------------------------------------------------------------------------------------------------


class _Header(tarfile.TarInfo):
    """A tar header; a damaged one is an error, where the library takes it for the end of the archive."""

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> Self:
        """Parse a header."""
        try:
            return super().frombuf(buf, encoding, errors)
        except tarfile.EOFHeaderError:  # type: ignore[attr-defined]
            raise
        except tarfile.HeaderError as error:
            raise BadArchive(f"the archive is cut short or damaged: {error}") from None


_ODD_TYPES = {
    tarfile.SYMTYPE: "a symbolic link",
    tarfile.LNKTYPE: "a hard link",
    tarfile.CHRTYPE: "a device",
    tarfile.BLKTYPE: "a device",
    tarfile.FIFOTYPE: "a pipe",
}


def _gzipped(file: IO[bytes]) -> Iterator[_Member]:
    with gzip.GzipFile(fileobj=file, mode="rb") as stream:
        yield from _tarred(stream)
        left = 0
        while chunk := stream.read(_CHUNK_BYTES):  # to its end, where the checksum is
            left += len(chunk)
            if left > 2 * _CHUNK_BYTES:
                raise BadArchive("more follows after the archive's end")


def _tarred(stream: IO[bytes] | gzip.GzipFile) -> Iterator[_Member]:
    with tarfile.open(fileobj=stream, mode="r|", tarinfo=_Header) as archive:
        for info in archive:
            yield _Member(info.name, _kind_in_tar(info), partial(_opened, archive, info))
            archive.members = []  # type: ignore[attr-defined]  # it would keep them all in memory


def _opened(archive: tarfile.TarFile, info: tarfile.TarInfo) -> IO[bytes]:
    file = archive.extractfile(info)
    assert file is not None  # it is a plain file
    return file


def _kind_in_tar(info: tarfile.TarInfo) -> str:
    if info.isdir():
        return "folder"
    if info.type in (tarfile.REGTYPE, tarfile.AREGTYPE) and not info.issparse():
        return "file"
    return _ODD_TYPES.get(info.type, "a special file")


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

    def take(self, member: _Member) -> None:
        """Write one member.

        Raises:
            BadArchive: it is not allowed.
        """
        self.current = member.name
        if member.kind not in ("file", "folder"):
            raise BadArchive(f"{_quoted(member.name)} is {member.kind}, which is not allowed")
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
                raise _too_many(self._limits)
        elif earlier != (name, is_file) or is_file:
            raise BadArchive(f"{_quoted(name)} and {_quoted(earlier[0])} would be one and the same")

    def _copy(self, source: IO[bytes], file: IO[bytes], name: str) -> None:
        for chunk in cancellable(self._cancelled, iter(partial(source.read, _CHUNK_BYTES), b"")):
            self._bytes += len(chunk)
            if self._bytes > self._most_bytes:
                raise BadArchive(f"with {_quoted(name)} it becomes larger than {self._largest()}")
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
    shown = _quoted(name)
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


def _too_many(limits: Limits) -> BadArchive:
    return BadArchive(f"it holds more than {limits.files} files and folders")


def _quoted(name: str) -> str:
    """Return a name for messages: quoted, escaped for terminals, shortened."""
    text = ascii(name)
    return text if len(text) <= 120 else text[:80] + "..." + text[-30:]
