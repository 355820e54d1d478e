"""Charts as SVG that need no script, no style attribute and no fixed width.

The outer `<svg>` has no `viewBox`: labels, ticks and end points stand at per cents and keep their size. Lines lie in
a nested one that is stretched, with strokes that are not (`vector-effect` in the style sheet).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Literal, NamedTuple

from markupsafe import Markup, escape

Size = Literal["tall", "small"]
_TICKS: dict[Size, tuple[int, int]] = {"tall": (6, 5), "small": (3, 3)}
"""Most ticks on the x axis and on the y axis."""
_LABEL_GAP: dict[Size, float] = {"tall": 6.5, "small": 15.0}
"""Least distance of two labels at the ends of lines, in per cent of the height."""
_NEAR = 15.0
"""Labels whose ends are closer than this, in per cent of the width, must not overlap."""
_LABEL_WIDTH = 30.0
"""Least distance of labels side by side on a scale, in per cent of a narrow screen's width."""
_FINE = 1000
"""Units of the stretched part."""


class Series(NamedTuple):
    """One line."""

    name: str
    role: str
    """teacher, control, student, model or other: colour and dashes."""
    x: Sequence[float]
    y: Sequence[float]
    label: str
    """What stands at its end."""


class Range(NamedTuple):
    """The values between two sides of a plot."""

    low: float
    high: float

    def percent(self, value: float) -> float:
        """Return where a value lies, from 0 (low) to 100 (high)."""
        return 100 * (value - self.low) / (self.high - self.low)


def ticks(low: float, high: float, most: int) -> list[float]:
    """Return round values from `low` to `high`, at most about `most` of them.

    Steps are 1, 2, 2.5 or 5 times a power of ten.
    """
    step = _step(low, high, most)
    first = math.ceil(low / step - 1e-9)
    return [round(n * step, 12) for n in range(first, math.floor(high / step + 1e-9) + 1)]


def _step(low: float, high: float, most: int) -> float:
    raw = (high - low) / most
    power = 10.0 ** math.floor(math.log10(raw))
    return next(factor * power for factor in (1, 2, 2.5, 5, 10) if factor * power >= raw * (1 - 1e-9))


def tick_label(value: float, step: float) -> str:
    """Return a value with as many digits as ticks of this step need."""
    if value and abs(step) < 1e-3:
        return f"{value:.3g}"
    digits = next(n for n in range(8) if abs(round(step, n) - step) < 1e-9 * max(1.0, step))
    return f"{value:,.{digits}f}".replace("-", "\N{MINUS SIGN}")


def spread(wanted: Sequence[float], gap: float) -> list[float]:
    """Return places at least `gap` apart and in the same order, as near to the wanted ones as a pass down allows.

    Args:
        wanted: Places from 0 (top) to 100 (bottom), rising.
        gap: Least distance.
    """
    placed: list[float] = []
    for place in wanted:
        placed.append(max(place, placed[-1] + gap) if placed else place)
    beyond = max(0.0, placed[-1] - 100) if placed else 0.0
    return [place - beyond for place in placed]


def finite(series: Series) -> Series:
    """Return a series without the points that cannot be drawn."""
    kept = [(x, y) for x, y in zip(series.x, series.y, strict=True) if math.isfinite(x) and math.isfinite(y)]
    return series._replace(x=[x for x, _ in kept], y=[y for _, y in kept])


def line_chart(
    lines: Sequence[Series],
    *,
    title: str,
    size: Size = "tall",
    until: float | None = None,
    from_zero: bool = False,
) -> Markup:
    """Return a chart of lines with their names at their ends.

    Args:
        lines: Any number; without a point the chart is an empty frame.
        title: What it shows, for who cannot see it.
        size: Class of the plot in the style sheet.
        until: Where the x axis ends if that is beyond the last point; the part without values is shaded.
        from_zero: Begin the y axis at zero.
    """
    drawn = [each for each in map(finite, lines) if each.x]
    head = f'<svg class="plot {size}" role="img" aria-label="{escape(_described(title, drawn))}">'
    if not drawn:
        frame = '<line class="axis" x1="0" x2="100%" y1="100%" y2="100%"/>'
        return Markup(f'{head}{frame}<text class="nothing" x="50%" y="50%">no values yet</text></svg>')
    x, y = _x_range(drawn, until), _y_range(drawn, from_zero)
    last = max(each.x[-1] for each in drawn)
    parts = (
        *_grid(x, y, size),
        *(_rest(x.percent(last)) if until is not None and until > last else ()),
        f'<svg viewBox="0 0 {_FINE} {_FINE}" preserveAspectRatio="none" width="100%" height="100%">',
        *(_path(each, x, y) for each in drawn),
        "</svg>",
        *_ends(drawn, x, y, size),
    )
    return Markup(head + "".join(parts) + "</svg>")


def _described(title: str, drawn: Sequence[Series]) -> str:
    return f"{title}: " + (", ".join(each.label for each in drawn) or "no values yet")


def _x_range(drawn: Sequence[Series], until: float | None) -> Range:
    low, high = min(each.x[0] for each in drawn), max(each.x[-1] for each in drawn)
    low, high = min(low, 0.0), max(high, until or high)
    return Range(low, high if high > low else low + 1)


