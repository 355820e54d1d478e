"""Archives of strangers: plain ones are unpacked, all others are refused with the name of the member."""

from __future__ import annotations

import errno
import gzip
import io
import shutil
import stat
import struct
import tarfile
import threading
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest

from jobs.errors import OperationCancelled
from jobs.uploads import archives
from jobs.uploads.archive_members import BadArchive
from jobs.uploads.archives import Limits, top, unpack

LIMITS = Limits(total_bytes=10_000_000, files=1000)
Pack = Callable[[Path, dict[str, bytes]], Path]


def pack_zip(file: Path, members: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            info = zipfile.ZipInfo()
            info.filename = name  # the constructor would cut it off at a NUL
            info.compress_type = zipfile.ZIP_DEFLATED
            archive.writestr(info, content)
    return file


def pack_tar(file: Path, members: dict[str, bytes], mode: str = "w") -> Path:
    with tarfile.open(file, mode) as archive:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return file


def pack_tar_gz(file: Path, members: dict[str, bytes]) -> Path:
    return pack_tar(file, members, "w:gz")


@pytest.fixture(params=[pack_zip, pack_tar, pack_tar_gz], ids=["zip", "tar", "tar.gz"])
def pack(request: pytest.FixtureRequest) -> Pack:
    maker: Pack = request.param
    return maker


class Place(NamedTuple):
    """Folders of archives and of what is unpacked."""

    file: Path
    folder: Path

    def refuses(self, why: str, limits: Limits = LIMITS) -> None:
        with pytest.raises(BadArchive, match=why):
            unpack(self.file, self.folder, limits)
        everything = {path for path in self.file.parent.parent.rglob("*") if path.is_file()}
        assert {path for path in everything if not path.is_relative_to(self.folder)} == {self.file}


@pytest.fixture
def place(tmp_path: Path) -> Place:
    place = Place(tmp_path / "in" / "archive", tmp_path / "out" / "folder")
    place.file.parent.mkdir()
    place.folder.mkdir(parents=True)
    return place


def holds(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


# ---- what is plain ---------------------------------------------------------------------------------------


def test_a_plain_archive_is_unpacked_whole(pack: Pack, place: Place) -> None:
    members = {
        "cells/a.png": b"a" * 3000,
        "cells/deep/b.json": b"{}",
        "cells/größe.txt": b"",
        "./cells/c": b"c",
    }
    unpack(pack(place.file, members), place.folder, LIMITS)
    assert holds(place.folder) == {name.removeprefix("./"): content for name, content in members.items()}
    assert top(place.folder) == place.folder / "cells"


def test_modes_and_owners_of_an_archive_are_not_believed(place: Place) -> None:
    with tarfile.open(place.file, "w") as archive:
        info = tarfile.TarInfo("run.sh")
        info.mode, info.uid, info.gid = 0o6777, 0, 0
        archive.addfile(info)
    unpack(place.file, place.folder, LIMITS)
    assert not stat.S_IMODE((place.folder / "run.sh").stat().st_mode) & 0o7111


def test_what_macos_adds_is_left_out(place: Place) -> None:
    members = {"a.png": b"a", "__MACOSX/._a.png": b"junk", ".DS_Store": b"junk"}
    unpack(pack_zip(place.file, members), place.folder, LIMITS)
    assert set(holds(place.folder)) == {"a.png"}


def test_an_archive_in_an_archive_stays_a_file(place: Place, tmp_path: Path) -> None:
    inner = pack_zip(tmp_path / "inner.zip", {"x": b"x" * 100_000})
    unpack(pack_zip(place.file, {"inner.zip": inner.read_bytes()}), place.folder, LIMITS)
    assert set(holds(place.folder)) == {"inner.zip"}


def test_a_zip_whose_names_are_utf8_without_saying_so_is_read(place: Place) -> None:
    pack_zip(place.file, {"größe.txt": b""})
    raw = bytearray(place.file.read_bytes())
    for mark, offset in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):  # remove the flag that declares UTF-8
        at = raw.index(mark) + offset
        raw[at : at + 2] = struct.pack("<H", struct.unpack("<H", raw[at : at + 2])[0] & ~0x800)
    place.file.write_bytes(raw)
    unpack(place.file, place.folder, LIMITS)
    assert set(holds(place.folder)) == {"größe.txt"}


# ---- names -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("../evil", "'../evil' leads out of the archive"),
        ("a/../../evil", "leads out of the archive"),
        ("a/..", "leads out of the archive"),
        ("/etc/evil", "'/etc/evil' is an absolute path"),
        ("//evil", "is an absolute path"),
        ("C:/evil", "'C:/evil' is an absolute path"),
        ("..\\evil", "has a backslash in its name"),
        ("a\\b", "has a backslash in its name"),
        ("a\nb", r"'a\\nb' has control characters"),
        ("\x1b[2J", "has control characters"),
        ("x" * 256, "more than 255 bytes"),
        ("d/" * 40 + "x", "more than 32 folders"),
    ],
)
def test_names_that_are_no_plain_names_are_refused(pack: Pack, place: Place, name: str, why: str) -> None:
    pack(place.file, {"fine": b"", name: b"evil"})
    place.refuses(why)


