"""Galleries of objects: the prototypes, and the objects of lowest robustness."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from PIL import Image

from gkd_core.data.records import ImageRecord
from gkd_core.figures.sheet import MARGIN, Sheet, tile
from gkd_core.figures.style import DIM, PALE, shown

ROWS = 24
"""Largest number of rows of prototypes: with more, one level of each class is shown, and of very many classes not
all."""
COLUMNS = 10
"""Prototypes in a row; the published number."""
SIDE, GAP, CAPTION, LABEL = 88, 8, 20, 150
"""Pixels: of a prototype, between two, below them, and left of a row."""
CONTEXT = 0.15
"""Margin around an object, as a share of its longer side."""

OUTLIER_SIDE, OUTLIER_COLUMNS, OUTLIER_CAPTION, OUTLIER_CONTEXT = 168, 6, 58, 0.5

Entry = Mapping[str, Any]
"""An object as in `{run}-prototypes.json`: class, image_id, file, box, and share or robustness."""
Open = Callable[[Path, int | None], Image.Image]
"""Opens an image, perhaps smaller than its file, by path and by the value of white."""


class Cuttings:
    """Crops objects out of images.

    Args:
        images: records of the images that contain the objects.
        opened: opens an image.
    """

    def __init__(self, images: Sequence[ImageRecord], opened: Open) -> None:
        self._records = {image.told_id: image for image in images}
        self._opened = opened

    def cut(self, entry: Entry, side: int, *, around: float) -> Image.Image:
        """Return an object on a square of `side` pixels, as in `tile`; its box is in pixels of the whole image."""
        record = self._records[entry["image_id"]]
        picture = self._opened(record.path, record.white)
        x, y = picture.width / record.width, picture.height / record.height
        x1, y1, x2, y2 = entry["box"]
        return tile(picture, (x1 * x, y1 * y, x2 * x, y2 * y), side, around=around)


class _Row(NamedTuple):
    """Prototypes of a class on a level, those that explain most first."""

    name: str
    level: str
    entries: Sequence[Entry]


# ---- prototypes ------------------------------------------------------------------------------------------


def draw_prototypes(
    told: Mapping[str, Any], classes: Sequence[str], cuttings: Cuttings
) -> Image.Image | None:
    """Draw the prototypes of every class and level, cropped from their images, with their explained shares.

    Args:
        told: content of `{run}-prototypes.json`.
        classes: in label order.
        cuttings: of the training split.
    """
    rows = _rows(told["levels"], classes)
    if not rows:
        return None
    chosen, said = _chosen(rows)
    columns = max(len(row.entries[:COLUMNS]) for row in chosen)
    width = max(2 * MARGIN + LABEL + columns * (SIDE + GAP), 720)
    lines = [
        "Cut out of training pictures. Below each: the share of what teacher and student see in its class",
        f"that no other prototype explains. {said}",
    ]
    title = f"Prototypes{_epoch_text(told)}"
    sheet = Sheet(width, len(chosen) * (SIDE + CAPTION + GAP) + MARGIN, title, lines)
    for position, row in enumerate(chosen):
        begins = position == 0 or chosen[position - 1].name != row.name
        name = shown(row.name, classes.index(row.name) + 1) if begins else ""
        _lay_row(sheet, sheet.top + position * (SIDE + CAPTION + GAP), name, row, cuttings)
    return sheet.image


def _epoch_text(told: Mapping[str, Any]) -> str:
    """Return when the prototypes were selected; empty without training, or before it."""
    return f", after epoch {told['epoch']}" if told["epoch"] else ""


def _rows(levels: Mapping[str, Sequence[Entry]], classes: Sequence[str]) -> list[_Row]:
    """Return the rows class by class, and level by level in each."""
    rows = []
    for name in classes:
        for level, entries in levels.items():
            own = sorted((e for e in entries if e["class"] == name), key=lambda entry: -entry.get("share", 0))
            if own:
                rows.append(_Row(name, level, own))
    return rows


def _chosen(rows: Sequence[_Row]) -> tuple[Sequence[_Row], str]:
    """Return as many rows as a figure holds, and a note about the others."""
    if len(rows) <= ROWS:
        return rows, ""
    best: dict[str, _Row] = {}
    for row in rows:
        if row.name not in best or _explained(row) > _explained(best[row.name]):
            best[row.name] = row
    said = "Of each class that level where these shares are largest"
    if len(best) > ROWS:
        said += f"; the first {ROWS} of {len(best)} classes"
    return list(best.values())[:ROWS], f"{said}."


def _explained(row: _Row) -> float:
    return sum(float(entry.get("share", 0)) for entry in row.entries)


def _lay_row(sheet: Sheet, y: int, name: str, row: _Row, cuttings: Cuttings) -> None:
    """Draw name and level, then the prototypes."""
    if name:
        sheet.draw.line((MARGIN, y - 6, sheet.image.width - MARGIN, y - 6), fill=PALE, width=2)
        sheet.write(MARGIN, y + 2, name, size=14, bold=True, width=LABEL - 10)
    sheet.write(MARGIN, y + 24, f"stride {row.level}", colour=DIM, width=LABEL - 10)
    if len(row.entries) > COLUMNS:
        sheet.write(MARGIN, y + 44, f"{COLUMNS} of {len(row.entries)}", size=12, colour=DIM)
    for column, entry in enumerate(row.entries[:COLUMNS]):
        x = MARGIN + LABEL + column * (SIDE + GAP)
        sheet.paste(cuttings.cut(entry, SIDE, around=CONTEXT), x, y)
        if "share" in entry:
            sheet.write(x + SIDE // 2, y + SIDE + 3, _percent(entry["share"]), align="m", width=SIDE)


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %" if share >= 0.0005 else "under 0.1 %"


# ---- outliers --------------------------------------------------------------------------------------------


def draw_outliers(told: Mapping[str, Any], classes: Sequence[str], cuttings: Cuttings) -> Image.Image | None:
    """Draw the objects whose robustness is lowest, lowest first, with some of their surroundings.

    Args:
        told: content of `{run}-prototypes.json`.
        classes: in label order.
        cuttings: of the training split.
    """
    entries = told.get("least_alike", [])
    if not entries:
        return None
    columns = min(OUTLIER_COLUMNS, len(entries))
    rows = -(-len(entries) // columns)
    width = max(2 * MARGIN + columns * (OUTLIER_SIDE + GAP), 760)
    lines = [
        "Training objects of the lowest robustness: 1 - |likeness to a prototype in the student - in the teacher|.",
        "Distillation leans on these least. A wrong box, blur, or an object that is hardly to be seen?",
    ]
    title = f"What teacher and student see least alike{_epoch_text(told)}"
    sheet = Sheet(width, rows * (OUTLIER_SIDE + OUTLIER_CAPTION) + MARGIN, title, lines)
    for position, entry in enumerate(entries):
        x = MARGIN + position % columns * (OUTLIER_SIDE + GAP)
        y = sheet.top + position // columns * (OUTLIER_SIDE + OUTLIER_CAPTION)
        _lay_outlier(sheet, x, y, entry, classes, cuttings)
    return sheet.image


def _lay_outlier(
    sheet: Sheet, x: int, y: int, entry: Entry, classes: Sequence[str], cuttings: Cuttings
) -> None:
    sheet.paste(cuttings.cut(entry, OUTLIER_SIDE, around=OUTLIER_CONTEXT), x, y)
    name = shown(entry["class"], classes.index(entry["class"]) + 1)
    sheet.write(x, y + OUTLIER_SIDE + 4, f"{entry['robustness']:.3f}  {name}", bold=True, width=OUTLIER_SIDE)
    below = f"stride {entry['level']}  {shown(entry['file'])}"
    sheet.write(x, y + OUTLIER_SIDE + 23, below, size=11, colour=DIM, width=OUTLIER_SIDE)
