"""Reads pictures from files with Pillow and numpy, decoded by content and never by extension.

One policy everywhere: EXIF rotation is applied, alpha is dropped, of an animation or a multi-page file the first
frame is used, a truncated file is refused rather than filled up with grey.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from gkd_core.data import bit_depth
from gkd_core.errors import DISK_AND_NETWORK, FailureClass, GkdError
from gkd_core.process.named_files import open_named

MAX_PIXELS = 80_000_000
"""Larger pictures are refused: 240 MB decoded. The largest cameras write 60 million."""

FORMATS = ("BMP", "DIB", "GIF", "JPEG", "JPEG2000", "PNG", "PPM", "TIFF", "WEBP")
"""Plain raster formats (JPEG with the phones' MPO); Pillow would also run others through outside programs."""

ORIENTATION_TAG = 0x0112
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""Transposition from the stored pixels to the picture as displayed, by EXIF orientation; 1 needs none."""

FLAT = 8
"""Of 255 levels: a picture whose pixels, but for a thousandth at either end, span at most these shows nothing."""


class PictureError(GkdError):
    """Raised when a picture cannot be used; the message names the file."""

    failure_class = FailureClass.DATA


class Header(NamedTuple):
    """The contents of a picture's header."""

    size: tuple[int, int]
    """Width and height in pixels after EXIF rotation."""
    orientation: int
    """EXIF's, 1 to 8; 1 where there is none."""
    undeclared: bool
    """Whether it has 16 or 32 bits and does not declare its white value."""


class Look(NamedTuple):
    """Remarks on a picture that was decoded."""

    remarks: tuple[str, ...]
    flat: bool
    """Whether it is of one colour, or nearly."""


def read_header(path: Path) -> tuple[int, int]:
    """Return width and height in pixels after EXIF rotation, from the header alone.

    Raises:
        PictureError: not a picture that `read_picture` takes, as far as the header tells.
    """
    return open_header(path).size


def open_header(path: Path) -> Header:
    """Return the contents of a picture's header; nothing is decoded.

    Raises:
        PictureError: not a picture that `read_picture` takes, as far as the header tells.
    """
    with _opened(path) as image:
        turn = orientation(image)
        width, height = image.size
        undeclared = bit_depth.is_deep(image) and bit_depth.declared_white(image) is None
        return Header((height, width) if turn >= 5 else (width, height), turn, undeclared)


def read_picture(path: Path) -> NDArray[np.uint8]:
    """Return the picture as displayed: (H, W, 3), RGB.

    Grey is repeated over the channels and alpha dropped. With 16 and 32 bits, the white value is estimated from this
    picture; in a data set, from all pictures together (`bit_depth.py`).

    Raises:
        PictureError: no such file, no picture, cut short, too large, or of 32-bit floating point numbers.
    """
    return np.asarray(read_image(path))


def read_image(path: Path, at_least: int | None = None, white: int | None = None) -> Image.Image:
    """Return the picture as `read_picture` does, as a Pillow image of mode RGB.

    Args:
        path: the file.
        at_least: a picture whose longer side is twice this or more is shrunk by a whole factor, but not below it.
            A camera's JPEG then decodes several times faster, and takes a fraction of the memory.
        white: the white value of pictures of 16 or 32 bits that do not declare it; None: estimated from the picture.
    """
    with _opened(path) as image:
        turn = TURNS.get(orientation(image))
        if at_least is not None:
            share = at_least / max(image.size)
            image.draft(None, (math.ceil(image.width * share), math.ceil(image.height * share)))  # JPEG only
        rgb = _to_rgb(path, image, white)
        factor = max(rgb.size) // at_least if at_least else 1
        if factor > 1:
            rgb = rgb.reduce(factor)
        return rgb if turn is None else rgb.transpose(turn)


def inspect(path: Path) -> tuple[str, ...]:
    """Decode a picture in the cheapest way that finds every flaw; return remarks for people.

    Raises:
        PictureError: as `read_picture`.
    """
    return look_into(path).remarks


def look_into(path: Path, white: int | None = None) -> Look:
    """Decode a picture as `inspect` does, and find out whether it shows anything.

    Args:
        path: the file.
        white: as in `read_image`; None also estimates it.

    Raises:
        PictureError: as `read_picture`.
    """
    with _opened(path) as image:
        image.draft(None, (1, 1))  # JPEG: every byte is read, but few pixels are made of them
        remarks = []
        if getattr(image, "n_frames", 1) > 1:
            remarks.append("has several frames, of which only the first is used")
        own = None
        if bit_depth.is_deep(image):
            values = bit_depth.values_of(image, lambda: _reopened(path))
            own = bit_depth.declared_white(image) or bit_depth.white_for([bit_depth.brightest(values)])
            rgb = bit_depth.to_eight_bits(values, white or own).convert("RGB")
        else:
            rgb = image.convert("RGB")
        if white is None and own not in (None, bit_depth.FULL):
            remarks.append(f"uses {own.bit_length()} of its bits: {own} is taken as white")
        return Look(tuple(remarks), _is_flat(rgb))


def brightest_of(path: Path) -> int:
    """Return the value that hardly a pixel of a picture of 16 or 32 bits exceeds.

    Raises:
        PictureError: as `read_picture`.
    """
    with _opened(path) as image:
        return bit_depth.brightest(bit_depth.values_of(image, lambda: _reopened(path)))


def _is_flat(rgb: Image.Image) -> bool:
    counts = np.array(rgb.histogram()).reshape(3, 256).cumsum(axis=1)
    share = counts / counts[:, -1:]
    low = (share > bit_depth.HOT).argmax(axis=1)
    high = (share >= 1 - bit_depth.HOT).argmax(axis=1)
    return bool((high - low < FLAT).all())


def orientation(image: Image.Image) -> int:
    """Return the EXIF orientation of an opened, not yet decoded image, 1 to 8.

    Unknown and broken tags count as 1.
    """
    if image.format == "TIFF":  # Pillow turns these itself
        return 1
    if image.format == "PNG" and "exif" not in image.info:  # a late one needs decoding
        return 1
    try:
        value = image.getexif().get(ORIENTATION_TAG, 1)
    except Exception:  # broken EXIF raises a dozen kinds of errors in Pillow; all mean that there is none
        return 1
    return value if value in TURNS else 1


def _silence_pillow() -> None:
    """Silence Pillow's Python warnings: each is an error here anyway, or harmless.

    Filters belong to the whole process, and restoring earlier ones is not safe between threads; so this one
    stays. Setting it again changes nothing.
    """
    warnings.filterwarnings("ignore", module=r"PIL\b")


@contextmanager
def _opened(path: Path) -> Iterator[Image.Image]:
    """Yield an opened image with a sound header; errors in the block become PictureErrors that name the file.

    Errors of the disk or the network pass through: they are not the picture's, and may be gone the next time.
    """
    try:
        if not path.exists() or path.is_dir():
            raise PictureError(f"{path}: {'is a folder' if path.is_dir() else 'no such file'}, not a picture")
        if path.is_file() and path.stat().st_size == 0:
            raise PictureError(f"{path}: the file is empty, not a picture", "Copy or download it again.")
        _silence_pillow()
        with open_named(path) as file, Image.open(file, formats=FORMATS) as image:
            _refuse_by_header(path, image)
            yield image
    except GkdError:
        raise
    except UnidentifiedImageError as error:
        raise PictureError(
            f"{path}: not a picture in a known format", f"Known: {', '.join(FORMATS)}."
        ) from error
    except Image.DecompressionBombError as error:
        raise PictureError(f"{path}: more than {MAX_PIXELS} pixels", "Cut or shrink it.") from error
    except Exception as error:  # Pillow's decoders raise OSError, SyntaxError, struct.error and others
        if isinstance(error, OSError) and error.errno in DISK_AND_NETWORK:
            raise OSError(error.errno, error.strerror, str(path)) from error  # reads do not name the file
        raise PictureError(f"{path}: cannot be decoded: {error}", "Is the file complete?") from error


@contextmanager
def _reopened(path: Path) -> Iterator[Image.Image]:
    """Open a file again that was found sound before."""
    with open_named(path) as file, Image.open(file, formats=FORMATS) as image:
        yield image


def _refuse_by_header(path: Path, image: Image.Image) -> None:
    width, height = image.size
    if width * height > MAX_PIXELS:
        message = f"{path}: {width} x {height} is more than {MAX_PIXELS} pixels"
        raise PictureError(message, "Cut or shrink it.")
    if image.mode == "F":
        hint = "Save it with 8 or 16 bits: nobody can tell which number is white."
        raise PictureError(f"{path}: 32-bit floating point numbers", hint)


def _to_rgb(path: Path, image: Image.Image, white: int | None) -> Image.Image:
    """Return an opened image as RGB. Pillow's own conversion of more than 8 bits would leave a white picture."""
    if not bit_depth.is_deep(image):
        return image.convert("RGB")
    values = bit_depth.values_of(image, lambda: _reopened(path))
    white = bit_depth.declared_white(image) or white or bit_depth.white_for([bit_depth.brightest(values)])
    return bit_depth.to_eight_bits(values, white).convert("RGB")
