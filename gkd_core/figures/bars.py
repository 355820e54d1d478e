"""Bar chart of the AP of every class, one bar for each model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from gkd_core.figures.curves import DPI, HEAD, head, rendered
from gkd_core.figures.style import LOOKS, at_most, chart_style, shown

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MOST = 120
"""Largest number of classes shown: more would be unreadable."""
WRITTEN_UP_TO = 24
"""Largest number of classes with values written beside the bars."""
COLUMN = 40
"""Classes in a column of the chart."""
ENDS = (0.05, 0.1, 0.25, 0.5, 1.0)
"""Possible ends of the axis: the smallest that holds all bars."""
LETTERS = 30
"""Letters of a class name that are shown."""


def draw_class_bars(
    per_class: Mapping[str, Mapping[str, float]], classes: Sequence[str], objects: Sequence[int]
) -> Image.Image | None:
    """Draw the bars, the class with the highest AP of the last model on top.

    Args:
        per_class: by role, AP by class name; -1 where the validation split has no object of the class.
        classes: names in label order.
        objects: of each class in the validation split.
    """
    from matplotlib.figure import Figure

    roles = [role for role in LOOKS if role in per_class]
    order = _order(per_class, roles, classes)
    if not order:
        return None
    columns = [
        order[start : start + _column(len(order))] for start in range(0, len(order), _column(len(order)))
    ]
    rows = len(columns[0])
    written = len(order) <= WRITTEN_UP_TO
    highest = max(per_class[role].get(classes[index], 0) for role in roles for index in order)
    end = next(end for end in ENDS if end >= min(highest, 1))
    each = (0.16 if written else 0.1) * len(roles) + 0.12  # inches of height a class
    with chart_style():
        figure = Figure(
            figsize=(5.8 * len(columns) + 1.0, rows * each + 1.1 + HEAD), dpi=DPI, layout="constrained"
        )
        for position, part in enumerate(columns):
            axes = figure.add_subplot(1, len(columns), position + 1)
            _draw_part(axes, part, rows, roles, per_class, classes, objects, end=end, written=written)
        said = _explanation(len(order), sum(count > 0 for count in objects), len(classes))
        head(figure, figure.axes[:1], "AP of each class", said)
        return rendered(figure)


def _column(count: int) -> int:
    """Return the number of classes in a column, for columns of similar length."""
    return -(-count // -(-count // COLUMN))


def _order(
    per_class: Mapping[str, Mapping[str, float]], roles: Sequence[str], classes: Sequence[str]
) -> list[int]:
    """Return positions of the classes to show, the highest AP first.

    Of too many, those on which the models differ most.
    """
    known = [index for index, name in enumerate(classes) if per_class[roles[-1]].get(name, -1) >= 0]
    if len(known) > MOST:
        spread = {i: np.ptp([per_class[role].get(classes[i], -1) for role in roles[-2:]]) for i in known}
        known = sorted(known, key=lambda index: -spread[index])[:MOST]
    return sorted(known, key=lambda index: -per_class[roles[-1]][classes[index]])


def _draw_part(
    axes: Axes,
    part: Sequence[int],
    rows: int,
    roles: Sequence[str],
    per_class: Mapping[str, Mapping[str, float]],
    classes: Sequence[str],
    objects: Sequence[int],
    *,
    end: float,
    written: bool,
) -> None:
    """Draw one column of classes; `end` is the end of the axis."""
    height = 0.8 / len(roles)
    for position, role in enumerate(roles):
        look = LOOKS[role]
        values = [max(per_class[role].get(classes[index], 0), 0) for index in part]
        places = np.arange(len(part)) + (position - (len(roles) - 1) / 2) * height
        bars = axes.barh(
            places,
            values,
            height * 0.92,
            color=look.colour,
            hatch=look.hatch,
            edgecolor="white",
            linewidth=0,
            label=role,
        )
        if written:
            axes.bar_label(bars, [f"{value:.3f}" for value in values], padding=3, fontsize=8)
    names = [f"{at_most(shown(classes[i], i + 1), LETTERS)} ({objects[i]})" for i in part]
    axes.set_yticks(range(len(part)), names, color="black")
    axes.set_ylim(rows - 0.5, -0.5)
    axes.set_xlim(0, (1.12 if written else 1) * end)
    axes.set_xticks(np.linspace(0, end, 6))
    axes.set_xlabel("AP, 0 to 1")
    axes.grid(visible=False, axis="y")


def _explanation(count: int, known: int, classes: int) -> str:
    told = "in brackets: objects in the validation split"
    if count < known:
        told += f"; the {count} of {known} classes on which the models differ most"
    if known < classes:
        told += f"; {classes - known} classes have no object there"
    return told
