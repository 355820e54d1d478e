"""Reading of untrusted archives, member by member: zip, tar and tar.gz.

Names and kinds are given as the archive has them; `archives.unpack` decides what is allowed.
"""

from __future__ import annotations

import gzip
import stat
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from functools import partial
from typing import IO, NamedTuple, Self

CHUNK_BYTES = 1 << 20
"""Bytes that are read at a time."""
_ENCRYPTED = 0x1
_UTF8 = 0x800


class BadArchive(Exception):
    """Why an archive is refused; the message names the member if there is one."""


class Member(NamedTuple):
    """One member of an archive."""

    name: str
    kind: str
    """`file`, `folder`, or a description of what is not allowed."""
    open: Callable[[], IO[bytes]]


def members(file: IO[bytes], most: int) -> Iterator[Member]:
    """Yield the members of an archive in its order; the format is detected by its first bytes.

    Args:
        file: The archive, at its beginning.
        most: Maximum number of members, as far as it is known before the first is read.

    Raises:
        BadArchive: it is no archive, has too many members, or a member shares its bytes with another.
    """
    start = file.read(512)
    file.seek(0)
    if start[:4] in (b"PK\x03\x04", b"PK\x05\x06"):
        return _zipped(file, most)
    if start[:2] == b"\x1f\x8b":
        return _gzipped(file)
    if start[257:262] == b"ustar":
        return _tarred(file)
    raise BadArchive("this is no zip, tar or tar.gz archive")


# ---- zip -------------------------------------------------------------------------------------------------


def _zipped(file: IO[bytes], most: int) -> Iterator[Member]:
    with zipfile.ZipFile(file) as archive:
        infos = archive.infolist()
        if len(infos) > most:  # known before anything is written
            raise too_many(most)
        must_not_overlap(archive)
        for info in infos:
            yield Member(_name_in_zip(info), _kind_in_zip(info), partial(archive.open, info))


def must_not_overlap(archive: zipfile.ZipFile) -> None:
    """Check that no members of a zip share bytes: a zip bomb holds the same large file a thousand times.

    Raises:
        BadArchive: some do.
    """
    end = archive.start_dir
    for info in sorted(archive.infolist(), key=lambda info: info.header_offset, reverse=True):
        if info.header_offset + 30 + len(info.orig_filename) + info.compress_size > end:
            raise BadArchive(f"{quoted(info.orig_filename)} shares its bytes with another member")
        end = info.header_offset


def _name_in_zip(info: zipfile.ZipInfo) -> str:
    """Return the name decoded as UTF-8, which tools usually mean even if they do not set the flag."""
    name = info.orig_filename  # `filename` is cut off at a NUL
    if info.flag_bits & _UTF8 or name.isascii():
        return name
    try:
        return name.encode("cp437").decode("utf-8")
    except UnicodeError:
        raise BadArchive(f"the name of {quoted(name)} is not UTF-8") from None


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


def _gzipped(file: IO[bytes]) -> Iterator[Member]:
    with gzip.GzipFile(fileobj=file, mode="rb") as stream:
        yield from _tarred(stream)
        left = 0
        while chunk := stream.read(CHUNK_BYTES):  # to its end, where the checksum is
            left += len(chunk)
            if left > 2 * CHUNK_BYTES:
                raise BadArchive("more follows after the archive's end")


def _tarred(stream: IO[bytes] | gzip.GzipFile) -> Iterator[Member]:
    with tarfile.open(fileobj=stream, mode="r|", tarinfo=_Header) as archive:
        for info in archive:
            yield Member(info.name, _kind_in_tar(info), partial(_opened, archive, info))
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


def too_many(most: int) -> BadArchive:
    """Return the refusal of an archive that holds more than so many files and folders."""
    return BadArchive(f"it holds more than {most} files and folders")


def quoted(name: str) -> str:
    """Return a name for messages: quoted, escaped for terminals, shortened."""
    text = ascii(name)
    return text if len(text) <= 120 else text[:80] + "..." + text[-30:]