def test_a_nul_in_a_name_is_seen(place: Place) -> None:
    pack_zip(place.file, {"a.png\0.exe": b""})
    place.refuses(r"'a.png\\x00.exe' has control characters")


def test_names_that_are_not_utf8_are_refused(place: Place) -> None:
    with tarfile.open(place.file, "w", format=tarfile.GNU_FORMAT, encoding="latin-1") as archive:
        archive.addfile(tarfile.TarInfo("größe"))
    place.refuses(r"'gr\\udcf6\\udcdfe' is not UTF-8")
    pack_zip(place.file, {"grXe": b""})
    place.file.write_bytes(place.file.read_bytes().replace(b"grXe", b"gr\xf6e"))
    place.refuses("is not UTF-8")


@pytest.mark.parametrize("pair", [("a.png", "a.png"), ("a.png", "A.PNG"), ("é", "e\u0301"), ("I/a", "i/b")])
def test_two_members_of_one_name_are_refused(place: Place, pair: tuple[str, str]) -> None:
    with tarfile.open(place.file, "w") as archive:
        for name in pair:
            archive.addfile(tarfile.TarInfo(name))
    place.refuses("would be one and the same")


def test_a_file_that_is_also_a_folder_is_refused(pack: Pack, place: Place) -> None:
    pack(place.file, {"a": b"", "a/b": b""})
    place.refuses("would be one and the same")


# ---- kinds -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "why"),
    [
        (tarfile.SYMTYPE, "'evil' is a symbolic link"),
        (tarfile.LNKTYPE, "'evil' is a hard link"),
        (tarfile.CHRTYPE, "'evil' is a device"),
        (tarfile.BLKTYPE, "'evil' is a device"),
        (tarfile.FIFOTYPE, "'evil' is a pipe"),
        (tarfile.GNUTYPE_SPARSE, "'evil' is a special file"),
        (b"V", "is a special file"),
    ],
)
def test_only_files_and_folders_come_out_of_a_tar(place: Place, kind: bytes, why: str) -> None:
    with tarfile.open(place.file, "w", format=tarfile.GNU_FORMAT) as archive:
        info = tarfile.TarInfo("evil")
        info.type, info.linkname = kind, "/etc/passwd"
        archive.addfile(info)
    place.refuses(why)


@pytest.mark.parametrize(
    ("mode", "why"), [(stat.S_IFLNK, "'evil' is a symbolic link"), (stat.S_IFCHR, "'evil' is a device")]
)
def test_only_files_and_folders_come_out_of_a_zip(place: Place, mode: int, why: str) -> None:
    with zipfile.ZipFile(place.file, "w") as archive:
        info = zipfile.ZipInfo("evil")
        info.external_attr = (mode | 0o777) << 16
        archive.writestr(info, "/etc/passwd")
    place.refuses(why)


def test_a_link_and_a_file_through_it_write_nothing(place: Place, tmp_path: Path) -> None:
    with tarfile.open(place.file, "w") as archive:
        link = tarfile.TarInfo("way")
        link.type, link.linkname = tarfile.SYMTYPE, str(tmp_path)
        archive.addfile(link)
        archive.addfile(tarfile.TarInfo("way/evil"))
    place.refuses("'way' is a symbolic link")


def test_an_encrypted_member_is_refused(place: Place) -> None:
    pack_zip(place.file, {"a": b"secret"})
    raw = bytearray(place.file.read_bytes())
    for mark, offset in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        raw[raw.index(mark) + offset] |= 1
    place.file.write_bytes(raw)
    place.refuses("'a' is encrypted")


def test_other_ways_to_pack_are_refused(place: Place) -> None:
    with zipfile.ZipFile(place.file, "w", zipfile.ZIP_LZMA) as archive:
        archive.writestr("a", b"x" * 1000)
    place.refuses("'a' is packed in another way than deflate")


# ---- bombs -----------------------------------------------------------------------------------------------


def test_a_bomb_is_stopped_by_what_comes_out(pack: Pack, place: Place) -> None:
    pack(place.file, {"fine": b"", "bomb": bytes(9_000_000), "more": bytes(9_000_000)})
    place.refuses("with 'more' it becomes larger than 10000000 bytes, the most")
    assert sum(map(len, holds(place.folder).values())) <= LIMITS.total_bytes


def test_a_bomb_is_stopped_by_its_ratio(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archives, "FREE_OF_RATIO", 1000)
    pack_zip(place.file, {"bomb": bytes(5_000_000)})  # a thousand to one
    place.refuses("200 times the archive's own size")


