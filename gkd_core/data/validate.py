"""Compares the annotations with the pictures, clips boxes, reports flaws; `picture_inspection` reads the pictures.

The picture's header takes precedence. Where EXIF rotates a picture by 90 degrees and the declared size is that of the
stored pixels, its annotations are rotated too; another declared size only causes a remark, and its boxes are taken to
be in pixels of the true picture. Boxes under one pixel are kept here and left out in training.
"""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Collection, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from gkd_core.data.bit_depth import FULL, white_for
from gkd_core.data.findings import Findings, few
from gkd_core.data.folders import dead_link_above
from gkd_core.data.picture_inspection import (
    PictureFile,
    brightest,
    deep_sample,
    inspect_headers,
    with_decoded,
)
from gkd_core.data.records import ImageRecord, Split, WrittenImage, WrittenSplit
from gkd_core.errors import DataError, Problem

DETECTIONS = 100
"""Detections of a picture that COCO's AP counts."""

Boxes = NDArray[np.float64]

_LOOK_AT_BOXES = (
    "Look at some of them with their boxes. If the boxes do not fit, save the pictures turned and without the EXIF "
    "tag, or draw the boxes again."
)


def validate_split(
    written: WrittenSplit,
    classes: tuple[str, ...],
    findings: Findings,
    *,
    headers: int | None = None,
    decode: bool = False,
    broken: Collection[Path] = (),
    white: int | None = None,
) -> Split:
    """Return the split as records, with labels that follow `classes`; arguments as in `reading.load`.

    Raises:
        DataError: pictures are missing or unreadable, or there is not one box.
    """
    _refuse_missing(written, findings)
    paths = [image.path for image in written.images]
    files = inspect_headers(written.images, headers)
    _refuse_unreadable([file.unreadable for file in files if file.unreadable], findings)
    sample = deep_sample(files)
    told = brightest(paths, sample)
    white = white or (white_for(told) if told else None)
    wanted = [at for at, file in enumerate(files) if file.seen] if decode else sample
    files = with_decoded(paths, files, wanted, white)
    files = [
        file._replace(broken=path.name) if path in broken else file if decode else file._replace(broken="")
        for path, file in zip(paths, files, strict=True)
    ]
    _remark_on_depth(paths, files, white, findings)
    position = {name: label for label, name in enumerate(classes, start=1)}
    label_of = np.array([0, *(position[name] for name in written.classes)], dtype=np.int64)
    records = []
    for number, (image, file) in enumerate(zip(written.images, files, strict=True), start=1):
        for remark in file.remarks:
            findings.add(image.path.name, f"picture {remark}")
        if file.broken:
            findings.add(file.broken, "picture left out: it cannot be decoded", "Copy or download it again.")
        else:
            records.append(replace(_record(number, image, file, label_of, findings), white=white))
    _refuse_empty(records, findings)
    _remark_on_classes(records, classes, findings)
    left_out = [image.path for image, file in zip(written.images, files, strict=True) if file.broken]
    return Split(classes, tuple(records), tuple(left_out))


# ---- files -----------------------------------------------------------------------------------------------


def _refuse_missing(written: WrittenSplit, findings: Findings) -> None:
    missing = [image.path for image in written.images if not os.path.exists(image.path)]
    if not missing:
        return
    loc = ("data", findings.split, "images")
    if not written.folder.is_dir():
        raise DataError([Problem(loc=loc, message=f"no such folder of pictures: {written.folder}")])
    names = [os.path.relpath(path, written.folder) for path in missing]
    message = f"missing in {written.folder}: {len(missing)} of {len(written.images)} pictures ({few(names)})"
    raise DataError([Problem(loc=loc, message=message, hint=_missing_hint(missing))])


