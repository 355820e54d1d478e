"""A file of YOLO labels: one line an object, its class and then fractions of the picture.

Five numbers are a box; a line of three points or more is a polygon, whose bounding box is taken.
"""

from __future__ import annotations

import errno
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from gkd_core.data.findings import Findings, few
from gkd_core.data.records import WrittenObject
from gkd_core.errors import DISK_AND_NETWORK
from gkd_core.process.named_files import read_named

MAX_BYTES = 16 * 1024**2
"""Largest size of one file of labels."""
NO_FILE = (errno.ENOENT, errno.ENOTDIR, errno.ENAMETOOLONG)
REACH = 1.0
"""How far a fraction may lie beyond 0 or 1. Corners of rotated boxes, outlines and boxes of truncated objects reach
over the border, and their bounds are clipped; larger values are no fractions but pixels."""


class UnusableLabels(Exception):
    """Raised when one file of labels, or one line of it, cannot be used; says why."""


class LabelContext(NamedTuple):
    """The data needed to read a line."""

    label_of: Mapping[int, int]
    """Labels by the class numbers of the files."""
    names: Mapping[int, str]
    known: frozenset[str]
    """The class names."""
    keypoints: bool
    findings: Findings


def read_objects(file: Path, shown: str, labels: LabelContext) -> Iterator[WrittenObject]:
    """Yield the objects of a file of labels, which messages call `shown`; lines left out go to the findings.

    Raises:
        UnusableLabels: the file cannot be read, or is too large.
        DataError: a line can mean several things.
    """
    for number, line in enumerate(_lines(file), start=1):
        name = f"{shown} line {number}"
        if not line.strip():
            continue
        try:
            yield _object(name, line, labels)
        except UnusableLabels as flaw:
            labels.findings.add(name, f"box left out: {flaw}")


def _lines(file: Path) -> list[str]:
    try:
        if file.stat().st_size > MAX_BYTES:
            raise UnusableLabels(f"its labels are larger than {MAX_BYTES} bytes")
        return read_named(file).decode("utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise UnusableLabels("its labels are no text") from error
    except OSError as error:
        if error.errno in NO_FILE and not os.path.islink(file):
            return []
        if error.errno in DISK_AND_NETWORK:
            raise
        raise UnusableLabels(f"its labels cannot be read: {error.strerror}") from error


def _object(name: str, line: str, labels: LabelContext) -> WrittenObject:
    if "," in line:
        hint = (
            "Each line is: class, centre x, centre y, width, height, with blanks between and decimal points."
        )
        raise labels.findings.error(f"{name} has commas in or between its numbers", hint)
    columns = line.split()
    if len(columns) < 5:
        raise UnusableLabels("it has fewer than five numbers")
    if labels.keypoints and len(columns) > 5:
        labels.findings.add(name, "key points behind the box are not used")
        columns = columns[:5]
    number, numbers = _class_number(columns[0], labels), [_number(text) for text in columns[1:]]
    label = _label(name, number, labels)
    if len(numbers) == 5:
        labels.findings.add(name, "the sixth number (a score?) is not used")
        numbers = numbers[:4]
    if len(numbers) % 2:
        raise UnusableLabels("its numbers are neither a box nor a polygon")
    if not all(-REACH <= fraction <= 1 + REACH for fraction in numbers):
        raise UnusableLabels("its numbers are no fractions of the picture (0 to 1)")
    if len(numbers) > 4:
        labels.findings.add(name, "polygon; its bounding box was taken")
        return WrittenObject(name, _bounds(numbers), label, False, _polygon_area(numbers))
    return WrittenObject(name, _corners(*numbers), label, False, numbers[2] * numbers[3])


def _class_number(text: str, labels: LabelContext) -> int:
    try:
        number = float(text)
    except ValueError:
        why = "its class is a name" if text in labels.known else "its class is no number"
        raise UnusableLabels(f"{why}; needed: the number that `names` gives it") from None
    if not number.is_integer():
        raise UnusableLabels("its class is no whole number")
    return int(number)


def _label(name: str, number: int, labels: LabelContext) -> int:
    if number not in labels.label_of:
        known = few([f"{key} {text}" for key, text in labels.names.items()])
        message = f"{name} has class {str(number)[:20]}, which `names` does not list ({known})"
        raise labels.findings.error(message, "List the class, or take the line out.")
    return labels.label_of[number]


def _number(text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise UnusableLabels("it has something else than finite numbers")
    return number


def _corners(x: float, y: float, width: float, height: float) -> tuple[float, float, float, float]:
    if width <= 0 or height <= 0:
        raise UnusableLabels("its width or height is not above 0")
    return x - width / 2, y - height / 2, x + width / 2, y + height / 2


def _bounds(points: Sequence[float]) -> tuple[float, float, float, float]:
    return min(points[::2]), min(points[1::2]), max(points[::2]), max(points[1::2])


def _polygon_area(points: Sequence[float]) -> float:
    """Return the area of a polygon (shoelace formula); that of its bounding box where it is folded to nothing."""
    xs, ys = points[::2], points[1::2]
    doubled = sum(xs[i - 1] * ys[i] - xs[i] * ys[i - 1] for i in range(len(xs)))
    x1, y1, x2, y2 = _bounds(points)
    return abs(doubled) / 2 or (x2 - x1) * (y2 - y1)