def test_a_size_that_is_announced_too_small_is_no_way_around(place: Place) -> None:
    pack_zip(place.file, {"bomb": bytes(200_000)})
    raw = bytearray(place.file.read_bytes())
    for mark, offset in ((b"PK\x03\x04", 22), (b"PK\x01\x02", 24)):
        at = raw.index(mark) + offset
        raw[at : at + 4] = struct.pack("<I", 10)
    place.file.write_bytes(raw)
    place.refuses("cut short or damaged")


def test_members_that_share_their_bytes_are_refused(place: Place) -> None:
    pack_zip(place.file, {"one": b"x" * 500, "two": b"y" * 500})
    raw = bytearray(place.file.read_bytes())
    second = raw.rindex(b"PK\x01\x02")
    raw[second + 42 : second + 46] = struct.pack("<I", 0)  # it, too, begins at the offset of the first one
    place.file.write_bytes(raw)
    place.refuses("shares its bytes with another member")


def test_too_many_members_are_refused(pack: Pack, place: Place) -> None:
    pack(place.file, {f"{number}": b"" for number in range(12)})
    place.refuses("more than 10 files and folders", Limits(total_bytes=1000, files=10))


def test_folders_that_names_imply_count_too(place: Place) -> None:
    pack_tar(place.file, {"/".join(f"{branch}{depth}" for depth in range(9)): b"" for branch in "abc"})
    place.refuses("more than 10 files and folders", Limits(total_bytes=1000, files=10))


def test_a_bomb_behind_the_end_of_a_tar_is_not_read(place: Place) -> None:
    whole = pack_tar(place.file, {"a": b"a"}).read_bytes()
    place.file.write_bytes(gzip.compress(whole + bytes(9_000_000)))
    place.refuses("more follows after the archive's end")


def test_a_disk_without_room_is_not_the_archives_fault(
    pack: Pack, place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(place.folder)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=1000))
    with pytest.raises(OSError, match="too little room") as raised:
        unpack(pack(place.file, {"a": b"a"}), place.folder, LIMITS)
    assert raised.value.errno == errno.ENOSPC


def test_who_gives_up_does_not_wait_for_the_next_block(pack: Pack, place: Place) -> None:
    cancelled = Impatient(looks=5)
    members = {f"{number}.bin": bytes(3 << 20) for number in range(4)}
    with pytest.raises(OperationCancelled):
        unpack(pack(place.file, members), place.folder, LIMITS, cancelled)
    assert {name: len(content) for name, content in holds(place.folder).items()} == {
        "0.bin": 3 << 20,
        "1.bin": 0,
    }


class Impatient(threading.Event):
    """An event that is set once it was read so many times."""

    def __init__(self, looks: int) -> None:
        super().__init__()
        self._looks = looks

    def is_set(self) -> bool:
        self._looks -= 1
        return self._looks < 0


# ---- damage ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("left", [0.2, 0.5, 0.8, 0.95])
def test_an_archive_that_is_cut_short_is_refused(pack: Pack, place: Place, left: float) -> None:
    members = {f"{number}.bin": bytes(range(256)) * 40 for number in range(8)}
    whole = pack(place.file, members).read_bytes()
    if pack is pack_tar:
        whole = whole[: 8 * (512 + 10_240) + 512]  # without the padding, of which some may well be missing
    place.file.write_bytes(whole[: int(len(whole) * left)])
    place.refuses("cut short or damaged")


def test_a_tar_that_is_cut_between_two_members_is_refused(place: Place) -> None:
    whole = pack_tar(place.file, {"a": b"a" * 512, "b": b"b" * 512}).read_bytes()
    place.file.write_bytes(whole[:1024])
    place.refuses("cut short or damaged")


@pytest.mark.parametrize("pack", [pack_zip, pack_tar_gz], indirect=False, ids=["zip", "tar.gz"])
def test_damage_shows_by_the_checksum(pack: Pack, place: Place) -> None:
    raw = bytearray(pack(place.file, {"a.bin": bytes(range(256)) * 100}).read_bytes())
    raw[200] ^= 0xFF
    place.file.write_bytes(raw)
    place.refuses("cut short or damaged")


def test_a_damaged_header_in_a_tar_is_not_its_end(place: Place) -> None:
    raw = bytearray(pack_tar(place.file, {"a": b"a", "b": b"b"}).read_bytes())
    raw[1024] ^= 0xFF
    place.file.write_bytes(raw)
    place.refuses("cut short or damaged: bad checksum")


@pytest.mark.parametrize("content", [b"", b"hello", b"PK\x03\x04", b"\x1f\x8b\x08", b"BZh91AY", bytes(2000)])
def test_what_is_no_archive_is_refused(place: Place, content: bytes) -> None:
    place.file.write_bytes(content)
    place.refuses("no zip, tar or tar.gz|cut short or damaged")


def test_an_archive_without_files_is_refused(place: Place) -> None:
    with zipfile.ZipFile(place.file, "w") as archive:
        archive.writestr(zipfile.ZipInfo("folder/"), b"")
    place.refuses("holds no files")