def _missing_hint(missing: Sequence[Path]) -> str:
    """Return a file whose name differs only in case, separators or Unicode normalisation of accents, if any."""
    for path in missing[:20]:
        if link := dead_link_above(path):
            return f"{link} is a link that leads nowhere."
        name = path.name.replace("\\", "/").rpartition("/")[2]
        siblings = path.parent.iterdir() if path.parent.is_dir() else iter(())
        for sibling in siblings:
            if _folded(sibling.name) == _folded(name):
                return (
                    f"{path.name!r} may be {sibling.name!r}: case, separators and accents must match exactly."
                )
    return "Names are relative to the folder of pictures; is it the right one, and complete?"


def _folded(name: str) -> str:
    return unicodedata.normalize("NFC", name).casefold()


def _remark_on_depth(
    paths: Sequence[Path], files: Sequence[PictureFile], white: int | None, findings: Findings
) -> None:
    for path, file in zip(paths, files, strict=True):
        if file.undeclared and white not in (None, FULL):
            message = f"pictures of more than 8 bits do not use all of them; {white} is taken as white in all"
            findings.add(path.name, message)
        if file.flat:
            hint = "Is it the right file? What uses a small part of 16 or 32 bits needs its contrast stretched first."
            findings.add(path.name, "picture shows nothing: it is nearly constant, of one colour", hint)


def _refuse_unreadable(messages: Sequence[str], findings: Findings) -> None:
    if messages:
        message = f"pictures that cannot be read ({len(messages)}): {'; '.join(messages[:20])}"
        message += f"; and {len(messages) - 20} more" if len(messages) > 20 else ""
        hint = "Mend these files, or take them out of the annotations."
        raise DataError([Problem(loc=("data", findings.split, "images"), message=message, hint=hint)])


# ---- boxes -----------------------------------------------------------------------------------------------


def _record(
    number: int,
    image: WrittenImage,
    file: PictureFile,
    label_of: NDArray[np.int64],
    findings: Findings,
) -> ImageRecord:
    size = file.size
    assert size is not None  # the header of a picture without a declared size is always read
    boxes = np.array([item.box for item in image.objects], dtype=np.float64).reshape(-1, 4)
    area = np.array([item.area for item in image.objects], dtype=np.float32)
    if image.fractions:
        boxes, area = boxes * [*size, *size], area * np.float32(size[0] * size[1])
    boxes = _in_frame(boxes, image, size, file.orientation, findings)
    clipped = np.clip(boxes, 0, np.array([*size, *size], dtype=np.float64)).astype(np.float32)
    labels = label_of[[item.label for item in image.objects]] if image.objects else label_of[:0]
    if image.fractions:  # what was clipped away has no area left
        area = np.minimum(area, (clipped[:, 2:] - clipped[:, :2]).prod(axis=1))
    keep = _usable(image, boxes, clipped, labels, findings)
    return ImageRecord(
        image_id=number,
        path=image.path,
        width=size[0],
        height=size[1],
        boxes=clipped[keep],
        labels=labels[keep],
        crowd=np.array([item.crowd for item in image.objects], dtype=np.bool_)[keep],
        area=area[keep],
        truncated=sum(image.objects[index].truncated for index in keep),
        source_id=image.image_id,
    )


def _in_frame(
    boxes: Boxes, image: WrittenImage, size: tuple[int, int], orientation: int, findings: Findings
) -> Boxes:
    """Return the boxes in the frame of the picture as displayed."""
    if len(boxes) and orientation != 1 and not _frame_is_told(image, size, orientation):
        message = (
            "pictures are turned by EXIF, and nothing tells in which frame their boxes were drawn; taken to be that "
            "of the turned picture, as people see it"
        )
        findings.add(image.path.name, message, _LOOK_AT_BOXES)
    if image.size is None or image.size == size:
        return boxes
    if image.size == size[::-1] and orientation >= 5:
        message = (
            "annotations count in the stored pixels, before EXIF rotation; their boxes were turned along"
        )
        findings.add(image.path.name, message)
        return turned(boxes, orientation, size)
    message = (
        "declared width and height are not the picture's; the picture's were taken, boxes left as they are"
    )
    findings.add(f"{image.path.name} declares {image.size[0]} x {image.size[1]}", message)
    return boxes