def _y_range(drawn: Sequence[Series], from_zero: bool) -> Range:
    low, high = min(min(each.y) for each in drawn), max(max(each.y) for each in drawn)
    low = min(low, 0.0) if from_zero else low
    margin = 0.05 * (high - low) or abs(high) * 0.1 or 1.0
    return Range(low if from_zero and low == 0 else low - margin, high + margin)


def _grid(x: Range, y: Range, size: Size) -> Iterator[str]:
    most_x, most_y = _TICKS[size]
    step = _step(y.low, y.high, most_y)
    for value in ticks(y.low, y.high, most_y):
        at = f"{100 - y.percent(value):.2f}%"
        yield f'<line class="grid" x1="0" x2="100%" y1="{at}" y2="{at}"/>'
        yield f'<text class="yl" x="-8" y="{at}">{tick_label(value, step)}</text>'
    step = _step(x.low, x.high, most_x)
    for value in ticks(x.low, x.high, most_x):
        at = f"{x.percent(value):.2f}%"
        yield f'<text class="xl" x="{at}" y="100%" dy="16">{tick_label(value, step)}</text>'


def _rest(percent: float) -> Iterator[str]:
    yield f'<rect class="rest" x="{percent:.2f}%" y="0" width="{100 - percent:.2f}%" height="100%"/>'


def _path(line: Series, x: Range, y: Range) -> str:
    places = [
        f"{_FINE * x.percent(a) / 100:.0f} {_FINE * (100 - y.percent(b)) / 100:.0f}"
        for a, b in zip(line.x, line.y, strict=True)
    ]
    return f'<path class="line r-{escape(line.role)}" d="M{"L".join(places)}"/>'


def _ends(drawn: Sequence[Series], x: Range, y: Range, size: Size) -> Iterator[str]:
    """Yield the point at the end of each line, and its label where it hides no other."""
    ends = sorted(drawn, key=lambda each: -y.percent(each.y[-1]))
    groups: list[list[Series]] = []
    for each in ends:
        here = x.percent(each.x[-1])
        near = [group for group in groups if abs(x.percent(group[-1].x[-1]) - here) < _NEAR]
        near[0].append(each) if near else groups.append([each])
    for group in groups:
        places = spread([100 - y.percent(each.y[-1]) for each in group], _LABEL_GAP[size])
        for each, place in zip(group, places, strict=True):
            at, height = f"{x.percent(each.x[-1]):.2f}%", f"{100 - y.percent(each.y[-1]):.2f}%"
            role = escape(each.role)
            yield f'<circle class="dot r-{role}" cx="{at}" cy="{height}" r="3.5"/>'
            yield f'<text class="end r-{role}" x="{at}" dx="9" y="{place:.2f}%">{escape(each.label)}</text>'


def scale(values: Mapping[str, float], text: str) -> Markup:
    """Return a scale with a mark for each role, as the verdict shows it.

    Args:
        values: Points of AP by role.
        text: The same in words.
    """
    margin = max(0.5, 0.25 * (max(values.values()) - min(values.values())))
    x = Range(min(values.values()) - margin, max(values.values()) + margin)
    step = _step(x.low, x.high, 5)
    parts = [f'<svg class="scale" role="img" aria-label="{escape(text)}">']
    for value in ticks(x.low, x.high, 5):
        at = f"{x.percent(value):.2f}%"
        parts.append(f'<line class="grid" x1="{at}" x2="{at}" y1="34%" y2="66%"/>')
        parts.append(f'<text class="xl" x="{at}" y="50%" dy="32">{tick_label(value, step)}</text>')
    parts.append('<line class="axis" x1="0" x2="100%" y1="50%" y2="50%"/>')
    if {"control", "student"} <= set(values):
        ends = sorted(x.percent(values[role]) for role in ("control", "student"))
        parts.append(f'<line class="gain" x1="{ends[0]:.2f}%" x2="{ends[1]:.2f}%" y1="50%" y2="50%"/>')
    ordered = sorted(values.items(), key=lambda item: item[1])
    lifts = _lifts([x.percent(value) for _, value in ordered])
    for (role, value), lift in zip(ordered, lifts, strict=True):
        label = f'<text class="lab r-{escape(role)}" y="{-16 - 15 * lift}">{escape(role)} {value:.1f}</text>'
        parts.append(
            f'<svg x="{x.percent(value):.2f}%" y="50%" class="ov">{MARKS.get(role, _CIRCLE)}{label}</svg>'
        )
    return Markup("".join(parts) + "</svg>")


def _lifts(places: Sequence[float]) -> list[int]:
    """Return in which row above the scale each label stands, so that neighbours do not overlap."""
    rows: list[int] = []
    for number, place in enumerate(places):
        taken = {row for other, row in zip(places, rows, strict=False) if place - other < _LABEL_WIDTH}
        rows.append(next(row for row in range(number + 1) if row not in taken))
    return rows


_CIRCLE = '<circle class="mk r-student" r="6"/>'
MARKS = {
    "teacher": '<path class="mk r-teacher" d="M0-7L6 5H-6Z"/>',
    "control": '<rect class="mk r-control" x="-5" y="-5" width="10" height="10"/>',
}
"""Marks of the roles other than the student's circle."""
