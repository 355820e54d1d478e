"""What the files of pictures say: their headers and, where they are decoded, their brightest values and flaws."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple, TypeVar

import numpy as np

from gkd_core.data.pictures import PictureError, brightest_of, look_into, open_header
from gkd_core.data.records import WrittenImage
from gkd_core.process.named_files import allow_here, allowed_roots

SAMPLED = 64
"""Size of the sample of pictures of 16 or 32 bits from which the white value of all is estimated."""
THREADS = min(8, os.cpu_count() or 1)

_T = TypeVar("_T")
_Found = TypeVar("_Found")

_FEW = 16
"""Number of pictures below which starting threads takes longer than reading them one after the other."""


class PictureFile(NamedTuple):
    """A picture's file, as far as it was read."""

    size: tuple[int, int] | None
    """True width and height; None when the header was not read and none is declared."""
    orientation: int = 1
    """EXIF's; 1 when the header was not read."""
    undeclared: bool = False
    """Whether it has 16 or 32 bits and does not declare its white value."""
    remarks: tuple[str, ...] = ()
    unreadable: str = ""
    """The error in the header, if any."""
    broken: str = ""
    """The error behind a sound header, if any."""
    seen: bool = False
    """Whether the header was read."""
    flat: bool = False
    """Whether it was decoded and is of nearly one colour."""


def inspect_headers(images: Sequence[WrittenImage], headers: int | None) -> list[PictureFile]:
    """Read the headers of some pictures, evenly spread, and of all without a declared size.

    Args:
        images: the pictures.
        headers: how many; None: all.
    """
    count = len(images) if headers is None else min(headers, len(images))
    chosen = set(np.linspace(0, len(images) - 1, count).astype(int).tolist())
    files = [PictureFile(image.size) for image in images]
    wanted = [number for number, image in enumerate(images) if number in chosen or image.size is None]
    found = _for_each(_inspect_header, [images[number].path for number in wanted])
    for number, file in zip(wanted, found, strict=True):
        files[number] = file
    return files


def with_decoded(
    paths: Sequence[Path], files: Sequence[PictureFile], wanted: Sequence[int], white: int | None
) -> list[PictureFile]:
    """Return the headers, with the results of decoding the wanted pictures added."""
    files = list(files)
    for at, file in zip(
        wanted, _for_each(lambda at: _decoded(paths[at], files[at], white), wanted), strict=True
    ):
        files[at] = file
    return files


def _for_each(call: Callable[[_T], _Found], paths: Sequence[_T]) -> list[_Found]:
    if len(paths) <= _FEW:
        return list(map(call, paths))
    with ThreadPoolExecutor(THREADS, initializer=allow_here, initargs=(allowed_roots(),)) as pool:
        return list(pool.map(call, paths))


def _inspect_header(path: Path) -> PictureFile:
    try:
        return PictureFile(*open_header(path), seen=True)
    except PictureError as error:
        return PictureFile(None, unreadable=error.message)


def _decoded(path: Path, file: PictureFile, white: int | None) -> PictureFile:
    """Return a header with the results of decoding the picture added to it."""
    try:
        found = look_into(path, white)
    except PictureError as error:
        return file._replace(broken=error.message)
    return file._replace(remarks=found.remarks, flat=found.flat)


def deep_sample(files: Sequence[PictureFile]) -> list[int]:
    """Return some pictures that do not declare their white value, evenly spread: the same in every reading."""
    deep = [at for at, file in enumerate(files) if file.undeclared]
    return [deep[at] for at in np.linspace(0, len(deep) - 1, min(SAMPLED, len(deep))).astype(int)]


def brightest(paths: Sequence[Path], sample: Sequence[int]) -> list[int]:
    """Return the brightest values of those pictures of a sample that can be decoded."""

    def of(at: int) -> int | None:
        try:
            return brightest_of(paths[at])
        except PictureError:  # reported where every picture is decoded
            return None

    return [value for value in _for_each(of, sample) if value is not None]
