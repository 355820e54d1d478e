"""Lists the files of a folder: which are pictures, and which links are followed. No Pillow, no torch.

Links to folders are followed, wherever they lead: code that keeps a job under some roots checks for links that leave
them before anything is read. Each folder is entered once, so that circular links end. A link that is skipped is
reported.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

from gkd_core.process.named_files import NotToBeRead, open_named

SUFFIXES = frozenset(
    (
        *(".jpg", ".jpeg", ".jpe", ".jfif", ".mpo"),
        *(".png", ".apng", ".bmp", ".dib", ".gif", ".webp"),
        *(".tif", ".tiff"),
        *(".ppm", ".pgm", ".pbm", ".pnm"),
        *(".jp2", ".j2k", ".jpc", ".jpf", ".jpx", ".j2c"),
    )
)
"""Suffixes of the pictures that `pictures.py` reads, in lower case: files that count as pictures where a folder is
searched, in every format of data sets and in `gkd predict`. See `is_picture_name`."""

NOWHERE = "link leads nowhere"
BACK = "link leads back into the folder that it lies in; not followed"
AGAIN = "link leads to a folder that another link leads to; followed once"
AS_TEXT = "file holds a path, as a link does that was copied or checked out as text; not followed"
CLOSED = "folder may not be read"

LONGEST_PATH = 4096
"""Bytes; Linux takes no more."""

PassedOver = Callable[[Path, str], None]
"""(link or folder, one of the reasons above)."""


def is_picture_name(name: str) -> bool:
    """Return whether a file is a picture by its name, in upper or lower case; hidden files are not."""
    return os.path.splitext(name)[1].lower() in SUFFIXES and not os.path.basename(name).startswith(".")


def files_below(folder: Path, passed_over: PassedOver = lambda path, why: None) -> Iterator[Path]:
    """Yield all files of a folder by name, then those of its folders in the same way, also through links.

    Args:
        folder: where to begin.
        passed_over: called for each link that leads nowhere or is not followed, for files that hold a link as text,
            and for each folder that may not be read.

    Raises:
        OSError: a folder cannot be read, for other reasons than that it is not allowed.
    """
    root = os.path.realpath(folder)
    yield from _files_below(folder, root, {root}, passed_over)


def _files_below(folder: Path, root: str, entered: set[str], passed_over: PassedOver) -> Iterator[Path]:
    try:
        with os.scandir(folder) as found:
            entries = sorted(found, key=lambda entry: entry.name)
    except PermissionError:
        passed_over(folder, CLOSED)
        return
    folders = []
    for entry in entries:
        if entry.is_symlink() and not os.path.exists(entry.path):
            passed_over(Path(entry.path), NOWHERE)
        elif entry.is_dir():
            folders.append(entry)
        elif _is_link_as_text(entry):
            passed_over(Path(entry.path), AS_TEXT)
        else:
            yield Path(entry.path)
    for entry in folders:
        real = os.path.realpath(entry.path)
        if why := _not_entered(real, root, entered, is_link=entry.is_symlink()):
            passed_over(Path(entry.path), why)
        else:
            entered.add(real)
            yield from _files_below(Path(entry.path), root, entered, passed_over)


def _not_entered(real: str, root: str, entered: set[str], *, is_link: bool) -> str:
    """Return why a folder is skipped, or "". A folder below the root is entered under its real path."""
    if is_link and (_within(real, root) or _within(root, real)):
        return BACK
    return AGAIN if real in entered else ""


def _is_link_as_text(entry: os.DirEntry[str]) -> bool:
    """Return whether a file is what git and some archives leave of a link to a folder: its target as text."""
    if "." in entry.name or not entry.is_file() or not 1 < entry.stat().st_size < LONGEST_PATH:
        return False
    try:
        with open_named(entry.path) as file:
            text = file.read(LONGEST_PATH).strip()
    except NotToBeRead:  # a link that leads out of the data roots
        return False
    return b"/" in text and text.isascii() and not any(space in text for space in (b" ", b"\n", b"\0"))


def _within(path: str, folder: str) -> bool:
    return Path(path).is_relative_to(folder)


def dead_link_above(file: Path) -> Path | None:
    """Return the broken link on the way to a missing file, the file itself included; None without one."""
    ways = (file, *file.parents)
    return next((path for path in ways if os.path.islink(path) and not os.path.exists(path)), None)
