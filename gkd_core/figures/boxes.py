"""Drawing boxes with names on an image."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from PIL import Image, ImageDraw

from gkd_core.figures.sheet import font
from gkd_core.figures.style import BLUE, GREEN, VERMILLION, YELLOW

HIT, FALSE_ALARM, MISSED, IGNORED, TRUTH = BLUE, VERMILLION, YELLOW, "#9a9a9a", GREEN
"""Colours of boxes. Hits are solid, false alarms dashed, missed objects dotted."""
DASHES = {FALSE_ALARM: (8, 6), MISSED: (3, 5)}
"""Lengths of dashes and gaps in pixels; other boxes are solid."""
LIGHT = (MISSED, IGNORED)
LETTERS = 11
"""Height of a name, in pixels."""

Box = tuple[float, float, float, float]


class Drawn(NamedTuple):
    """A box to draw on an image."""

    box: Box
    """x1, y1, x2, y2 in pixels of the original."""
    colour: str
    label: str
    """Text beside it; may be empty."""


def with_boxes(picture: Image.Image, boxes: Sequence[Drawn], scale: float) -> Image.Image:
    """Return a copy of an image with boxes on it, and with names as far as there is room for them.

    Args:
        picture: RGB.
        boxes: in pixels of the original; names of the first ones are placed first.
        scale: pixels of `picture` per pixel of the original.
    """
    drawn = picture.copy()
    draw = ImageDraw.Draw(drawn)
    for box in reversed(boxes):
        outline(draw, _scaled(box.box, scale), box.colour)
    placed: list[Box] = []
    for box in boxes:
        _write_name(draw, box, _scaled(box.box, scale), drawn.size, placed)
    return drawn


def _scaled(box: Box, scale: float) -> Box:
    x1, y1, x2, y2 = (value * scale for value in box)
    return x1, y1, x2, y2


def outline(draw: ImageDraw.ImageDraw, box: Box, colour: str) -> None:
    """Draw a rectangle two pixels wide inside a paler or darker one, to be visible on any image."""
    x1, y1, x2, y2 = (round(value) for value in box)
    x2, y2 = max(x2, x1 + 3), max(y2, y1 + 3)
    edges = [
        *((first, y, last, y + 1) for first, last in _dashes(x1, x2, colour) for y in (y1, y2 - 1)),
        *((x, first, x + 1, last) for first, last in _dashes(y1, y2, colour) for x in (x1, x2 - 1)),
    ]
    for left, top, right, bottom in edges:
        draw.rectangle(
            (left - 1, top - 1, right + 1, bottom + 1), fill="black" if colour in LIGHT else "white"
        )
    for edge in edges:
        draw.rectangle(edge, fill=colour)


def _dashes(start: int, end: int, colour: str) -> list[tuple[int, int]]:
    """Return first and last pixel of each dash of a line."""
    drawn, left_out = DASHES.get(colour, (end - start + 1, 0))
    return [(at, min(at + drawn - 1, end)) for at in range(start, end + 1, drawn + left_out)]


def _write_name(
    draw: ImageDraw.ImageDraw, drawn: Drawn, box: Box, size: tuple[int, int], placed: list[Box]
) -> None:
    """Write the name above or in the upper left corner of a box, unless another name is there already."""
    if not drawn.label:
        return
    letters = font(LETTERS)
    width, height = letters.getlength(drawn.label) + 4, LETTERS + 3
    x = min(max(box[0], 0), max(size[0] - width, 0))
    for y in (box[1] - height - 1, box[1] + 2, box[3] + 2):
        place = (x, y, x + width, y + height)
        if 0 <= y <= size[1] - height and not any(_overlap(place, other) for other in placed):
            placed.append(place)
            draw.rectangle(place, fill=drawn.colour)
            draw.text(
                (x + 2, y + 1),
                drawn.label,
                fill="black" if drawn.colour == IGNORED else "white",
                font=letters,
            )
            return


def _overlap(one: Box, other: Box) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]
