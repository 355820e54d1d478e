"""Images with the boxes of the annotations and of every model, side by side."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from PIL import Image

from gkd_core.data.records import ImageRecord
from gkd_core.evaluation.coco import Score
from gkd_core.evaluation.voc import Matches, best_threshold
from gkd_core.figures.boxes import (
    FALSE_ALARM,
    HIT,
    IGNORED,
    MISSED,
    TRUTH,
    Box,
    Drawn,
    outline,
    with_boxes,
)
from gkd_core.figures.gallery import Open
from gkd_core.figures.sheet import MARGIN, Sheet, font
from gkd_core.figures.style import DIM, LOOKS, at_most, shown

UNLIKE, TYPICAL = 3, 3
"""Number of images of either kind: where models differ most, and typical ones."""
WIDEST, TALLEST, NARROWEST = 360, 300, 240
"""Pixels: of a picture on the sheet, and of its column."""
GAP, CAPTION, HEADER = 10, 26, 30
NAME_LETTERS = 14


class Found(NamedTuple):
    """The detections of a model on the split, at one score threshold."""

    role: str
    score: Score
    threshold: float

    @classmethod
    def of(cls, role: str, score: Score) -> Found:
        """Return the detections at the threshold with the highest F1 of this model."""
        return cls(role, score, best_threshold(score.matches))


def draw_pictures(
    scores: Mapping[str, Score], classes: Sequence[str], images: Sequence[ImageRecord], opened: Open
) -> Image.Image | None:
    """Draw images of the validation split: annotations, teacher, control, student.

    Args:
        scores: by role.
        classes: in label order.
        images: the validation split.
        opened: opens one of them.
    """
    models = [Found.of(role, scores[role]) for role in LOOKS if role in scores]
    chosen = choose_pictures(models, images)
    if not chosen:
        return None
    sizes = [_size_on_sheet(images[at]) for at, _ in chosen]
    width, height = max(NARROWEST, *(w for w, _ in sizes)) + GAP, max(h for _, h in sizes) + CAPTION + GAP
    sheet = Sheet(
        2 * MARGIN + (1 + len(models)) * width - GAP,
        HEADER + len(chosen) * height + MARGIN,
        "The same pictures through every model",
        [
            "Each model at the score where precision and recall over the split balance best (F1), overlap 0.5.",
            "",
        ],
    )
    _lay_legend(sheet, sheet.top - 22)
    titles = ["annotations", *(f"{model.role}, score at least {model.threshold:.2f}" for model in models)]
    for column, title in enumerate(titles):
        sheet.write(MARGIN + column * width, sheet.top + 8, title, size=14, bold=True, width=width - GAP)
    for row, (at, why) in enumerate(chosen):
        y = sheet.top + HEADER + row * height
        sheet.write(MARGIN, y + 5, f"{shown(images[at].path.name)}: {why}", colour=DIM)
        seen = _panels(opened(images[at].path, images[at].white), at, images[at], models, classes)
        for column, picture in enumerate(seen):
            sheet.paste(picture, MARGIN + column * width, y + CAPTION)
    return sheet.image


# ---- choosing images -------------------------------------------------------------------------------------


def choose_pictures(models: Sequence[Found], images: Sequence[ImageRecord]) -> list[tuple[int, str]]:
    """Choose positions of images, with a reason: where the models differ most, then typical ones.

    Student and control are compared if both exist; else the images where the last model does worst are taken.
    """
    f1 = {model.role: _f1(model, images) for model in models}
    own = f1[models[-1].role]
    usable = np.flatnonzero(~np.isnan(own))
    if not len(usable):
        return []
    rival = f1.get("control")
    distance = np.abs(own - rival) if rival is not None and "student" in f1 else 1 - own
    by_distance = usable[np.argsort(-distance[usable], kind="stable")]
    unlike = [int(at) for at in by_distance[:UNLIKE] if distance[at] > 0]
    by_typical = usable[np.argsort(np.abs(own - np.median(own[usable]))[usable], kind="stable")]
    typical = [int(at) for at in by_typical if at not in unlike][:TYPICAL]
    told = {at: ", ".join(f"{role} F1 {_rounded(f1[role][at])}" for role in f1) for at in (*unlike, *typical)}
    first = "student and control differ much here" if rival is not None and "student" in f1 else "hard"
    return [(at, f"{first} ({told[at]})") for at in unlike] + [
        (at, f"typical ({told[at]})") for at in typical
    ]


def _f1(model: Found, images: Sequence[ImageRecord]) -> np.ndarray:
    """Return (images,) the F1 on each image; NaN where there is no object and no detection."""
    matches = model.score.matches
    counted = ~matches.ignored & (matches.scores >= model.threshold)
    found = np.bincount(matches.picture[counted], minlength=len(images))
    hits = np.bincount(matches.picture[counted & matches.hit], minlength=len(images))
    objects = np.array([(~image.crowd).sum() for image in images])
    scores: np.ndarray = np.divide(
        2 * hits, found + objects, out=np.full(len(images), np.nan), where=found + objects > 0
    )
    return scores


def _rounded(value: float) -> str:
    return "-" if np.isnan(value) else f"{value:.2f}"


# ---- drawing ---------------------------------------------------------------------------------------------


def _lay_legend(sheet: Sheet, y: int) -> None:
    x = MARGIN
    kinds = (
        (TRUTH, "object"),
        (HIT, "hit"),
        (FALSE_ALARM, "false alarm"),
        (MISSED, "missed"),
        (IGNORED, "not counted"),
    )
    for colour, name in kinds:
        outline(sheet.draw, (x, y, x + 34, y + 15), colour)
        sheet.write(x + 42, y, name)
        x += 42 + round(font(13).getlength(name)) + 26


def _size_on_sheet(image: ImageRecord) -> tuple[int, int]:
    """Return width and height in pixels."""
    scale = _scale(image)
    return max(1, round(image.width * scale)), max(1, round(image.height * scale))


def _scale(image: ImageRecord) -> float:
    return min(WIDEST / image.width, TALLEST / image.height)


def _panels(
    picture: Image.Image, at: int, image: ImageRecord, models: Sequence[Found], classes: Sequence[str]
) -> Iterator[Image.Image]:
    """Yield an image with its objects, and then with the detections of each model."""
    small = picture.resize(_size_on_sheet(image), Image.Resampling.LANCZOS, reducing_gap=3.0)
    yield with_boxes(small, objects_of(image, classes), _scale(image))
    for model in models:
        yield with_boxes(small, found_on(model, at, image, classes), _scale(image))


def objects_of(image: ImageRecord, classes: Sequence[str]) -> list[Drawn]:
    """Return the annotated boxes."""
    return [
        Drawn(_corners(box), IGNORED if crowd else TRUTH, _class_name(classes, label))
        for box, label, crowd in zip(image.boxes, image.labels, image.crowd, strict=True)
    ]


def found_on(model: Found, at: int, image: ImageRecord, classes: Sequence[str]) -> list[Drawn]:
    """Return a model's detections on an image, the highest score first, and the objects that it missed.

    `at` is the position of the image in the split.
    """
    matches = model.score.matches
    own = np.flatnonzero((matches.picture == at) & (matches.scores >= model.threshold))
    boxes = model.score.detections[image.image_id]["boxes"] if len(own) else ()
    found = [
        Drawn(
            _corners(boxes[matches.row[d]]),
            _colour(matches, int(d)),
            f"{_class_name(classes, matches.labels[d])} {matches.scores[d]:.2f}",
        )
        for d in own
    ]
    taken = set(matches.truth[own[matches.hit[own]]].tolist())
    missed = [row for row in np.flatnonzero(~image.crowd) if row not in taken]
    return found + [Drawn(_corners(image.boxes[row]), MISSED, "") for row in missed]


def _colour(matches: Matches, detection: int) -> str:
    if matches.ignored[detection]:
        return IGNORED
    return HIT if matches.hit[detection] else FALSE_ALARM


def _class_name(classes: Sequence[str], label: int) -> str:
    return at_most(shown(classes[label - 1], int(label)), NAME_LETTERS)


def _corners(box: np.ndarray) -> Box:
    x1, y1, x2, y2 = box.tolist()
    return x1, y1, x2, y2
