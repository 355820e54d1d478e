"""Drawing detections on an image: readable on any background, with any colour vision and any name. No torch here.

Colours are those of Okabe and Ito, which differ for every kind of colour vision, each with a dark edge; every box is
labelled with its class and score.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path

import numpy as np
from PIL import Image, ImageColor, ImageDraw, ImageFont

from gkd_core.figures.style import BLUE, GREEN, INK, ORANGE, SERIES, VERMILLION, YELLOW, at_most, font_file

COLOURS = (BLUE, ORANGE, GREEN, SERIES[3][0], SERIES[4][0], VERMILLION, YELLOW)
"""Colours by label, repeated: the names tell classes of one colour apart."""
NAME_LETTERS = 40
"""Longer names are shortened."""
Box = tuple[int, int, int, int]
"""left, top, right, bottom in whole pixels, all inclusive."""
Font = ImageFont.FreeTypeFont | ImageFont.ImageFont


def draw_boxes(
    image: Image.Image, boxes: np.ndarray, labels: np.ndarray, scores: np.ndarray, classes: Sequence[str]
) -> Image.Image:
    """Return a copy of an image with boxes, the best on top, and a label for each that finds room.

    No label covers another: they are placed in the order of the scores, above their box, below it, inside, or beside
    it. In a crowd the last ones find no room and are left out; the colour of their box still shows the class.

    Args:
        image: RGB.
        boxes: (N, 4) x1, y1, x2, y2 in its pixels.
        labels: (N,) from 1.
        scores: (N,) in 0..1.
        classes: the names; label 1 is the first.
    """
    drawn = image.copy()
    draw = ImageDraw.Draw(drawn)
    longer = max(image.size)
    width, letters = max(2, round(longer / 400)), max(11, round(longer / 45))
    for index in np.argsort(scores, kind="stable"):
        label = int(labels[index])
        colour = COLOURS[(label - 1) % len(COLOURS)]
        left, top, right, bottom = _clipped(boxes[index], image.size)
        draw.rectangle((left - 1, top - 1, right + 1, bottom + 1), outline=INK, width=width + 2)
        draw.rectangle((left, top, right, bottom), outline=colour, width=width)
    taken: list[Box] = []
    for index in np.argsort(-scores, kind="stable"):
        label = int(labels[index])
        name, file = lettering(classes[label - 1], label)
        box = _clipped(boxes[index], image.size)
        text, font = f"{name} {scores[index]:.2f}", _font(file, letters)
        if plate := free_plate(box, plate_size(draw, text, font), image.size, taken):
            taken.append(plate)
            _write(draw, plate, text, font, COLOURS[(label - 1) % len(COLOURS)])
    return drawn


def _clipped(box: np.ndarray, size: tuple[int, int]) -> Box:
    """Clip a box to whole pixels inside the image; it may be thinner than one pixel."""
    x1, y1, x2, y2 = (round(float(value)) for value in box)
    left, top = min(max(x1, 0), size[0] - 1), min(max(y1, 0), size[1] - 1)
    return left, top, max(left, min(x2, size[0] - 1)), max(top, min(y2, size[1] - 1))


def plate_size(draw: ImageDraw.ImageDraw, text: str, font: Font) -> tuple[int, int]:
    """Return width and height in pixels of the background plate of a text."""
    width, height = (round(value) for value in draw.textbbox((0, 0), text, font=font)[2:])
    return width + 4, height + 4


def free_plate(box: Box, size: tuple[int, int], picture: tuple[int, int], taken: Sequence[Box]) -> Box | None:
    """Return where the label of a box goes; None where there is no room that no other label has taken.

    Args:
        box: left, top, right, bottom, inclusive, inside the picture; so is what is returned.
        size: width and height of the label's plate.
        picture: width and height of the picture.
        taken: the plates that are there already.
    """
    for left, top in _candidate_corners(box, size):
        left = max(0, min(left, picture[0] - size[0] - 1))
        plate = (left, top, left + size[0], top + size[1])
        if (
            top >= 0
            and plate[3] < max(picture[1], size[1] + 1)
            and not any(_overlap(plate, t) for t in taken)
        ):
            return plate
    return None


def _candidate_corners(box: Box, size: tuple[int, int]) -> Iterator[tuple[int, int]]:
    """Yield upper left corners for a plate in order of preference.

    Above, inside, below, beside, and further down inside.
    """
    left, top, right, bottom = box
    width, height = size
    yield left, top - height - 1
    yield left, top
    yield left, bottom + 1
    yield right - width, top - height - 1
    yield right - width, bottom + 1
    yield right + 1, top
    yield left - width - 1, top
    yield from ((left, lower) for lower in range(top + height + 1, bottom - height, height + 1))


def _overlap(first: Box, second: Box) -> bool:
    """Return whether two plates share a pixel."""
    beside = first[2] < second[0] or second[2] < first[0]
    return not (beside or first[3] < second[1] or second[3] < first[1])


def _write(draw: ImageDraw.ImageDraw, plate: Box, text: str, font: Font, colour: str) -> None:
    """Write a text on a plate of the box's colour."""
    draw.rectangle(plate, fill=colour, outline=INK)
    draw.text((plate[0] + 2, plate[1] + 1), text, fill=readable_on(colour), font=font)


def readable_on(colour: str) -> str:
    """Return black or white, whichever has more contrast to a colour (WCAG 2.2, relative luminance)."""
    shares = np.array(ImageColor.getrgb(colour)[:3]) / 255
    linear = np.where(shares <= 0.04045, shares / 12.92, ((shares + 0.055) / 1.055) ** 2.4)
    luminance = float(linear @ [0.2126, 0.7152, 0.0722])
    return "black" if (luminance + 0.05) / 0.05 > 1.05 / (luminance + 0.05) else "white"


# ---- fonts -----------------------------------------------------------------------------------------------


@cache
def lettering(name: str, label: int) -> tuple[str, Path | None]:
    """Return the text to write for a class, and the font that has its letters (None: Pillow's own).

    If no font of this machine has all letters of a name, the text is `#` and its label, with the letters that can be
    written.
    """
    text = at_most(" ".join(name.split()), NAME_LETTERS)
    for file in _fonts():
        if text and all(_has_glyph(file, letter) for letter in text):
            return text, file
    first = next(_fonts())
    return f"#{label} {''.join(letter for letter in text if _has_glyph(first, letter))}".strip(), first


def _fonts() -> Iterator[Path | None]:
    """Yield matplotlib's font, and those of the machine; without matplotlib Pillow's own, which is ASCII only."""
    try:
        yield font_file()
        from matplotlib.font_manager import findSystemFonts
    except ImportError:
        yield None
    else:
        yield from map(Path, sorted(findSystemFonts()))


@cache
def _has_glyph(file: Path | None, letter: str) -> bool:
    """Return whether a font has a letter: its glyph differs from that of a missing letter."""
    try:
        return letter.isprintable() and (letter == " " or _glyph(file, letter) != _glyph(file, "\U0010ffff"))
    except OSError:  # a font that Pillow cannot read
        return False


@cache
def _glyph(file: Path | None, letter: str) -> bytes:
    mask = _font(file, 16).getmask(letter)
    return repr(mask.size).encode() + bytes(mask)


@cache
def _font(file: Path | None, size: int) -> Font:
    return ImageFont.load_default(size) if file is None else ImageFont.truetype(str(file), size)
