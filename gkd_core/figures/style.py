"""Colours, lettering, and names that may hold anything.

Colours are those of Okabe and Ito, which differ for every kind of colour vision; line styles, markers and hatches
differ too, so that a grey print still tells. The font is the one that matplotlib brings along.
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
"""Colour, line and marker of curves that are no roles."""


class Look(NamedTuple):
    """How a role is drawn everywhere."""

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
"""By role, in the order in which they are shown."""

_STYLE = {
    "font.family": ["DejaVu Sans"],
    "font.size": 10,
    "text.parse_math": False,  # names may hold any $
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
    """The style of charts while the block runs, whatever the machine's own matplotlibrc says."""
    import matplotlib.style

    return matplotlib.style.context(["default", _STYLE])


# ---- lettering -------------------------------------------------------------------------------------------


@cache
def font_file(*, bold: bool = False) -> Path:
    """The font that comes with matplotlib."""
    import matplotlib

    name = "DejaVuSans-Bold.ttf" if bold else "DejaVuSans.ttf"
    return Path(matplotlib.get_data_path()) / "fonts" / "ttf" / name


@cache
def _letters() -> frozenset[int]:
    from matplotlib.font_manager import get_font

    return frozenset(get_font(str(font_file())).get_charmap())


def shown(name: str, number: int | None = None) -> str:
    """A name in letters that the font has, on one line.

    Args:
        name: anything.
        number: tells names apart of which letters are lacking: the place in the list that people have.
    """
    plain = " ".join("".join(letter if letter.isprintable() else " " for letter in name).split())
    drawn = "".join(letter if ord(letter) in _letters() else "\ufffd" for letter in plain)
    return f"#{number} {drawn}" if number is not None and (drawn != plain or not drawn) else drawn


def shortened(text: str, fits: Callable[[str], bool]) -> str:
    """The text, or as much of its start and its end as fits, with dots between: names often differ at their ends."""
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
    """The text, shortened to so many letters."""
    return shortened(text, lambda candidate: len(candidate) <= letters)