def _frame_is_told(image: WrittenImage, size: tuple[int, int], orientation: int) -> bool:
    """Return whether a declared size settles the frame, which it cannot for rotations by 0 or 180 degrees."""
    tells = orientation < 5 or size[0] != size[1]
    return tells and image.size in (size, size[::-1])


def turned(boxes: Boxes, orientation: int, size: tuple[int, int]) -> Boxes:
    """Return boxes of the stored pixels in the frame that EXIF rotates them to.

    Args:
        boxes: (N, 4).
        orientation: EXIF's, 5 to 8: those that exchange the axes.
        size: width and height after turning.
    """
    x1, y1, x2, y2 = boxes[:, [1, 0, 3, 2]].T
    if orientation in (6, 7):
        x1, x2 = size[0] - x2, size[0] - x1
    if orientation in (7, 8):
        y1, y2 = size[1] - y2, size[1] - y1
    return np.stack([x1, y1, x2, y2], axis=1)


def _usable(
    image: WrittenImage,
    boxes: Boxes,
    clipped: NDArray[np.float32],
    labels: NDArray[np.int64],
    findings: Findings,
) -> list[int]:
    """Return the indices of the boxes to keep; remarks on the others go to the findings."""
    sides = clipped[:, 2:] - clipped[:, :2]
    units = not image.fractions  # else hints about units would mislead
    out = np.abs(boxes - clipped).max(axis=1, initial=0) > 1  # a pixel of rounding needs no remark
    seen: set[tuple[float, ...]] = set()
    places: set[tuple[float, ...]] = set()
    keep = []
    for index, item in enumerate(image.objects):
        place = tuple(clipped[index].tolist())
        key = (*place, int(labels[index]), item.crowd)
        if (sides[index] <= 0).any():
            findings.add(item.name, "box left out: it lies outside the picture")
        elif key in seen:
            findings.add(item.name, "box left out: it repeats another box of its class")
        else:
            keep.append(index)
            if place in places and not item.crowd:
                findings.add(item.name, "box lies exactly on another one of another class; both are kept")
            if out[index]:
                hint = "If these are many: COCO boxes are x, y, width, height, not corners." * units
                findings.add(item.name, "box sticks out of the picture; clipped", hint)
            if (sides[index] < 1).any():
                hint = "If these are many: boxes are in pixels, not fractions of the picture." * units
                findings.add(item.name, "box is under one pixel; of no use in training", hint)
            places.add(place)
        seen.add(key)
    if len(keep) > DETECTIONS:
        message = (
            f"picture has more than {DETECTIONS} boxes, but COCO AP counts {DETECTIONS} detections a picture"
        )
        findings.add(f"{image.path.name} has {len(keep)}", message)
    return keep


# ---- the whole split ---------------------------------------------------------------------------------------


def _refuse_empty(records: Sequence[ImageRecord], findings: Findings) -> None:
    if not records:
        raise findings.error("no picture is left that can be used")
    boxes = sum(len(record.boxes) for record in records)
    if boxes == 0:
        reasons = "".join(f"; {remark}" for remark in findings.remarks()[:3])
        message = f"there is not one usable box on {len(records)} pictures{reasons}"
        raise findings.error(message, "Is this the right file?")
    if all(record.crowd.all() for record in records):
        message = "every box is a crowd region or difficult: there is nothing to learn and nothing to find"
        findings.add(f"{boxes} boxes", message)


def _remark_on_classes(records: Sequence[ImageRecord], classes: tuple[str, ...], findings: Findings) -> None:
    used = set(np.concatenate([record.labels for record in records]).tolist())
    for label, name in enumerate(classes, start=1):
        if label not in used:
            findings.add(name, "class without a box; its AP cannot be told")
