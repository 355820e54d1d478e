"""Pictures of 16 or 32 bits: which value means white, and how they become 8 bits.

One white value is used for a whole data set, in colour and in grey: scaled one by one, pictures of the same scene would
differ in brightness, and a single hot pixel would darken its picture sixteen times. Files do not say how many of their
bits a camera used, so it is estimated from the brightest pixels of a sample: the smallest usual depth that holds all
but a thousandth of them. A value that a file declares is used instead: PPM and JPEG 2000, which Pillow scales, and
TIFF of 12 bits.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

GREY = ("I", "I;16", "I;16B", "I;16L", "I;16N")
"""Modes of Pillow for grey of more than 8 bits."""
WHITES = tuple(2**bits - 1 for bits in (8, 10, 12, 14, 16, 20, 24, 31))
"""Values that may mean white."""
FULL = 2**16 - 1
DECLARED = ("PPM", "JPEG2000")
"""Formats that declare their white value; Pillow scales it to `FULL`, or to 8 bits in colour."""
HOT = 0.001
"""Share of the pixels of a picture that may lie above white: hot pixels, and small reflections."""
_BITS_PER_SAMPLE = 258
"""The TIFF tag."""
_HALVES = {"RGB;16B": "RGB;16L", "RGB;16L": "RGB;16B", "RGBA;16B": "RGBA;16L", "RGBA;16L": "RGBA;16B"}
"""Raw modes with the byte order exchanged. Pillow keeps the upper byte of each colour; with these, the lower one."""

Values = NDArray[Any]
"""(H, W) or (H, W, 3), whole numbers."""


def is_deep(image: Image.Image) -> bool:
    """Return whether an opened, not yet decoded image has more than 8 bits a channel."""
    return image.mode in GREY or _other_half(image) is not None


def declared_white(image: Image.Image) -> int | None:
    """Return the white value where the file declares it."""
    if image.format in DECLARED:
        return FULL
    if image.format == "TIFF" and image.mode in GREY:
        bits = getattr(image, "tag_v2", {}).get(_BITS_PER_SAMPLE, ())
        return 4095 if tuple(bits) == (12,) else None
    return None


def values_of(image: Image.Image, again: Callable[[], AbstractContextManager[Image.Image]]) -> Values:
    """Decode an image that is deep.

    Args:
        image: opened.
        again: opens it once more, since the two bytes of a channel are read one after the other.

    Returns:
        (H, W) grey or (H, W, 3) colours, with every bit.
    """
    other = _other_half(image)
    if other is None:
        return np.asarray(image)
    upper = np.asarray(image)[..., :3].astype(np.uint16)
    with again() as second:
        tiles = [tile._replace(args=_swapped(tile.args)) for tile in _tiles(second)]
        setattr(second, "tile", tiles)  # noqa: B010  (only pictures from files have some)
        values: Values = (upper << 8) | np.asarray(second)[..., :3]
        return values


def brightest(values: Values) -> int:
    """Return the value that only a share of `HOT` of the pixels exceed."""
    return int(np.quantile(values, 1 - HOT, method="lower")) if values.size else 0


def white_for(brightest_ones: Sequence[int]) -> int:
    """Return the white value for pictures whose brightest pixels have these values."""
    most = max(brightest_ones, default=FULL)
    return next((white for white in WHITES if most <= white), WHITES[-1])


def to_eight_bits(values: Values, white: int) -> Image.Image:
    """Scale values to 0..255; those below 0 and above white are cut."""
    if values.dtype == np.uint16:
        steps = np.arange(FULL + 1, dtype=np.float32) * np.float32(255 / white)
        eight = np.clip(np.rint(steps), 0, 255).astype(np.uint8)[values]
    else:
        eight = np.clip(np.rint(values.astype(np.float32) * np.float32(255 / white)), 0, 255).astype(np.uint8)
    return Image.fromarray(eight)


def _other_half(image: Image.Image) -> Any:
    """Return the tiles that read the lower bytes of a colour image of 16 bits; None for other images."""
    tiles = [] if image.format in DECLARED else _tiles(image)
    return _swapped(tiles[0].args) if tiles else None


def _tiles(image: Image.Image) -> list[Any]:
    """Return the decoder's tiles of an image that was opened from a file."""
    return list(getattr(image, "tile", ()))


def _swapped(args: Any) -> Any:
    """Return the arguments of a decoder with the bytes in the other order; None where that does not apply."""
    raw = args if isinstance(args, str) else args[0] if args else None
    if not isinstance(raw, str):
        return None
    native = "L" if sys.byteorder == "little" else "B"
    other = _HALVES.get(raw[:-1] + native if raw.endswith(";16N") else raw)
    if other is None:
        return None
    return other if isinstance(args, str) else (other, *args[1:])
