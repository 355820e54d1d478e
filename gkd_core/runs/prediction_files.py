"""Result files of `gkd predict`: detections in formats that other programs read. No torch here.

json  predictions.json: COCO's results, with file and class by name beside the ids
coco  predictions.json: the same with COCO's own fields alone
csv   predictions.csv: one line a detection, corners in pixels
txt   one file a picture, as YOLO's labels: class from 0, centre and size as shares of the picture; classes.txt
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from gkd_core.data.coco_ids import ImageId
from gkd_core.run_dir import write_atomically

FORMS = ("json", "coco", "csv", "txt")
RESULTS = "predictions.json"
COCO_FIELDS = ("image_id", "category_id", "bbox", "score")
COLUMNS = (
    "file_name",
    "width",
    "height",
    "image_id",
    "category_id",
    "category",
    "score",
    "x1",
    "y1",
    "x2",
    "y2",
)


class Prediction(NamedTuple):
    """The detections on an image."""

    file: Path
    image_id: ImageId
    image: Image.Image
    """The image, upright and in full size."""
    boxes: NDArray[Any]
    """(N, 4) in its pixels."""
    labels: NDArray[np.int64]
    scores: NDArray[np.float32]
    file_name: str = ""
    """Name in its data set; empty: the file's own name."""


class PredictionFiles:
    """Collects predictions and writes them.

    Args:
        form: one of `FORMS`.
        out: folder to write to.
        classes: names; label 1 is the first.
        category_ids: ids by class name; a class without an id gets its label.
    """

    def __init__(self, form: str, out: Path, classes: Sequence[str], category_ids: Mapping[str, int]) -> None:
        self._form = form
        self._out = out
        self._classes = classes
        self._ids = _complete(category_ids, classes)
        self._results: list[dict[str, Any]] = []
        self._taken = {"classes.txt"}

    def add(self, found: Prediction) -> None:
        """Add the detections of an image; YOLO label files are written at once."""
        if self._form == "txt":
            name = unique(found.file.stem, ".txt", self._taken)
            write_atomically(self._out / name, "".join(yolo_lines(found)).encode())
        else:
            self._results += coco_results(found, self._classes, self._ids)

    def end(self) -> None:
        """Write what was collected."""
        if self._form == "txt":
            write_atomically(
                self._out / "classes.txt", "".join(f"{name}\n" for name in self._classes).encode()
            )
        elif self._form == "csv":
            write_atomically(self._out / "predictions.csv", _csv(self._results).encode())
        else:
            kept = COCO_FIELDS if self._form == "coco" else (*COCO_FIELDS, "file_name", "category")
            rows = [{field: each[field] for field in kept} for each in self._results]
            write_atomically(self._out / RESULTS, json.dumps(rows, ensure_ascii=False).encode())


def _complete(ids: Mapping[str, int], classes: Sequence[str]) -> dict[str, int]:
    """Return an id for each class: one without an id gets its label, or, beside known ids, a number above them."""
    if not any(name in ids for name in classes):
        return {name: label for label, name in enumerate(classes, start=1)}
    above = max(ids.values())
    return {name: ids.get(name, above + label) for label, name in enumerate(classes, start=1)}


def unique(stem: str, suffix: str, taken: set[str]) -> str:
    """Return a file name that is not in `taken` (lower case), and add it."""
    number, name = 1, f"{stem}{suffix}"
    while name.casefold() in taken:
        number += 1
        name = f"{stem}-{number}{suffix}"
    taken.add(name.casefold())
    return name


def coco_results(
    found: Prediction, classes: Sequence[str], category_ids: Mapping[str, int]
) -> Iterator[dict[str, Any]]:
    """Yield detections in the form of COCO's results, with file, size and class by name beside it."""
    for (x1, y1, x2, y2), label, score in zip(found.boxes, found.labels, found.scores, strict=True):
        category = classes[int(label) - 1]
        yield {
            "image_id": found.image_id,
            "category_id": category_ids[category],
            "bbox": [float(x1), float(y1), float(x2 - x1), float(y2 - y1)],
            "score": float(score),
            "file_name": found.file_name or found.file.name,
            "category": category,
            "width": found.image.width,
            "height": found.image.height,
        }


def yolo_lines(found: Prediction) -> Iterator[str]:
    """Yield a line for each detection: class from 0, centre x and y, width and height as shares of the image."""
    size = np.array([found.image.width, found.image.height] * 2)
    for box, label in zip(found.boxes, found.labels, strict=True):
        x1, y1, x2, y2 = np.clip(box / size, 0, 1)
        yield f"{int(label) - 1} {(x1 + x2) / 2:.6f} {(y1 + y2) / 2:.6f} {x2 - x1:.6f} {y2 - y1:.6f}\n"


def _csv(results: Sequence[Mapping[str, Any]]) -> str:
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, COLUMNS, extrasaction="ignore")
    writer.writeheader()
    for each in results:
        x, y, width, height = each["bbox"]
        corners = {"x1": x, "y1": y, "x2": x + width, "y2": y + height}
        writer.writerow({**each, **{name: f"{value:.2f}" for name, value in corners.items()}})
    return buffer.getvalue()
