"""Colours, fonts, and display of arbitrary names.

Colours are those of Okabe and Ito, which differ for every kind of colour vision; line styles, markers and hatches
differ too, so that a grey print is still readable. The font is the one bundled with matplotlib.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import cache
from pathlib import Path
from typing import NamedTuple

BLUE, ORANGE, GREEN, VERMILLION, YELLOW = "#0072b2", "#e69f00", "#009e73", "#d55e00", "#f0e442"
INK, DIM, PALE = "#1a1a1a", "#5c5c5c", "#ececec"
SERIES = (
    (BLUE, "-", "o"),
    (ORANGE, "--", "s"),
    (GREEN, "-.", "^"),
    ("#cc79a7", ":", "D"),
    ("#56b4e9", "-", "v"),
)
"""Colour, line and marker of curves that do not stand for a role."""


class Look(NamedTuple):
    """Style in which a role is drawn in every figure."""

    colour: str
    line: str
    marker: str
    hatch: str


LOOKS = {
    "teacher": Look(GREEN, "-.", "^", "..."),
    "control": Look(ORANGE, "--", "s", "///"),
    "student": Look(BLUE, "-", "o", ""),
    "model": Look(BLUE, "-", "o", ""),
}
"""Styles by role, in the order in which roles are shown."""

_STYLE = {
    "font.family": ["DejaVu Sans"],
    "font.size": 10,
    "text.parse_math": False,  # names may contain `$`, which would start mathematical notation
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": DIM,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": 11,
    "axes.titlelocation": "left",
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": PALE,
    "grid.linewidth": 1.0,
    "xtick.color": DIM,
    "ytick.color": DIM,
    "legend.frameon": False,
    "hatch.linewidth": 0.6,
}


def chart_style() -> AbstractContextManager[None]:
    """Return a context with the style of charts, whatever the machine's own matplotlibrc says."""
    import matplotlib.style

    return matplotlib.style.context(["default", _STYLE])


# ---- text ------------------------------------------------------------------------------------------------


@cache
def font_file(*, bold: bool = False) -> Path:
    """Return the font that comes with matplotlib."""
    import matplotlib

    name = "DejaVuSans-Bold.ttf" if bold else "DejaVuSans.ttf"
    return Path(matplotlib.get_data_path()) / "fonts" / "ttf" / name


@cache
def _letters() -> frozenset[int]:
    from matplotlib.font_manager import get_font

    return frozenset(get_font(str(font_file())).get_charmap())


def shown(name: str, number: int | None = None) -> str:
    """Return a name with only letters that the font has, on one line.

    Args:
        name: anything.
        number: distinguishes names whose letters are missing: their position in the list that people have.
    """
    plain = " ".join("".join(letter if letter.isprintable() else " " for letter in name).split())
    drawn = "".join(letter if ord(letter) in _letters() else "\ufffd" for letter in plain)
    return f"#{number} {drawn}" if number is not None and (drawn != plain or not drawn) else drawn


def shortened(text: str, fits: Callable[[str], bool]) -> str:
    """Shorten a text to what fits, dots in the middle: names often differ at their ends."""
    if fits(text):
        return text
    low, high = 0, len(text)  # letters that are kept: `low` fit, `high` do not
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(_without_middle(text, middle)) else (low, middle)
    return _without_middle(text, low)


def _without_middle(text: str, kept: int) -> str:
    end = kept // 3
    return f"{text[: kept - end]}…{text[len(text) - end :]}"


def at_most(text: str, letters: int) -> str:
    """Shorten a text to a number of letters."""
    return shortened(text, lambda candidate: len(candidate) <= letters)
