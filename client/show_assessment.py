"""All numbers of a report on the terminal: COCO's twelve, classes, best thresholds, confusions, calibration."""

from __future__ import annotations

from collections.abc import Iterator

from rich.console import Group, RenderableType
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from client.report_splits import SplitScores, by_split, confusion_rows
from client.show_report import report as brief
from client.show_text import number
from gkd_core.events import Confusion, Report, Scores

MATRIX_UP_TO = 10
"""Largest number of classes whose confusion matrix is shown whole; of more, the largest confusions are."""
LARGEST = 10
"""Number of confusions that are then shown."""


def complete(report: Report) -> RenderableType:
    """Return the brief report, and below it every number by split."""
    return Group(brief(report), *(part for found in by_split(report) for part in _split(found)))


def _split(found: SplitScores) -> Iterator[RenderableType]:
    yield Text(f"\non {found.split}", style="bold")
    yield _metrics(found)
    yield Text("")
    yield _classes(found)
    role, scores = list(found.models.items())[-1]
    if scores.assessment:
        yield Text("")
        yield _confusion(role, scores.assessment.confusion, found.classes)


def _table(*names: str, left: int) -> Table:
    """Return a table of which the first `left` columns are words and the others numbers."""
    table = Table(box=None, pad_edge=False)
    for name in names:
        table.add_column(name)
    for column in table.columns[left:]:
        column.justify, column.no_wrap = "right", True
    return table


def _metrics(found: SplitScores) -> Table:
    """Return COCO's and VOC's metrics and the calibration error, a column for each model."""
    table = _table("", *found.models, left=1)
    for name in found.metrics:
        table.add_row(name, *(number(scores.metrics.get(name)) for scores in found.models.values()))
    errors = [
        scores.assessment.calibration.error if scores.assessment else None for scores in found.models.values()
    ]
    if any(error is not None for error in errors):
        table.add_row("calibration error", *map(number, errors))
    return table


def _classes(found: SplitScores) -> Table:
    """Return AP of each class and what its best threshold gives, a row for each model."""
    table = _table("class", "model", "AP", "score from", "precision", "recall", "F1", left=2)
    for name in found.classes:
        for position, (role, scores) in enumerate(found.models.items()):
            ap = number(scores.per_class.get(name))
            table.add_row(Text("" if position else name), role, ap, *_best(scores, name))
    return table


def _best(scores: Scores, name: str) -> tuple[str, str, str, str]:
    point = scores.assessment.operating_points.get(name) if scores.assessment else None
    if point is None:
        return ("-",) * 4
    return number(point.threshold), number(point.precision), number(point.recall), number(point.f1)


def _confusion(role: str, confusion: Confusion, classes: tuple[str, ...]) -> Group:
    """Return which classes a model confuses; the background has the last row and column."""
    told = f"{role}, scores from {confusion.threshold:.3f}: annotated in rows, detected in columns"
    if len(classes) > MATRIX_UP_TO:
        return Group(*_largest(role, confusion))
    table = _table("", *map(escape, classes), "background", left=1)
    for name, counts in confusion_rows(confusion, classes):
        label = Text("background" if name is None else name)
        table.add_row(label, *(str(count) if count else "-" for count in counts))
    return Group(Text(told), table)


def _largest(role: str, confusion: Confusion) -> Iterator[Text]:
    """Yield the classes that are confused most often."""
    found = [
        (count, f"{annotated} detected as {detected}")
        for annotated, row in confusion.detected.items()
        for detected, count in row.items()
        if annotated != detected
    ]
    found += [(count, f"{name} missed") for name, count in confusion.missed.items()]
    found += [(count, f"{name} detected where none is") for name, count in confusion.false_alarms.items()]
    yield Text(f"{role}, scores from {confusion.threshold:.3f}: its most frequent errors")
    for count, words in sorted(found, key=lambda entry: -entry[0])[:LARGEST]:
        if count:
            yield Text(f"{count:>7}  {words}")
