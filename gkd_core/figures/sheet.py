"""A canvas for images with text beside them, laid out in pixels."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Literal

from PIL import Image, ImageDraw, ImageFont

from gkd_core.figures.style import DIM, INK, PALE, font_file, shortened

MARGIN = 20
TITLE, LINE = 46, 18
"""Heights in pixels of the title, and of a line of explanation."""


@cache
def font(size: int, *, bold: bool = False) -> ImageFont.FreeTypeFont:
    """Return the font in a size of pixels; laid out the same way on every machine."""
    return ImageFont.truetype(str(font_file(bold=bold)), size, layout_engine=ImageFont.Layout.BASIC)


class Sheet:
    """White canvas with a title; `top` is the first row of pixels below it."""

    def __init__(self, width: int, height: int, title: str, lines: Sequence[str]) -> None:
        """Create the canvas and write the title.

        Args:
            width: pixels.
            height: pixels, below the title and its explanation.
            title: in large letters.
            lines: explanation.
        """
        self.top = TITLE + LINE * len(lines) + 10
        self.image = Image.new("RGB", (width, self.top + height), "white")
        self.draw = ImageDraw.Draw(self.image)
        self.write(MARGIN, 14, title, size=20, bold=True)
        for position, line in enumerate(lines):
            self.write(MARGIN, TITLE + LINE * position, line, colour=DIM)

    def write(
        self,
        x: int,
        y: int,
        text: str,
        *,
        size: int = 13,
        bold: bool = False,
        colour: str = INK,
        width: int | None = None,
        align: Literal["l", "m", "r"] = "l",
    ) -> None:
        """Write a line whose top is at y, shortened to `width` pixels (None: to the edge of the sheet)."""
        letters = font(size, bold=bold)
        room = width or self.image.width - MARGIN - x
        line = shortened(text, lambda candidate: letters.getlength(candidate) <= room)
        self.draw.text((x, y), line, fill=colour, font=letters, anchor=f"{align}a")

    def paste(self, picture: Image.Image, x: int, y: int) -> None:
        """Paste an image with its upper left corner at (x, y)."""
        self.image.paste(picture, (x, y))


def tile(
    picture: Image.Image, box: tuple[float, float, float, float], size: int, *, around: float
) -> Image.Image:
    """Crop an object out of its image, on a square of `size` pixels.

    Args:
        picture: RGB.
        box: x1, y1, x2, y2 in pixels of `picture`.
        size: side of the square, in pixels.
        around: margin on every side, as a share of the object's longer side.
    """
    x1, y1, x2, y2 = box
    room = around * max(x2 - x1, y2 - y1) + 1
    cut = (
        max(0, int(x1 - room)),
        max(0, int(y1 - room)),
        min(picture.width, int(x2 + room) + 1),
        min(picture.height, int(y2 + room) + 1),
    )
    paper = Image.new("RGB", (size, size), PALE)
    if cut[2] <= cut[0] or cut[3] <= cut[1]:
        return paper
    scale = size / max(cut[2] - cut[0], cut[3] - cut[1])
    width, height = (max(1, round((cut[i + 2] - cut[i]) * scale)) for i in range(2))
    left, top = (size - width) // 2, (size - height) // 2
    part = picture.resize((width, height), Image.Resampling.BICUBIC, cut, reducing_gap=3.0)
    paper.paste(part, (left, top))
    corners = [(v - cut[i % 2]) * scale + (left, top)[i % 2] for i, v in enumerate(box)]
    _outline(paper, corners)
    return paper


def _outline(paper: Image.Image, corners: Sequence[float]) -> None:
    """Draw a white line beside a black one, to be visible on any colour."""
    x1, y1, x2, y2 = (min(max(round(value), 1), paper.width - 2) for value in corners)
    draw = ImageDraw.Draw(paper)
    draw.rectangle((x1 - 1, y1 - 1, x2 + 1, y2 + 1), outline="black")
    draw.rectangle((x1, y1, max(x1, x2), max(y1, y2)), outline="white")
