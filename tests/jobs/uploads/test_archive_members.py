"""Members of archives: in order, with the kind that decides whether they are allowed."""

from __future__ import annotations

import io
import tarfile
import zipfile
from pathlib import Path

import pytest

from jobs.uploads.archive_members import BadArchive, members, quoted

FOUND = [("folder", "folder"), ("folder/file", "file"), ("link", "a symbolic link")]


def packed_zip(file: Path) -> Path:
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("folder/", b"")
        archive.writestr("folder/file", b"content")
        link = zipfile.ZipInfo("link")
        link.external_attr = 0o120777 << 16
        archive.writestr(link, "/etc/passwd")
    return file


def packed_tar(file: Path, mode: str) -> Path:
    kinds = {"folder": tarfile.DIRTYPE, "folder/file": tarfile.REGTYPE, "link": tarfile.SYMTYPE}
    with tarfile.open(file, mode) as archive:  # type: ignore[call-overload]
        for name, kind in kinds.items():
            info = tarfile.TarInfo(name)
            info.type, info.size = kind, len(b"content") if kind == tarfile.REGTYPE else 0
            archive.addfile(info, io.BytesIO(b"content"))
    return file


@pytest.mark.parametrize("form", ["zip", "w", "w:gz"])
def test_members_come_in_order_with_their_kinds(tmp_path: Path, form: str) -> None:
    file = packed_zip(tmp_path / "a") if form == "zip" else packed_tar(tmp_path / "a", form)
    seen, content = [], b""
    with file.open("rb") as source:
        for member in members(source, most=10):
            seen.append((member.name.rstrip("/"), member.kind))
            if member.kind == "file":
                content += member.open().read()
    assert seen == FOUND
    assert content == b"content"


def test_a_zip_of_too_many_members_is_refused_before_the_first(tmp_path: Path) -> None:
    with (
        packed_zip(tmp_path / "a").open("rb") as source,
        pytest.raises(BadArchive, match="more than 2 files"),
    ):
        next(members(source, most=2))


def test_names_in_messages_are_escaped_and_short() -> None:
    assert quoted("a\x1b[31m") == r"'a\x1b[31m'"
    assert len(quoted("long" * 100)) < 120
